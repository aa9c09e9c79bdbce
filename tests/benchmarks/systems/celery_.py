from celery import Celery
from common import URL, main, record

WORKERS = [["celery", "-A", "celery_", "worker", "-c", "2", "-l", "ERROR"]]
app = Celery("celery_", broker=URL)
app.conf.task_ignore_result = True


@app.task
def job(sent):
    record(sent)


def send():
    main(job.delay)
