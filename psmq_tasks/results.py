"""What a sender holds after sending: the way to the result.

A handle knows the message and where to ask; the asking, verifying and unpickling is its source's (the app). It pickles,
so that one task can hand it to another, or a web request to the next.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, Protocol, TypeVar, cast

from psmq_tasks.errors import ResultNotKept, ResultTimeout
from psmq_tasks.outcome import Outcome, Returned, error_of

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from datetime import timedelta

__all__ = ["Hint", "ResultSource", "TaskHandle"]

R_co = TypeVar("R_co", covariant=True)

#: seconds that one request waits; a wait without an end is asked again
LONGEST_WAIT: Final = 60.0
#: seconds after which the log is told if nothing will come of waiting
FIRST_WAIT: Final = 5.0

_log = logging.getLogger("psmq_tasks")


class Hint(NamedTuple):
    """Why there is no result yet; ``stuck``: and there will be none unless somebody does something."""

    text: str = ""
    stuck: bool = False


class ResultSource(Protocol):
    """Where handles ask: implemented by TaskApp."""

    def outcome(self, queue_name: str, message_id: str, wait: float) -> Outcome | None:
        """The verified outcome; None if there is none within ``wait`` seconds."""

    async def aoutcome(self, queue_name: str, message_id: str, wait: float) -> Outcome | None:
        """The same, awaited."""

    def why_waiting(self, queue_name: str, message_id: str, task: str) -> Hint:
        """Why there is no result yet, as far as the server knows."""

    async def awhy_waiting(self, queue_name: str, message_id: str, task: str) -> Hint:
        """The same, awaited."""


class TaskHandle(Generic[R_co]):
    """One call that was sent. Its result can be had for ``result_ttl`` (1 h by default) after the task ended."""

    __slots__ = ("_kept", "_outcome", "_source", "id", "queue_name", "task")

    def __init__(self, source: ResultSource, message_id: str, queue_name: str, task: str, *, kept: bool = True) -> None:
        self._source = source
        self._kept = kept
        self._outcome: Outcome | None = None
        #: the message's id
        self.id = message_id
        self.queue_name = queue_name
        #: the task's name
        self.task = task

    def __repr__(self) -> str:
        return f"<TaskHandle {self.task} {self.id} in queue {self.queue_name!r}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TaskHandle):
            return NotImplemented
        return (self.id, self.queue_name) == (other.id, other.queue_name)

    def __hash__(self) -> int:
        return hash((self.id, self.queue_name))

    def __reduce__(self) -> tuple[Any, ...]:
        return _handle, (self._source, self.id, self.queue_name, self.task, self._kept)

    def result(self, timeout: float | timedelta | None = None) -> R_co:
        """The task's value, or its error with the worker's traceback as ``__cause__``.

        Waits up to ``timeout`` (None: for ever), then raises ResultTimeout, which says why there is none; where nothing
        will come of waiting, the log is told after 5 s. Raises WorkerLost, TimeLimitExceeded,
        TaskExpired or TaskBuried where the task did not come to an end of its own.
        """
        return cast("R_co", _value(self._wait(timeout)))

    def exception(self, timeout: float | timedelta | None = None) -> BaseException | None:
        """What result() would raise for the task; None if it returned."""
        return error_of(self._wait(timeout))

    def done(self) -> bool:
        """Whether there is a result: the task returned, or failed for good."""
        if self._outcome is None:
            self._check_kept()
            self._outcome = self._source.outcome(self.queue_name, self.id, 0.0)
        return self._outcome is not None

    async def aresult(self, timeout: float | timedelta | None = None) -> R_co:
        """result() for async code; ``await handle`` is this without a timeout."""
        if self._outcome is None:
            self._check_kept()
            for wait, first in _portions(timeout):
                self._outcome = await self._source.aoutcome(self.queue_name, self.id, wait)
                if self._outcome is not None:
                    break
                if first:
                    self._warn(await self._source.awhy_waiting(self.queue_name, self.id, self.task))
            else:
                raise self._timeout(timeout, await self._source.awhy_waiting(self.queue_name, self.id, self.task))
        return cast("R_co", _value(self._outcome))

    def __await__(self) -> Generator[Any, None, R_co]:
        return self.aresult().__await__()

    def _wait(self, timeout: float | timedelta | None) -> Outcome:
        if self._outcome is None:
            self._check_kept()
            for wait, first in _portions(timeout):
                self._outcome = self._source.outcome(self.queue_name, self.id, wait)
                if self._outcome is not None:
                    break
                if first:
                    self._warn(self._source.why_waiting(self.queue_name, self.id, self.task))
            else:
                raise self._timeout(timeout, self._source.why_waiting(self.queue_name, self.id, self.task))
        return self._outcome

    def _warn(self, hint: Hint) -> None:
        if hint.stuck:
            _log.warning("%s %s has no result yet: %s", self.task, self.id, hint.text)

    def _check_kept(self) -> None:
        if not self._kept:
            raise ResultNotKept(self.task)

    def _timeout(self, timeout: float | timedelta | None, hint: Hint) -> ResultTimeout:
        return ResultTimeout(self.id, self.queue_name, _seconds(timeout), hint.text)


def _seconds(timeout: float | timedelta | None) -> float:
    if timeout is None:
        return math.inf
    return float(timeout) if isinstance(timeout, (int, float)) else timeout.total_seconds()


def _portions(timeout: float | timedelta | None) -> Iterator[tuple[float, bool]]:
    """Waits that add up to the timeout, each one that a request may take; at least one, of 0 s. With each: whether it
    is the first of several.
    """
    left = max(0.0, _seconds(timeout))
    yield min(FIRST_WAIT, left), left > FIRST_WAIT
    left -= FIRST_WAIT
    while left > 0:
        yield min(LONGEST_WAIT, left), False
        left -= LONGEST_WAIT


def _handle(source: ResultSource, message_id: str, queue_name: str, task: str, kept: bool) -> TaskHandle[Any]:
    return TaskHandle(source, message_id, queue_name, task, kept=kept)


def _value(outcome: Outcome) -> Any:
    if isinstance(outcome, Returned):
        return outcome.value
    error = error_of(outcome)
    assert error is not None
    raise error
