from common import URL, main, record
from streaq import Worker

WORKERS = [["streaq", "run", "streaq_:worker", "-w", "2"]]
worker = Worker(redis_url=URL)


@worker.task(ttl=0)
async def job(sent: float) -> None:
    record(sent)


async def single(sent):
    if not hasattr(worker, "_bench"):
        worker._bench = await worker.__aenter__()
    await job.enqueue(sent)


def send():
    main(single)
