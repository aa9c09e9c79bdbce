"""Runs a held message: in place, or on the child's event loop, and decides what becomes of it."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from psmq import Delete, Release
from psmq.kill_points import passing
from psmq_tasks.attempt import HeldMessage, Ready, prepare, settle
from psmq_tasks.executor import arun, run
from psmq_tasks.history import Failure
from psmq_tasks.outcome import Raised, Returned, type_name
from psmq_tasks.teller import SHORT_ID, Pending

if TYPE_CHECKING:
    import asyncio

    from psmq import Settlement
    from psmq_tasks.outcome import Outcome
    from psmq_tasks.settler import Settler
    from psmq_tasks.teller import Held, Teller

__all__ = ["Runner"]

#: seconds after a mistake of ours, at most
_LONGEST_DELAY: Final = 60.0

_log = logging.getLogger("psmq_tasks.worker")


class Runner:
    """What runs in one child process, with ``async_concurrency`` coroutines at once at most."""

    def __init__(self, teller: Teller, settler: Settler, stopping: threading.Event, *, async_concurrency: int) -> None:
        self.table = teller.table
        self._teller = teller
        self._settler = settler
        self._stopping = stopping
        self._pid = os.getpid()
        #: as ``psmq workers`` names it: our supervisor
        self._worker = f"{socket.gethostname()}:{os.getppid()}"
        self.room_on_loop = threading.Semaphore(async_concurrency)
        #: no coroutine runs
        self.quiet = threading.Event()
        self.quiet.set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_lock = threading.Lock()
        self._running = 0

    def attempt(self, held: Held) -> Settlement | None:
        """What becomes of a message that was marked started. None: the event loop has it, and will tell."""
        started = time.time()
        ready = prepare(held.served.apps, held.record, self._worker)
        if not isinstance(ready, Ready):
            self._teller.say_unready(held, ready)
            return ready
        if ready.task.is_async:
            return self._run_on_loop(held, ready, started)
        message, began = self._begin(held, ready)
        outcome = run(ready.task.function, ready.args, ready.kwargs, message, ready.soft_limit)
        return self._decide(held, ready, message, outcome, started, began)

    def _begin(self, held: Held, ready: Ready) -> tuple[HeldMessage, float]:
        """A task is called now. → what current_message() gives in it, and the time"""
        self.table.name(held.place, held.generation, ready.task.name)
        if ready.hard_limit is not None:
            self.table.run(held.place, held.generation, ready.hard_limit)
        message = self._message_of(held, ready)
        if ready.app.events.wanted("before_task"):
            try:
                ready.app.events.emit("before_task", app=ready.app, message=message)
            except BaseException:
                _say_broken("before_task")
        return message, time.perf_counter()

    def _decide(
        self, held: Held, ready: Ready, message: HeldMessage, outcome: Outcome, started: float, began: float
    ) -> Settlement:
        """A task has ended so: what becomes of its message."""
        if os.getpid() != self._pid:
            os._exit(70)  # the task forked, and this is the copy: the original decides
        # What succeeds leaves no record: nobody asks the table for it.
        records = type(outcome) is not Returned or ready.task.options.policy.judges_results
        extensions = self.table.extensions(held.place, held.generation) if records else 0
        settlement = settle(ready.app, ready.task, held.record, outcome, started, self._worker, extensions)
        try:
            self._tell(ready, message, outcome, settlement, time.perf_counter() - began)
        except BaseException:
            _say_broken("what became of a task")
        return settlement

    def failed_ourselves(self, held: Held, error: BaseException) -> Settlement:
        """A mistake of ours, or user code where none was expected: it counts as an attempt."""
        record = held.record
        with contextlib.suppress(BaseException):
            _log.error("%s: a mistake", record.message_id[-SHORT_ID:], exc_info=error)
        delay = min(2.0 ** min(record.retrieval_count - 1, 10), _LONGEST_DELAY)
        return Release(delay, reason=f"its worker failed at attempt {record.retrieval_count}: {type_name(error)}")

    def _message_of(self, held: Held, ready: Ready) -> HeldMessage:
        """What current_message() gives in the task."""
        table, place, generation = self.table, held.place, held.generation
        return HeldMessage(held.record, ready.task.name, lambda: table.is_lost(place, generation))

    def mark(self, held: Held, settlement: Settlement) -> None:
        """Should this process die before the server knows: what is to be deleted anyway need not run again."""
        if type(settlement) is Release and not settlement.count:
            self.table.unstart(held.place)
        else:
            self.table.end(held.place, done=type(settlement) is Delete and settlement.result is None)

    def _tell(self, ready: Ready, message: HeldMessage, outcome: Any, settlement: Settlement, seconds: float) -> None:
        """Tell those who watch, and the log."""
        events = ready.app.events
        if events.wanted("lease_lost") and message.lease_lost:
            events.emit("lease_lost", app=ready.app, message=message)
        if events.wanted("after_task"):
            events.emit("after_task", app=ready.app, message=message, outcome=outcome, seconds=seconds)
        short = message.message_id[-SHORT_ID:]
        if type(settlement) is Delete:
            _log.debug("%s %s done in %.3g ms", message.task, short, seconds * 1000)
            return
        if type(settlement) is Release:
            failure = settlement.failure if _log.isEnabledFor(logging.DEBUG) else None
            again = (settlement.reason, settlement.delay)
            _say(logging.WARNING, failure, "%s %s %s; again in %.3g s", message.task, short, *again)
            events.emit("retry", app=ready.app, message=message, outcome=outcome, delay=settlement.delay)
        else:
            reason = getattr(settlement, "reason", "")
            text = "%s %s failed for good at attempt %d: %s (psmq dead show %s)"
            failure = getattr(settlement, "failure", None)
            _say(logging.ERROR, failure, text, message.task, short, message.attempt, reason, short)
            events.emit("dead", app=ready.app, message=message, outcome=outcome, reason=reason)

    # --- coroutines

    def _run_on_loop(self, held: Held, ready: Ready, started: float) -> Settlement | None:
        """Hand a coroutine to the event loop; waits while ``async_concurrency`` of them run. A stop gives it back."""
        record = held.record
        with self._loop_lock:
            if self._loop is None:
                self._loop = _start_loop()
        self.room_on_loop.acquire()
        if self._stopping.is_set():
            self.room_on_loop.release()
            return Release(count=False)
        with self._loop_lock:
            self._running += 1
            self.quiet.clear()
        self.table.hand_to_loop(
            held.place, held.generation, held.served.number, record.retrieval_count, record.message_id, record.receipt
        )
        passing("loop.handed")
        self._loop.call_soon_threadsafe(self._spawn, held, ready, started)
        return None

    def _spawn(self, held: Held, ready: Ready, started: float) -> None:
        assert self._loop is not None
        task = self._loop.create_task(self._run_coroutine(held, ready, started))
        _running_coroutines.add(task)
        task.add_done_callback(_running_coroutines.discard)

    async def _run_coroutine(self, held: Held, ready: Ready, started: float) -> None:
        try:
            settlement = await self._execute(held, ready, started)
        except BaseException as error:
            settlement = self.failed_ourselves(held, error)
        passing("loop.ended")
        self.mark(held, settlement)
        self._settler.add(Pending(held, settlement))
        self.room_on_loop.release()
        with self._loop_lock:
            self._running -= 1
            if not self._running:
                self.quiet.set()

    async def _execute(self, held: Held, ready: Ready, started: float) -> Settlement:
        from asyncio import CancelledError

        message, began = self._begin(held, ready)
        try:
            outcome = await arun(ready.task.function, ready.args, ready.kwargs, message, ready.soft_limit)
        except CancelledError as error:  # by itself or by another task: a worker that stops lets coroutines end
            outcome = Raised(error)
        return self._decide(held, ready, message, outcome, started, began)


def _say(level: int, failure: bytes | None, text: str, *words: object) -> None:
    """A line of the log; below it the traceback of this failure record, which formatters show like an exception's."""
    if not _log.isEnabledFor(level):
        return
    file, line, function, _ = _log.findCaller(stacklevel=2)
    record = _log.makeRecord(_log.name, level, file, line, text, words, None, function)
    trace = Failure.unpack(failure).traceback.rstrip() if failure else ""
    record.exc_text = trace if "\n" in trace else None  # one line says no more than the reason does
    _log.handle(record)


def _say_broken(what: str) -> None:
    """Watchers (subscribers, log filters and handlers) change nothing for the task, whatever they raise."""
    with contextlib.suppress(BaseException):
        _log.exception("whoever watches %s failed", what)


_running_coroutines: Final[set[Any]] = set()


def _start_loop() -> asyncio.AbstractEventLoop:
    import asyncio

    loop = asyncio.new_event_loop()
    threading.Thread(target=_run_loop, args=(loop,), name="psmq-loop", daemon=True).start()
    return loop


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    # A coroutine can stop its loop, and sys.exit() in a task that it made comes out here: the others go on.
    while not loop.is_closed():
        try:
            loop.run_forever()
        except BaseException:
            with contextlib.suppress(BaseException):
                _log.exception("a task hit the event loop; it goes on")
