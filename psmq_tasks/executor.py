"""Runs one call and says how it ended. Whatever the task does, it comes back as an outcome.

A soft limit is an exception raised in the task's own code. For a plain function that is CPython's asynchronous
exception, set by one watchdog thread per process; it must hit the call or nothing, never what this thread does next.
A coroutine is woken by a cancellation, which on its way in becomes the same exception.
"""

from __future__ import annotations

import os
import threading
import time
from contextvars import ContextVar, copy_context
from queue import Empty, SimpleQueue
from types import CoroutineType, coroutine
from typing import TYPE_CHECKING, Any, Final

from psmq_tasks.errors import OutsideTask, SoftTimeLimitExceeded
from psmq_tasks.outcome import Outcome, Raised, Returned, TimedOut

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Mapping

__all__ = ["CurrentMessage", "arun", "current_message", "run"]


class CurrentMessage:
    """The message whose task is running. ``lease_lost``: it may be running elsewhere by now; better to stop."""

    __slots__ = ("attempt", "lease_lost", "message_id", "metadata", "queue_name", "task")

    def __init__(
        self, message_id: str, task: str, queue_name: str, attempt: int, metadata: Mapping[str, str] | None = None
    ) -> None:
        self.message_id = message_id
        #: the task's name
        self.task = task
        self.queue_name = queue_name
        #: 1 = first
        self.attempt = attempt
        #: what the sender noted beside the call; nobody vouches for it
        self.metadata: Mapping[str, str] = {} if metadata is None else metadata
        #: set by the worker, from another thread
        self.lease_lost = False

    def __repr__(self) -> str:
        return f"<message {self.message_id} of {self.task}, attempt {self.attempt}>"


_current: Final[ContextVar[CurrentMessage]] = ContextVar("psmq_tasks.current_message")


def current_message() -> CurrentMessage:
    """The message whose task runs in this thread or coroutine; OutsideTask where none does."""
    try:
        return _current.get()
    except LookupError:
        raise OutsideTask from None


def run(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    message: CurrentMessage,
    soft_limit: float | None = None,
) -> Outcome:
    """Runs a plain function here, in a context of its own, for at most ``soft_limit`` seconds if it gives way."""
    # A copy: what a task sets in context variables ends with it.
    context = copy_context()
    context.run(_current.set, message)
    if soft_limit is None:
        return _call(context.run, function, args, kwargs, None)
    _watchdog.start()
    watch = _Watch(soft_limit)
    outcome: Outcome = TimedOut(soft_limit)
    # The exception comes at most once, anywhere between add() and the end of close().
    try:
        try:
            _watchdog.add(watch)
            outcome = _call(context.run, function, args, kwargs, soft_limit)
        finally:
            watch.close()
    except SoftTimeLimitExceeded:
        watch.close()
    _watchdog.discard(watch)
    return outcome


async def arun(
    function: Callable[..., Coroutine[Any, Any, Any]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    message: CurrentMessage,
    soft_limit: float | None = None,
) -> Outcome:
    """Runs a coroutine function in this asyncio task. A cancellation from outside passes through."""
    import asyncio

    token = _current.set(message)
    this = asyncio.current_task()
    assert this is not None
    try:
        if soft_limit is None:
            return Returned(await function(*args, **kwargs))
        limit = _SoftLimit(this, soft_limit)
        try:
            return Returned(await limit.drive(function(*args, **kwargs)))
        finally:
            limit.close()
    except asyncio.CancelledError as error:
        if this.cancelling():
            raise  # the worker stops; it decides what becomes of the message
        return Raised(error)
    except BaseException as error:
        return _failed(error, soft_limit)
    finally:
        _current.reset(token)


def _call(
    enter: Callable[..., Any],
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    soft_limit: float | None,
) -> Outcome:
    try:
        value = enter(function, *args, **kwargs)
    except BaseException as error:  # also SystemExit and KeyboardInterrupt: a task's end is not its worker's
        return _failed(error, soft_limit)
    if type(value) is CoroutineType:
        value.close()
        return Raised(TypeError("the task returned a coroutine that nobody awaits: make it an `async def`"))
    return Returned(value)


def _failed(error: BaseException, soft_limit: float | None) -> Outcome:
    if soft_limit is not None and _is_soft_limit(error):
        return TimedOut(soft_limit)
    return Raised(error)


def _is_soft_limit(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):  # what a TaskGroup makes of it
        return all(_is_soft_limit(one) for one in error.exceptions)
    return isinstance(error, SoftTimeLimitExceeded)


# -- the soft limit of plain functions --------------------------------------------------------------------------------


class _Drained(BaseException):
    """Takes the place of a SoftTimeLimitExceeded that came too late."""


class _Watch:
    """One limit of one thread. Watchdog and call race for the one token: who takes it decides."""

    __slots__ = ("_fired", "_thread", "_token", "deadline")

    def __init__(self, seconds: float) -> None:
        self.deadline = time.monotonic() + seconds
        self._thread = threading.get_ident()
        self._token = [True]
        self._fired = False

    def fire(self) -> None:
        """The watchdog: raise in the thread, unless the call has ended."""
        try:
            self._token.pop()  # atomic
        except IndexError:
            return
        _set_async_exception(self._thread, SoftTimeLimitExceeded)
        self._fired = True

    def close(self) -> None:
        """The call has ended: nothing is raised after this returns. May raise what was under way."""
        try:
            self._token.pop()
        except IndexError:
            while not self._fired:
                time.sleep(0)  # the watchdog is between the two lines above
            # Whether it has struck by now cannot be known. Replace what may be pending and wait for that: just dropping
            # it (NULL) leaves CPython 3.11 and 3.12 looking for it before every instruction.
            try:
                _set_async_exception(self._thread, _Drained)
                while True:
                    time.sleep(0)
            except _Drained:
                pass


class _Watchdog:
    """The thread that waits for the earliest deadline of all running calls; started by the first one.

    No lock of Python's own is held where the exception may strike: it could stay locked.
    """

    def __init__(self) -> None:
        self._starting = threading.Lock()
        self._started = False
        self._watches: set[_Watch] = set()
        self._bell: SimpleQueue[None] = SimpleQueue()
        #: when the thread wakes by itself
        self._wakes = float("inf")

    def start(self) -> None:
        if not self._started:
            with self._starting:
                if not self._started:
                    threading.Thread(target=self._loop, name="psmq-soft-limits", daemon=True).start()
                    self._started = True

    def add(self, watch: _Watch) -> None:
        self._watches.add(watch)
        if watch.deadline < self._wakes:
            self._bell.put(None)

    def discard(self, watch: _Watch) -> None:
        self._watches.discard(watch)

    def _loop(self) -> None:
        while True:
            # In this order: who adds after the snapshot sees that it has to ring.
            self._wakes = float("inf")
            now = time.monotonic()
            earliest = float("inf")
            for watch in tuple(self._watches):
                if watch.deadline <= now:
                    self._watches.discard(watch)
                    watch.fire()
                else:
                    earliest = min(earliest, watch.deadline)
            self._wakes = earliest
            try:
                self._bell.get(timeout=None if earliest == float("inf") else earliest - now)
            except Empty:
                pass  # a deadline


def _set_async_exception(thread: int, error: type[BaseException]) -> None:
    """Has ``error`` raised in the thread at one of its next instructions, instead of what may be pending there."""
    import ctypes

    # A prototype of our own: the attributes of pythonapi are shared with every other library.
    prototype = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_ulong, ctypes.py_object)
    prototype(("PyThreadState_SetAsyncExc", ctypes.pythonapi))(thread, error)


_watchdog = _Watchdog()


def _after_fork() -> None:
    # The thread stayed in the parent, and the lock may have been held at the time.
    global _watchdog
    _watchdog = _Watchdog()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# -- the soft limit of coroutines -------------------------------------------------------------------------------------


class _SoftLimit:
    """Cancels the asyncio task once, and raises SoftTimeLimitExceeded in its coroutine instead."""

    __slots__ = ("_fired", "_task", "_timer")

    def __init__(self, task: Any, seconds: float) -> None:
        self._task = task
        self._fired = False
        self._timer = task.get_loop().call_later(seconds, self._fire)

    def _fire(self) -> None:
        self._fired = True
        self._task.cancel()

    def close(self) -> None:
        self._timer.cancel()

    @coroutine
    def drive(self, running: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """Awaits the coroutine, exchanging our own cancellation on its way in."""
        from asyncio import CancelledError

        error: BaseException | None = None
        while True:
            try:
                awaited = running.send(None) if error is None else running.throw(error)
            except StopIteration as stop:
                return stop.value
            try:
                error = None
                yield awaited
            except CancelledError as cancelled:
                error = cancelled
                if self._fired and self._task.uncancel() == 0:
                    error = SoftTimeLimitExceeded()
                self._fired = False
            except BaseException as other:
                error = other
