"""The tasks that are tortured: they write down when they start and when they end, and nothing else matters.

``psmq-worker psmq_tasks.torture.jobs -q QUEUE`` runs them, on the server and with the secret that the environment
names, and in its ``PSMQ_NAMESPACE``. The path of the history travels as an argument.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from functools import cache
from typing import TYPE_CHECKING, Any

from tenacity import stop_after_attempt, wait_fixed

from psmq_tasks.app import TaskApp
from psmq_tasks.executor import current_message
from psmq_tasks.torture.history import History

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["app", "make_app"]

#: attempts: a job may be interrupted as often as somebody likes to kill
_MANY = 100_000
#: what kills its process does so this often
KILLER_ATTEMPTS = 3
#: seconds
STUCK_LIMIT = 1.0

_history = cache(History)


def job(history: str, key: str, seconds: float = 0.0) -> None:
    """Runs for so long."""
    message = current_message()
    _history(history).note("start", key, message.message_id, message.attempt)
    if seconds:
        time.sleep(seconds)
    _history(history).note("end", key, message.message_id, message.attempt)


async def coroutine(history: str, key: str, seconds: float = 0.0) -> None:
    """The same on the event loop."""
    message = current_message()
    _history(history).note("start", key, message.message_id, message.attempt)
    await asyncio.sleep(seconds)
    _history(history).note("end", key, message.message_id, message.attempt)


def flaky(history: str, key: str) -> None:
    """Fails at its first two attempts."""
    message = current_message()
    _history(history).note("start", key, message.message_id, message.attempt)
    if message.attempt < 3:
        raise OSError("not yet")
    _history(history).note("end", key, message.message_id, message.attempt)


def killer(history: str, key: str) -> None:
    """Kills its process."""
    message = current_message()
    _history(history).note("start", key, message.message_id, message.attempt)
    os.kill(os.getpid(), signal.SIGKILL)


def stuck(history: str, key: str) -> None:
    """Does not end at its first attempt, and gives way to nothing but the end of its process."""
    message = current_message()
    _history(history).note("start", key, message.message_id, message.attempt)
    if message.attempt == 1:
        time.sleep(3600)
    _history(history).note("end", key, message.message_id, message.attempt)


def make_app(**server: Any) -> TaskApp:
    """An app with the jobs as its tasks: app.find("job"). ``server``: arguments of a TaskApp."""
    namespace = os.environ.get("PSMQ_NAMESPACE", "psmq")
    made = TaskApp("torture", **{"namespace": namespace, **server})
    functions: tuple[Callable[..., Any], ...] = (job, coroutine, flaky)
    for function in functions:
        name = function.__name__
        made.task(function, name=name, stop=stop_after_attempt(_MANY), wait=wait_fixed(0.1), result_ttl=0)
    made.task(stuck, name="stuck", stop=stop_after_attempt(_MANY), time_limit=STUCK_LIMIT, result_ttl=0)
    made.task(killer, name="killer", stop=stop_after_attempt(KILLER_ATTEMPTS), result_ttl=0)
    return made


app = make_app()
