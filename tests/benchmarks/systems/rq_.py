from common import URL, main, record
from redis import Redis
from rq import Queue

WORKERS = [["rq", "worker", "-u", URL, "-w", "rq.worker.SimpleWorker", "-q"]] * 2


def job(sent):
    record(sent)


def send():
    queue = Queue(connection=Redis.from_url(URL))
    main(lambda sent: queue.enqueue("rq_.job", sent, result_ttl=0))
