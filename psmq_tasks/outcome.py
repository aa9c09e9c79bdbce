"""How one execution of a task ended, as plain data. The policy reads it, the result is written from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from psmq_tasks.errors import TimeLimitExceeded, WorkerLost

__all__ = [
    "ErrorText",
    "Lost",
    "Outcome",
    "Raised",
    "Returned",
    "TimedOut",
    "Unpicklable",
    "describe_error",
    "error_of",
    "type_name",
]

#: characters of an error's message and traceback that are kept; the end of a traceback says more than its start
MESSAGE_LENGTH: Final = 2_000
TRACEBACK_START: Final = 4_000
TRACEBACK_END: Final = 12_000
#: a class may be called anything
NAME_LENGTH: Final = 500


@dataclass(frozen=True, slots=True)
class Returned:
    value: Any


@dataclass(frozen=True, slots=True)
class Raised:
    error: BaseException


@dataclass(frozen=True, slots=True)
class TimedOut:
    """It passed ``limit`` seconds; ``hard``: its process was ended, else the soft limit's error came through."""

    limit: float
    hard: bool = False


@dataclass(frozen=True, slots=True)
class Lost:
    """Its worker died; ``reason`` is what was seen of that ("killed by signal 9")."""

    reason: str = ""


Outcome = Returned | Raised | TimedOut | Lost


def error_of(outcome: Outcome) -> BaseException | None:
    """The outcome as the error that retry predicates and callers of result() see; None for a returned value."""
    if isinstance(outcome, Raised):
        return outcome.error
    if isinstance(outcome, TimedOut):
        return TimeLimitExceeded(outcome.limit, hard=outcome.hard)
    if isinstance(outcome, Lost):
        return WorkerLost(outcome.reason)
    return None


@dataclass(frozen=True, slots=True)
class Unpicklable:
    """Stands in for a returned value that does not pickle: its type's name and its bounded repr."""

    type_name: str
    text: str

    def __repr__(self) -> str:
        return f"<a {self.type_name} that does not pickle: {self.text}>"


class ErrorText(NamedTuple):
    """An error in words: all that is shown to people, and all that is left when it does not pickle."""

    type_name: str
    message: str
    traceback: str


def type_name(value: object) -> str:
    """``ValueError``, ``json.decoder.JSONDecodeError``."""
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return name[:NAME_LENGTH]


def describe_error(error: BaseException) -> ErrorText:
    """The error in bounded words, whatever its own ``__str__`` does; the frames of psmq_tasks itself left out."""
    try:
        message = str(error)
    except BaseException as second:  # a task's own code, like everything it raises
        message = f"<str() of it raised {type_name(second)}>"
    if len(message) > MESSAGE_LENGTH:
        message = message[: MESSAGE_LENGTH - 1] + "…"
    try:
        text = _format(error)
    except BaseException as second:
        text = f"<its traceback could not be formatted: {type_name(second)}>\n{type_name(error)}: {message}\n"
    if len(text) > TRACEBACK_START + TRACEBACK_END:
        text = f"{text[:TRACEBACK_START]}\n  … {len(text)} characters in all …\n{text[-TRACEBACK_END:]}"
    return ErrorText(type_name(error), message, text)


def _format(error: BaseException) -> str:
    import traceback

    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_globals.get("__name__", "").startswith("psmq_tasks."):
        frames = frames.tb_next
    return "".join(traceback.TracebackException(type(error), error, frames, compact=True).format())
