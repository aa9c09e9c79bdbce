"""What every system's file shares: the job writes one record, and three ways to send jobs.

A system's file defines a job that calls ``record(sent)`` and a ``send()`` that calls ``main(single, bulk)``; ``WORKERS`` lists the
commands that together are two processes' worth of workers with default settings.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import random
import struct
import sys
import time

URL = os.environ.get("BENCH_URL", "redis://127.0.0.1:6379/0")
RECORD = struct.Struct("<dd")

_file = -1


def record(sent: float) -> None:
    """The whole job: one write of 16 bytes, when it was sent and when it ran (monotonic, the same in all processes)."""
    global _file
    if _file < 0:
        _file = os.open(os.environ["BENCH_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(_file, RECORD.pack(sent, time.monotonic()))


def main(single, bulk=None) -> None:
    """``single N``: one by one; ``bulk N``: as many as the system takes at once; ``pace N SECONDS``: now and then."""
    mode, count = sys.argv[1], int(sys.argv[2])

    def paced():
        for _ in range(count):
            yield
            pause = float(sys.argv[3])
            time.sleep(random.uniform(0.5 * pause, 1.5 * pause))

    async def sends():
        if mode == "bulk":
            await bulk(count)
            return
        for _ in paced() if mode == "pace" else range(count):
            await single(time.monotonic())

    if mode == "bulk" and bulk is None:
        print("none")
        return
    if inspect.iscoroutinefunction(single):
        single_once = single

        async def timed():
            await single_once(-1.0)
            began = time.monotonic()
            await sends()
            print(count / (time.monotonic() - began))

        asyncio.run(timed())
        return
    single(-1.0)  # connections are not what is measured
    began = time.monotonic()
    if mode == "bulk":
        bulk(count)
    else:
        for _ in paced() if mode == "pace" else range(count):
            single(time.monotonic())
    print(count / (time.monotonic() - began))
