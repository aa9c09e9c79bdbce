import dramatiq
from common import URL, main, record
from dramatiq.brokers.redis import RedisBroker

WORKERS = [["dramatiq", "dramatiq_", "-p", "2", "-t", "8"]]
dramatiq.set_broker(RedisBroker(url=URL))


@dramatiq.actor
def job(sent):
    record(sent)


def send():
    main(job.send)
