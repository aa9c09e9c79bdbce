from common import URL, main, record
from huey import RedisHuey

WORKERS = [["huey_consumer", "huey_.huey", "-k", "process", "-w", "2"]]
huey = RedisHuey("bench", url=URL, results=False)


@huey.task()
def job(sent):
    record(sent)


def send():
    main(job)
