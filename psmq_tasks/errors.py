"""What can go wrong with a task, one class per cause; and what a task may raise to steer itself.

::

    PsmqError
    └── TasksError
        ├── DuplicateTask                             one name, two pieces of code
        ├── InvalidArguments        (TypeError)       the arguments do not fit the task's signature
        ├── UnserializableArgument  (NotSerializable) an argument, or the function, does not pickle
        ├── SecretMissing                             no key to sign with
        ├── IdNotFound              (LookupError)     no message whose id ends like this
        ├── IdAmbiguous             (LookupError)     more than one
        ├── OutsideTask             (LookupError)     current_message() where no task runs
        ├── PayloadError                              a message that is not run; ``hand_back``: by this worker, now
        │   ├── MalformedPayload    (ValueError)      not an envelope of psmq_tasks
        │   ├── UnsignedPayload                       no signature where one is needed
        │   ├── ForgedPayload                         no key matches, or it was made for another place
        │   ├── NewerPayload                hand_back written by a newer psmq
        │   ├── ForeignPython               hand_back by value, from a Python that this one would crash on
        │   ├── MissingCode                 hand_back the arguments need code that is not here
        │   └── UnknownTask   (LookupError) hand_back nobody registered that name here
        ├── ResultTimeout           (TimeoutError)    no result yet
        ├── ResultNotKept                             result_ttl=0: there will be none
        ├── WorkerLost                                its worker died, too often
        ├── TimeLimitExceeded                         it passed its soft or hard limit
        ├── TaskExpired                               its ttl ended first
        ├── TaskBuried                                it was taken out of circulation
        └── TaskFailed                                stands in for an error that cannot be rebuilt here

    ControlFlow             raised by tasks; ``except PsmqError`` never swallows them
    ├── Retry               again, after a time of the task's choice
    └── Reject              never again
    SoftTimeLimitExceeded   raised in a task that passes its soft limit, to be caught and tidied up after
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from psmq.errors import InvalidOption, NotSerializable, PsmqError

if TYPE_CHECKING:
    from datetime import timedelta

#: the line that makes a key; part of SecretMissing's text
MAKE_SECRET: Final = 'export PSMQ_SECRET=$(python -c "import secrets; print(secrets.token_hex(32))")'  # noqa: S105


class TasksError(PsmqError):
    """The root of what psmq_tasks raises on purpose."""


class DuplicateTask(TasksError):
    """``name`` is taken by the code at ``first`` and was claimed again by that at ``second``."""

    def __init__(self, name: str, first: str, second: str) -> None:
        super().__init__(name, first, second)
        self.name = name
        self.first = first
        self.second = second

    def __str__(self) -> str:
        return (
            f"two tasks are called {self.name!r}: one in {self.first}, one in {self.second}; "
            "give one of them another name: @app.task(name=...)"
        )


class InvalidArguments(TasksError, TypeError):
    """``problem`` names the parameter, ``signature`` is what the task takes, ``place`` where it is written."""

    def __init__(self, task: str, problem: str, signature: str, place: str) -> None:
        super().__init__(task, problem, signature, place)
        self.task = task
        self.problem = problem
        self.signature = signature
        self.place = place

    def __str__(self) -> str:
        return f"{self.task}{self.signature}: {self.problem} ({self.place})"


class UnserializableArgument(TasksError, NotSerializable):
    """``argument`` says which (``argument 'body'``, ``argument 2``, ``the function``), ``problem`` why."""

    def __init__(self, argument: str, type_name: str, problem: str) -> None:
        super().__init__(argument, type_name, problem)
        self.argument = argument
        self.type_name = type_name
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.argument} ({self.type_name}) cannot be sent: {self.problem}"


class SecretMissing(TasksError):
    """``place`` is the server, without its password."""

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self.place = place

    def __str__(self) -> str:
        return (
            f"there is no key to sign tasks with for {self.place}. Whoever can write to that server could run code in "
            f"your workers. Make a key, and set it wherever tasks are sent or run:\n  {MAKE_SECRET}\n"
            "or, where everybody who reaches the server is trusted: TaskApp(allow_unsigned=True)"
        )


class IdNotFound(TasksError, LookupError):
    """``ending`` is what was given, ``what`` was looked for ("dead letter"), in ``place`` ("queue 'mail'")."""

    def __init__(self, ending: str, what: str, place: str) -> None:
        super().__init__(ending, what, place)
        self.ending = ending
        self.what = what
        self.place = place

    def __str__(self) -> str:
        return f"there is no {self.what} whose id ends with {self.ending!r} in {self.place}"


class IdAmbiguous(TasksError, LookupError):
    """``candidates`` are the first whole ids that end with ``ending``; ``more``: how many others there are."""

    def __init__(self, ending: str, candidates: tuple[str, ...], more: int = 0) -> None:
        super().__init__(ending, candidates, more)
        self.ending = ending
        self.candidates = candidates
        self.more = more

    def __str__(self) -> str:
        shown = " ".join(self.candidates) + (f" and {self.more} more" if self.more else "")
        return f"{self.ending!r} is the end of more than one id, give more of it: {shown}"


class OutsideTask(TasksError, LookupError):
    def __str__(self) -> str:
        return "current_message() has an answer only while a worker runs a task, in the task's own thread or coroutine"


class PayloadError(TasksError):
    """A message that is not run. ``hand_back``: another worker, or a later one, may be able to."""

    hand_back: ClassVar[bool] = False


class MalformedPayload(PayloadError, ValueError):
    """The words say what is wrong with the bytes."""


class UnsignedPayload(PayloadError):
    def __str__(self) -> str:
        return super().__str__() or "the message carries no signature, and unsigned ones are not allowed"


class ForgedPayload(PayloadError):
    def __str__(self) -> str:
        return super().__str__() or (
            "the signature does not fit: made with another key (PSMQ_SECRET), for another queue or message, or changed"
        )


class NewerPayload(PayloadError):
    """``version`` is the envelope's, ``known`` the newest that this psmq reads."""

    hand_back = True

    def __init__(self, version: int, known: int) -> None:
        super().__init__(version, known)
        self.version = version
        self.known = known

    def __str__(self) -> str:
        return f"the envelope has version {self.version}, this psmq reads up to {self.known}: upgrade it"


class ForeignPython(PayloadError):
    """``needed`` and ``here`` are cache tags, like ``cpython-311``."""

    hand_back = True

    def __init__(self, needed: str, here: str) -> None:
        super().__init__(needed, here)
        self.needed = needed
        self.here = here

    def __str__(self) -> str:
        return (
            f"it carries code compiled by {self.needed}, which {self.here} cannot load; run a worker of that Python, "
            "or put the function in a module that sender and worker import"
        )


class MissingCode(PayloadError):
    """The words are those of the ImportError or AttributeError."""

    hand_back = True


class UnknownTask(PayloadError, LookupError):
    hand_back = True

    def __init__(self, task: str) -> None:
        super().__init__(task)
        self.task = task

    def __str__(self) -> str:
        return f"task {self.task!r} is not registered here: is the module that defines it among those the worker loads?"


class ResultTimeout(TasksError, TimeoutError):
    """``hint`` says why it may be, as far as the queue knows."""

    def __init__(self, message_id: str, queue_name: str, timeout: float, hint: str = "") -> None:
        super().__init__()
        # OSError, the base of TimeoutError, keeps two arguments at most; pickle and repr read args.
        self.args = (message_id, queue_name, timeout, hint)
        self.message_id = message_id
        self.queue_name = queue_name
        self.timeout = timeout
        self.hint = hint

    def __str__(self) -> str:
        text = f"no result of {self.message_id} after {self.timeout:g} s"
        return f"{text}; {self.hint}" if self.hint else text


class ResultNotKept(TasksError):
    def __init__(self, task: str) -> None:
        super().__init__(task)
        self.task = task

    def __str__(self) -> str:
        return f"task {self.task!r} was sent with result_ttl=0: its result is not kept"


class WorkerLost(TasksError):
    """``reason`` says how the process ended, as far as anyone saw."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"the worker was lost: {self.reason}" if self.reason else "the worker was lost"


class TimeLimitExceeded(TasksError):
    """``limit`` in seconds; ``hard``: the process was ended, otherwise the task let the soft limit's error through."""

    def __init__(self, limit: float, *, hard: bool = False) -> None:
        super().__init__(limit)
        self.limit = limit
        self.hard = hard

    def __str__(self) -> str:
        return f"the task passed its {'hard' if self.hard else 'soft'} time limit of {self.limit:g} s"


class TaskExpired(TasksError):
    def __str__(self) -> str:
        return super().__str__() or "the task's ttl ended before a worker took it"


class TaskBuried(TasksError):
    """The words are the dead letter's reason."""

    def __str__(self) -> str:
        return super().__str__() or "the task was buried"


class TaskFailed(TasksError):
    """``type_name`` and ``message`` are the original error's; its traceback is this one's ``__cause__``, if known."""

    def __init__(self, type_name: str, message: str, traceback: str = "") -> None:
        super().__init__(type_name, message, traceback)
        self.type_name = type_name
        self.message = message
        self.traceback = traceback

    def __str__(self) -> str:
        return f"{self.type_name}: {self.message}" if self.message else self.type_name


class ControlFlow(Exception):
    """What a task raises to tell its worker what comes next."""


class Retry(ControlFlow):
    """Run me again, ``after`` seconds instead of the policy's wait. The policy's ``stop`` still ends it."""

    def __init__(self, after: float | timedelta | None = None, reason: str = "") -> None:
        super().__init__(after, reason)
        if after is None:
            self.after = None
        else:
            self.after = float(after) if isinstance(after, (int, float)) else after.total_seconds()
            if not self.after >= 0:
                raise InvalidOption("after", f"must be seconds from now, 0 or more, not {after}")
        self.reason = reason

    def __str__(self) -> str:
        return self.reason or "the task asked to be retried"


class Reject(ControlFlow):
    """Never run me again: the message goes to the dead letters with this reason."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason or "the task rejected the call"


class SoftTimeLimitExceeded(Exception):
    """Raised in the task's own code when its soft limit passes: catch it to tidy up, then return or raise."""
