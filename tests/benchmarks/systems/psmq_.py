import sys
import time

from common import URL, main, record

from psmq_tasks import TaskApp

WORKERS = [[sys.executable, "-c", "from psmq_tasks.cli import worker; worker()", "psmq_", "-p", "2"]]
app = TaskApp("bench", url=URL, secret="0123456789abcdef" * 4)


@app.task(result_ttl=0)
def job(sent):
    record(sent)


def bulk_of(task):
    return lambda count: task.delay_many(task.call(time.monotonic()) for _ in range(count))


def send():
    main(job.delay, bulk_of(job))
