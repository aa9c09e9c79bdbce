from arq import create_pool
from arq.connections import RedisSettings
from common import URL, main, record

WORKERS = [["arq", "arq_.WorkerSettings"]] * 2
pool = None


async def job(ctx, sent):
    record(sent)


class WorkerSettings:
    functions = [job]
    redis_settings = RedisSettings.from_dsn(URL)
    keep_result = 0


async def single(sent):
    global pool
    pool = pool or await create_pool(RedisSettings.from_dsn(URL))
    await pool.enqueue_job("job", sent)


def send():
    main(single)
