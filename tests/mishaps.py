"""Things that went wrong, made to order: dead letters and waiting retries with their histories, without a worker."""

from __future__ import annotations

import time

from psmq import Bury, Release
from psmq_tasks.history import Failure

TRACEBACK = 'Traceback (most recent call last):\n  File "mail.py", line 7, in send\n    raise ValueError("no")\n'


def failure(attempt=1, message="no", kind="ValueError", task="mail:send", decision="gave up", **more):
    """A failure record as a worker writes it."""
    now = time.time()
    return Failure(
        attempt=attempt,
        outcome="raised",
        type=kind,
        message=message,
        traceback=f"{TRACEBACK}{kind}: {message}\n",
        started=now - 0.5,
        ended=now,
        host="host",
        pid=7,
        task=task,
        decision=decision,
        **more,
    ).pack()


def kill(queue, count=1, *, task="mail:send", args="'a@example.org'", message="no", data=b"body", attempts=1):
    """``count`` calls that died of this. → their ids"""
    metadata = {"task": task, "args": args, "sender": "host:1"}
    ids = queue.push_many([data] * count, metadata=metadata)
    for attempt in range(1, attempts + 1):
        left = count
        while left:
            got = queue.get_many(min(left, 1000))
            record = failure(attempt, message, task=task, decision="gave up" if attempt == attempts else "again in 0 s")
            last = Bury(f"ValueError: {message}", failure=record)
            queue.exchange([(one, last if attempt == attempts else Release(failure=record)) for one in got])
            left -= len(got)
    return ids


def retry_later(queue, delay=600.0, *, task="mail:send", message="busy", **options):
    """A call that failed once and waits. → its id"""
    message_id = queue.push(b"body", metadata={"task": task, "args": "1", "sender": "host:1"}, **options)
    got = queue.get()
    assert got.message_id == message_id
    queue.exchange([(got, Release(delay, failure=failure(1, message, decision=f"again in {delay:g} s")))])
    return message_id
