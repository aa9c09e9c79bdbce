from common import URL, main, record
from taskiq_redis import RedisStreamBroker

WORKERS = [["taskiq", "worker", "taskiq_:broker", "-w", "2", "--log-level", "ERROR"]]
broker = RedisStreamBroker(url=URL)


@broker.task
async def job(sent):
    record(sent)


async def single(sent):
    global started
    if not started:
        await broker.startup()
        started = True
    await job.kiq(sent)


started = False


def send():
    main(single)
