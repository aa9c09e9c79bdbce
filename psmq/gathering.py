"""Pushes of many threads or coroutines share a trip, and the next batch is made while the server stores the last.

Whoever pushes alone goes straight to the server. What is pushed meanwhile is gathered and goes as one command as soon
as the one before it is answered; each push returns when its own messages are stored. A gathered command that is refused
has stored nothing: then each push goes by itself, and gets its own error.

For threads another thread sends what was gathered: one that pushes may be interrupted, and the others must not pay for
that. It wakes one of those whose messages are stored, after the next command is on its way; each that is awake wakes
another. Woken at once they would fight for the GIL on all processors, which costs more than the push.
"""

from __future__ import annotations

import contextlib
import copy
import sys
import threading
from collections import deque
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from psmq.commands import BATCH, Command, joined_pushes, push_size
from psmq.errors import OutcomeUnknown, PsmqError, ServerUnreachable

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

__all__ = ["Ahead", "AsyncGatherer", "Gatherer"]

T = TypeVar("T")

Push = Command[list[str]]

#: seconds after which the sending thread ends when nobody pushes beside another
_IDLE: Final = 1.0
#: seconds after which it wakes those whom nobody has woken: who should have was hit by an exception just then
_FORGOTTEN: Final = 0.05
#: bytes that are surely on their way at once; who is to be woken does not wait for more to be
_QUICK: Final = 64 * 1024
#: bytes in one command
_MOST_BYTES: Final = 4 * 1024 * 1024


class Ahead(Generic[T]):
    """Iterates, and reads one item ahead when told to; what reading raises comes when that item is due."""

    __slots__ = ("_error", "_found", "_items", "_looked")

    def __init__(self, items: Iterable[T]) -> None:
        self._items = iter(items)
        self._looked = False
        self._found: T | None = None
        self._error: Exception | None = None

    def look(self) -> None:
        """Read the next item now, unless that was done."""
        if not self._looked:
            self._looked = True
            try:
                self._found = next(self._items, None)
            except Exception as error:
                self._error = error

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        self.look()
        self._looked, found = False, self._found
        self._found = None
        if self._error is not None:
            raise self._error
        if found is None:
            raise StopIteration
        return found


class _Entry:
    """A push that waits to be sent, and how that went."""

    __slots__ = ("clock", "error", "ids", "push")

    def __init__(self, push: Push, clock: str) -> None:
        self.push = push
        self.clock = clock
        self.ids: list[str] | None = None
        self.error: BaseException | None = None


class _Waiting(_Entry):
    """That of a thread, which waits for this lock."""

    __slots__ = ("_unclaimed", "done", "gone")

    def __init__(self, push: Push, clock: str) -> None:
        super().__init__(push, clock)
        self.done = threading.Lock()
        self.done.acquire()
        #: nobody waits for it any more
        self.gone = False
        self._unclaimed = [True]

    def claim(self) -> bool:
        """Whether it is the caller's to send: true once."""
        try:
            return self._unclaimed.pop()
        except IndexError:
            return False


class _Awaited(_Entry):
    """That of a coroutine."""

    __slots__ = ("done",)

    def __init__(self, push: Push, clock: str, done: asyncio.Future[None]) -> None:
        super().__init__(push, clock)
        self.done = done


E = TypeVar("E", bound=_Entry)


class _Run(Protocol):
    """Carries out one command."""

    def __call__(self, push: Push, clock: str, /, *, meanwhile: Callable[[], None] | None = None) -> list[str]: ...


def _take(first: E, more: Callable[[], E | None]) -> tuple[list[E], E | None]:
    """As many as fit into one command with the first; and the one that was taken and does not."""
    taken, count, size = [first], *push_size(first.push)
    while (entry := more()) is not None:
        its_count, its_size = push_size(entry.push)
        fits = count + its_count <= BATCH and size + its_size <= _MOST_BYTES
        if not fits or entry.push.address != first.push.address or entry.clock != first.clock:
            return taken, entry
        taken.append(entry)
        count, size = count + its_count, size + its_size
    return taken, None


def _command(taken: Sequence[_Entry]) -> Push:
    return taken[0].push if len(taken) == 1 else joined_pushes([entry.push for entry in taken])


def _answered(taken: Sequence[_Entry], ids: list[str]) -> None:
    start = 0
    for entry in taken:
        end = start + push_size(entry.push)[0]
        entry.ids = ids[start:end]
        start = end


def _failed(taken: Sequence[_Entry], error: BaseException) -> None:
    """None of them was stored, or nobody knows. Without an error an entry is to be sent by itself."""
    refused = isinstance(error, PsmqError) and not isinstance(error, (ServerUnreachable, OutcomeUnknown))
    for entry in taken:
        # A copy: each adds where it was raised, and perhaps notes.
        entry.error = error if len(taken) == 1 else None if refused else _copy(error)


def _copy(error: BaseException) -> BaseException:
    try:
        return copy.copy(error).with_traceback(error.__traceback__)
    except Exception:  # not every error can be made again
        return error


class Gatherer:
    """For threads. ``run`` carries out one command; its ``meanwhile`` is called once that is on its way.

    No lock is held anywhere: a signal's handler, an exception from outside or a finalizer may come between any two
    steps, in any thread, and push itself or wait for somebody who does.
    """

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._queue: SimpleQueue[_Waiting] = SimpleQueue()
        #: they know how it went, and sleep
        self._answered: deque[_Waiting] = deque()
        #: threads in the middle of a push
        self._inside: set[int] = set()
        #: the sending thread, and whether it has a command under way
        self._sender = 0
        self._sending = False

    def push(self, push: Push, clock: str) -> list[str]:
        """The ids, once the messages are stored."""
        me = threading.get_ident()
        if me in self._inside or me == self._sender or sys.is_finalizing():
            # In the middle of a push, which it must not wait for; or nobody is left to wait for.
            return self._run(push, clock)
        entry: _Waiting | None = None
        try:
            self._inside.add(me)
            if len(self._inside) == 1 and not self._sending:
                return self._run(push, clock)
            entry = _Waiting(push, clock)
            self._queue.put(entry)
            if self._wants_sender() or not entry.claim():
                entry.done.acquire()
        finally:
            self._inside.discard(me)
            if entry is not None:
                entry.claim()
                # In this order: whoever wakes this one in vain did so before, and the rest is left to be woken here.
                entry.gone = True
                self._wake_next()
        if entry.ids is not None:
            return entry.ids
        if entry.error is not None:
            raise entry.error
        return self._run(push, clock)

    def _wants_sender(self) -> bool:
        """See to it that there is one, after something was put; False where no thread can be started."""
        if not self._sender:
            try:
                threading.Thread(target=self._send_all, name="psmq-pushes", daemon=True).start()
            except RuntimeError:  # no more threads, or the interpreter ends: everybody goes alone
                return False
        return True

    def _wake_next(self) -> None:
        """Wake one of those who sleep and know how it went."""
        while True:
            try:
                entry = self._answered[0]
            except IndexError:
                return
            gone = entry.gone
            # Woken first, then off the list: whatever comes between, none is forgotten. To be woken twice does no harm.
            try:
                entry.done.release()
                self._answered.remove(entry)
            except (RuntimeError, ValueError):  # somebody else does the same
                self._strike(entry)
            if not gone:
                return

    def _strike(self, entry: _Waiting) -> None:
        with contextlib.suppress(ValueError):
            self._answered.remove(entry)

    def _send_all(self) -> None:
        if self._sender:
            return  # somebody else was faster
        me = self._sender = threading.get_ident()
        while True:
            try:
                first = self._queue.get(timeout=_FORGOTTEN if self._answered else _IDLE)
            except Empty:
                if self._answered:
                    self._wake_next()
                    continue
                # In this order: who puts something from now on finds no sender, and what was put before is seen here.
                self._sender = 0
                if self._queue.empty():
                    return
                self._sender = me
                continue
            self._sending = True
            held = first if first.claim() else self._next()
            while held is not None:
                held = self._send(held)
            self._sending = False

    def _send(self, first: _Waiting) -> _Waiting | None:
        """Send as many as go together. → the next one, if there is one already"""
        taken, held = _take(first, self._next)
        try:
            command = _command(taken)
            if push_size(command)[1] > _QUICK:
                self._wake_next()
            ids = self._run(command, first.clock, meanwhile=self._wake_next)
        except BaseException as error:
            _failed(taken, error)
            for entry in taken:
                entry.done.release()
            return held or self._next()
        _answered(taken, ids)
        self._answered.extend(taken)
        held = held or self._next()
        if held is None or held.push.address != first.push.address:
            self._wake_next()  # the next command may take its time
        return held

    def _next(self) -> _Waiting | None:
        try:
            while not (entry := self._queue.get_nowait()).claim():
                pass
        except Empty:
            return None
        return entry


class AsyncGatherer:
    """For the coroutines of one event loop. ``run`` carries out one command."""

    def __init__(self, run: Callable[[Push, str], Awaitable[list[str]]]) -> None:
        self._run = run
        self._alone = False
        self._waiting: list[_Awaited] = []
        self._task: asyncio.Task[None] | None = None

    async def push(self, push: Push, clock: str) -> list[str]:
        """The ids, once the messages are stored. Who is cancelled here may have pushed."""
        if not self._alone:
            self._alone = True
            try:
                return await self._run(push, clock)
            finally:
                self._alone = False
        import asyncio

        loop = asyncio.get_running_loop()
        entry = _Awaited(push, clock, loop.create_future())
        self._waiting.append(entry)
        if self._task is None:
            self._task = loop.create_task(self._send_all())
        await entry.done
        if entry.ids is not None:
            return entry.ids
        if entry.error is not None:
            raise entry.error
        return await self._run(push, clock)

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                waiting = iter(self._waiting)
                taken, _ = _take(next(waiting), lambda: next(waiting, None))  # noqa: B023  # used up at once
                del self._waiting[: len(taken)]
                try:
                    _answered(taken, await self._run(_command(taken), taken[0].clock))
                except BaseException as error:
                    _failed(taken, error)
                    if not isinstance(error, Exception):
                        raise
                finally:
                    for entry in taken:
                        if not entry.done.done():
                            entry.done.set_result(None)
        finally:
            self._task = None
            for entry in self._waiting:
                if not entry.done.done():
                    entry.done.cancel()
            self._waiting.clear()
