from common import URL, main, record
from saq import Queue

WORKERS = [["saq", "saq_.settings", "--workers", "2", "--quiet"]]
queue = Queue.from_url(URL)


async def job(ctx, *, sent):
    record(sent)


settings = {"queue": queue, "functions": [job], "concurrency": 10}


async def single(sent):
    await queue.enqueue("job", sent=sent, ttl=-1)


def send():
    main(single)
