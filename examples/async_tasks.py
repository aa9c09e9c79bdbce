"""Coroutines as tasks, and tasks sent from coroutines: 100 waits of half a second, all at once, in one process.

    $ psmq-worker async_tasks.py --processes 1      # in one terminal
    $ python async_tasks.py                         # in another
    100 pages, from page 0 to page 99, in less than 5 s

A process runs up to 100 coroutines at a time (--async-concurrency) on one event loop, beside the plain functions in its
threads. Failures, retries, limits and results are the same for both.
"""

import asyncio
import time

from psmq_tasks import TaskApp

app = TaskApp("pages")


@app.task
async def fetch(page: int) -> str:
    await asyncio.sleep(0.5)  # or an HTTP client, a database, a model
    return f"page {page}"


async def main() -> None:
    began = time.monotonic()
    handles = await fetch.adelay_many(fetch.call(number) for number in range(100))  # in one trip
    pages = await asyncio.gather(*handles)  # a handle can be awaited
    took = time.monotonic() - began
    print(f"{len(pages)} pages, from {pages[0]} to {pages[-1]}, in {'less than 5 s' if took < 5 else f'{took:.1f} s'}")
    await app.aclose()


if __name__ == "__main__":
    asyncio.run(main())
