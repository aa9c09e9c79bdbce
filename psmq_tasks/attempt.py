"""One attempt at one message: from its bytes to what is done with it. Knows neither queues nor threads.

What cannot be trusted is buried unread; what this worker cannot read goes back uncounted, for another that can; what
fails is decided by the task's policy. Nothing that a message holds may raise out of here.
"""

from __future__ import annotations

import os
import random
import socket
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from psmq import Bury, Delete, Release, id_random
from psmq_tasks.errors import ForeignPython, MissingCode, NewerPayload, PayloadError, TasksError, UnknownTask
from psmq_tasks.executor import CurrentMessage
from psmq_tasks.history import Failure
from psmq_tasks.outcome import Lost, Outcome, Raised, Returned, TimedOut, describe_error, error_of
from psmq_tasks.payload import open_call, seal_result
from psmq_tasks.retry import RetryDecision, RetryPolicy, decide
from psmq_tasks.strategies import in_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from psmq import MessageRecord, Settlement
    from psmq_tasks.app import TaskApp
    from psmq_tasks.definition import Task

__all__ = ["HeldMessage", "Ready", "prepare", "settle"]

#: seconds until what no worker can read is buried (a deploy that lasts longer is none)
UNKNOWN_GRACE: Final = 24 * 3600.0
#: seconds; it comes back after 1, 2, 4 … 60
_LONGEST_UNKNOWN_DELAY: Final = 60.0
#: bytes of a result that the server takes
_LARGEST_RESULT: Final = 16 * 1024 * 1024
#: workers lost in a row that a task survives whose policy counts no attempts
_LOST_IN_A_ROW: Final = 5

_HOST: Final = socket.gethostname()
_CANNOT_READ: Final = (UnknownTask, ForeignPython, NewerPayload, MissingCode)


class Ready(NamedTuple):
    """A call that can be run."""

    app: TaskApp
    task: Task[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    soft_limit: float | None
    hard_limit: float | None


def prepare(apps: tuple[TaskApp, ...], record: MessageRecord, worker: str = "") -> Ready | Settlement:
    """Verify and read a message that was marked started; or what to do with it when it cannot be run.

    ``worker``: who it is, for the failure record.
    """
    app = apps[0]
    task: Task[..., Any] | None = None
    try:
        sealed = open_call(
            app.keyring,
            record.data,
            namespace=app.namespace,
            queue=record.queue_name,
            random=id_random(record.message_id),
        )
        if len(apps) > 1:
            app = next((one for one in apps if one.find(sealed.task)), app)
        task = app.resolve(sealed)
        task, args, kwargs = app.load(sealed)
        soft, hard = task.options.limits(sealed.headers)
        return Ready(app, task, args, kwargs, soft, hard)
    except _CANNOT_READ as error:
        return _for_another(record, error)
    except PayloadError as error:
        reason = f"{type(error).__name__}: {error}"
        unread = RetryDecision(retry=False, reason="buried unread", why="what cannot be trusted is never run")
        return Bury(reason, failure=_failure(record, Raised(error), 0.0, "", unread, worker).pack())
    except BaseException as error:  # the arguments' own code
        started = time.time()
        return settle(app, task, record, Raised(error), started, worker)


def _for_another(record: MessageRecord, error: PayloadError) -> Settlement:
    extras = record.extras_dict
    since = extras.get("k", 0) / 1000
    if since and time.time() - since > UNKNOWN_GRACE:
        hours = UNKNOWN_GRACE / 3600
        return Bury(f"no worker could run it for {hours:g} h: {error}")
    returns = min(extras.get("u", 0), 10)
    delay = min(2.0**returns, _LONGEST_UNKNOWN_DELAY) * random.uniform(0.9, 1.1)
    return Release(delay, count=False, unknown=True, reason=str(error))


def settle(
    app: TaskApp,
    task: Task[..., Any] | None,
    record: MessageRecord,
    outcome: Outcome,
    started: float,
    worker: str = "",
    extensions: int = 0,
) -> Settlement:
    """What becomes of a message after this outcome. ``started``: seconds since 1970.

    ``worker`` and ``extensions`` (how often it extended this lease) are for the failure record.
    """
    policy = task.options.policy if task is not None else RetryPolicy()
    now = time.time()
    attempt = record.retrieval_count
    first = min(record.first_ms / 1000, started) if record.first_ms else started
    decision = decide(policy, outcome, attempt=attempt, first_started_at=first, now=now)
    # its result_ttl in ms, without leading zeros: read for every message, so not parsed
    keeps_result = b"r" in record.extras and b"r0" not in record.extras
    if decision.accepted:
        return Delete(_sealed(app, record, outcome)) if keeps_result else _DONE
    name = task.name if task is not None else record.metadata.get("task", "")
    sealed = _sealed(app, record, outcome) if keeps_result else None
    failure = _failure(record, outcome, started, name, decision, worker, extensions)
    if decision.retry:
        # Where the policy counts no attempts, only workers lost in a row use the limit up.
        limit = None if policy.attempts is not None else attempt + _LOST_IN_A_ROW
        # Beside the record, for the log and the event log, which outlive it.
        reason = f"failed at attempt {attempt}: {_in_short(failure)} ({decision.why})"
        return Release(decision.delay, max_retrievals=limit, failure=failure.pack(), reason=reason, result=sealed)
    return Bury(_in_short(failure), failure=failure.pack(), result=sealed)


_DONE: Final = Delete()


def _sealed(app: TaskApp, record: MessageRecord, outcome: Outcome) -> bytes:
    place = {"namespace": app.namespace, "queue": record.queue_name, "random": id_random(record.message_id)}
    sealed = seal_result(app.keyring, outcome, **place)
    if len(sealed) <= _LARGEST_RESULT:
        return sealed
    words = "the task returned" if isinstance(outcome, Returned) else "the task failed"
    problem = TasksError(f"{words}, but with {len(sealed):,} bytes to store; a result may have 16 MiB")
    return seal_result(app.keyring, Raised(problem), **place)


def _in_short(failure: Failure) -> str:
    first_line = failure.message.split("\n", 1)[0]
    return f"{failure.type}: {first_line}"[:500] if first_line else failure.type


def _failure(
    record: MessageRecord,
    outcome: Outcome,
    started: float,
    task: str,
    decision: RetryDecision,
    worker: str,
    extensions: int = 0,
) -> Failure:
    error = error_of(outcome)
    words = describe_error(error) if error is not None else ("", "the policy did not accept what it returned", "")
    kind = "timed out" if isinstance(outcome, TimedOut) else "lost" if isinstance(outcome, Lost) else "raised"
    return Failure(
        attempt=record.retrieval_count,
        outcome=kind,  # type: ignore[arg-type]  # one of the three words above
        type=words[0],
        message=words[1],
        traceback=words[2],
        started=started,
        ended=time.time(),
        host=_HOST,
        pid=os.getpid(),
        task=task,
        decision=f"again in {in_seconds(decision.delay)}" if decision.retry else decision.reason or "gave up",
        why=decision.why,
        delay=decision.delay if decision.retry else None,
        worker=worker,
        extensions=extensions,
    )


class HeldMessage(CurrentMessage):
    """current_message() of a message whose lease a supervisor keeps: reads what is asked for when it is asked for."""

    __slots__ = ("_is_lost", "_record")

    def __init__(self, record: MessageRecord, task: str, is_lost: Callable[[], bool]) -> None:
        self._record = record
        self._is_lost = is_lost
        self.message_id = record.message_id
        self.task = task
        self.queue_name = record.queue_name
        self.attempt = record.retrieval_count

    @property
    def metadata(self) -> Mapping[str, str]:  # type: ignore[override]
        """What the sender noted beside the call; nobody vouches for it."""
        return self._record.metadata

    @property
    def lease_lost(self) -> bool:  # type: ignore[override]
        """Whether the message has passed to another worker: better to stop."""
        return self._is_lost()
