"""Tasks of the series that measure psmq alone."""

from __future__ import annotations

import asyncio
import os
import time

from common import URL, record

from psmq_tasks import TaskApp

SECRET = "0123456789abcdef" * 4
#: how many queues there are: tasks are spread over them
QUEUES = int(os.environ.get("BENCH_QUEUES", "1"))
app = TaskApp("alone", url=URL, secret=SECRET, defaults={"result_ttl": 0})


@app.task
def job(sent, data=b""):
    record(sent)


@app.task(result_ttl=3600)
def kept(sent):
    record(sent)
    return sent


@app.task
async def ajob(sent):
    record(sent)


@app.task
def nap(sent, seconds):
    time.sleep(seconds)
    record(sent)


@app.task
async def anap(sent, seconds):
    await asyncio.sleep(seconds)
    record(sent)


@app.task
def long_nap(seconds):
    time.sleep(seconds)


spread = [app.task(queue=f"alone-{number}", name=f"alone:{number}")(job.function) for number in range(QUEUES)]
