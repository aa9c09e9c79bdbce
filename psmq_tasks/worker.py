"""What a child process does: its slots get, execute, settle, and get again.

A slot is a thread that runs one task at a time, in place. What it finished travels with its next get. Of the idle
slots one at a time waits on the server; the one that got something names the next before it works. A settler settles
for those that cannot: coroutines on the event loop, and slots whose current task takes long.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from psmq import Bury, Delete, Release
from psmq.errors import InvalidOption, PsmqError, QueueNotFound
from psmq_tasks.attempt import HeldMessage, Ready, prepare, settle
from psmq_tasks.executor import arun, run
from psmq_tasks.outcome import Raised, type_name

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from psmq import Consumer, Delivered, MessageRecord, Queue, QueueManager, Settlement
    from psmq.commands import Mode
    from psmq_tasks.app import TaskApp
    from psmq_tasks.inflight import Table
    from psmq_tasks.outcome import Outcome

__all__ = ["Child", "Served"]

#: seconds that a finished task's settlement waits for company while its slot is busy with the next
SETTLE_WITHIN: Final = 0.05
#: seconds of work that a slot holds and has not started, and messages at most
_HOLD_SECONDS: Final = 0.004
MOST_HELD: Final = 64
#: seconds the waiting slot stays on the server before it asks again by itself
_LONGEST_WAIT: Final = 2.0
#: seconds between looks of a process for suspects, and how long it stays without any
_SOLO_PAUSE, _SOLO_STAY = 0.25, 3.0
#: seconds after an outage that outlasted every retry
_AFTER_OUTAGE: Final = 1.0
#: seconds after which a stopping slot no longer waits for the answer to a question
_LAST_ANSWER: Final = 0.5
#: seconds after a mistake of ours, at most
_LONGEST_DELAY: Final = 60.0
#: settlements that the settler sends in one command
_AT_ONCE: Final = 500
#: seconds until what goes wrong in the same way is said again
_SAY_AGAIN: Final = 60.0

#: last characters of an id, which tell messages apart; they begin with the time
SHORT_ID: Final = 8

_log = logging.getLogger("psmq_tasks.worker")


class Served(NamedTuple):
    """A queue that the child serves, and the apps whose tasks are in it."""

    number: int
    queue: Queue
    apps: tuple[TaskApp, ...]


class Held(NamedTuple):
    """A message with its place in the in-flight table."""

    served: Served
    record: MessageRecord
    place: int
    generation: int


class Pending(NamedTuple):
    """A decision that the server does not know yet."""

    held: Held
    settlement: Settlement


class Pace:
    """How long messages take, and so how many a slot may hold: a few ms of work that it has not started."""

    def __init__(self) -> None:
        self._seconds = _HOLD_SECONDS  # unknown: one at a time

    def note(self, count: int, seconds: float) -> None:
        """A batch of ``count`` took so long. Slower is believed at once, faster by and by."""
        each = seconds / count
        self._seconds = each if each > self._seconds else 0.7 * self._seconds + 0.3 * each

    @property
    def batch(self) -> int:
        """Messages to ask for."""
        return max(1, min(MOST_HELD, int(_HOLD_SECONDS / self._seconds))) if self._seconds > 0 else MOST_HELD


class Seldom:
    """What many threads meet many times, and people want to read once."""

    def __init__(self) -> None:
        self._said: dict[str, float] = {}

    def __call__(self, what: str) -> bool:
        """Whether this was not said in the last minute."""
        now = time.monotonic()
        if now - self._said.get(what, -_SAY_AGAIN) < _SAY_AGAIN:
            return False
        if len(self._said) > 1000:
            self._said.clear()
        self._said[what] = now
        return True


class Child:
    """The slots of one process, its settler and its event loop."""

    def __init__(
        self,
        manager: QueueManager,
        served: Sequence[Served],
        table: Table,
        *,
        threads: int,
        async_concurrency: int,
        solo: bool = False,
    ) -> None:
        self.manager = manager
        self.served = tuple(served)
        self.table = table
        self.solo = solo
        self.pid = os.getpid()
        self.pace = Pace()
        self.seldom = Seldom()
        #: messages that wait for a process of their own, by queue
        self.suspects = dict.fromkeys((one.number for one in self.served), 0)
        self.stopping = threading.Event()
        #: held by the slot that waits on the server
        self.lead = threading.Lock()
        self.slots = [Slot(self, number) for number in range(1 if solo else threads)]
        self.settler = Settler(self)
        self.room_on_loop = threading.Semaphore(async_concurrency)
        #: no coroutine runs
        self.quiet = threading.Event()
        self.quiet.set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_lock = threading.Lock()
        self._running = 0

    def start(self) -> None:
        """Begin to serve."""
        self.settler.thread.start()
        for slot in self.slots:
            slot.thread.start()

    def stop(self) -> None:
        """Get nothing more; what runs goes on."""
        self.stopping.set()
        for slot in self.slots:
            slot.interrupt_wait()
            self.room_on_loop.release()  # whoever waits for room sees that we stop

    def join(self) -> None:
        """Wait until all that runs has ended and is settled."""
        ends = time.monotonic() + _LAST_ANSWER
        for slot in self.slots:
            slot.thread.join(max(0.0, ends - time.monotonic()))
        for slot in self.slots:
            slot.interrupt_question()
        for slot in self.slots:
            slot.thread.join()
        self.quiet.wait()
        self.settler.finish()

    # --- the server

    def hold(self, served: Served, records: Sequence[MessageRecord], slot: int) -> list[Held]:
        """Note what was got, before anything else is done with it."""
        put, queue = self.table.put, served.number
        return [
            Held(served, record, *put(slot, queue, record.retrieval_count, record.message_id, record.receipt))
            for record in records
        ]

    def exchange(self, consumer: Consumer, served: Served, pending: list[Pending], limit: int = 0) -> Delivered:
        """Tell a queue what was decided, and get up to ``limit``; takes out of ``pending`` what the server knows."""
        mode: Mode = "solo" if self.solo else "worker"
        try:
            answer = consumer.exchange(served.queue, [_words(one) for one in pending], limit, mode=mode)
        except QueueNotFound as error:
            # Deleted, and with it what we hold of it. It may be made again.
            for one in pending:
                self.table.free(one.held.place)
            pending.clear()
            if self.seldom(str(error)):
                _log.error("%s; it is served again once it exists", error)
            raise
        except InvalidOption:
            if not pending:
                raise
            self._settle_singly(consumer, served, pending)
            answer = consumer.exchange(served.queue, (), limit, mode=mode)
        else:
            self._settled(pending, answer.words)
            pending.clear()
        return answer

    def _settle_singly(self, consumer: Consumer, served: Served, pending: list[Pending]) -> None:
        """One settlement is refused, and with it all: each goes by itself, and a plain burial in its place."""
        while pending:
            one = pending[0]
            try:
                words = consumer.exchange(served.queue, [_words(one)]).words
            except InvalidOption as error:
                reason = f"the server refused what became of it: {error}"
                _log.error("%s is a dead letter now: %s", one.held.record.message_id[-SHORT_ID:], reason)
                words = consumer.exchange(served.queue, [_words(one._replace(settlement=Bury(reason)))]).words
            self._settled([one], words)
            del pending[0]

    def _settled(self, pending: Sequence[Pending], words: Sequence[str]) -> None:
        for one, word in zip(pending, words, strict=True):
            self.table.free(one.held.place)
            if word == "stale" and not (type(one.settlement) is Release and not one.settlement.count):
                short = one.held.record.message_id[-SHORT_ID:]
                _log.warning("%s had passed on to another worker: what became of it here was refused", short)

    # --- coroutines

    def run_on_loop(self, held: Held, ready: Ready, started: float) -> Settlement | None:
        """Hand a coroutine to the event loop; waits while ``async_concurrency`` of them run. A stop gives it back."""
        record = held.record
        with self._loop_lock:
            if self._loop is None:
                self._loop = _start_loop()
        self.room_on_loop.acquire()
        if self.stopping.is_set():
            self.room_on_loop.release()
            return Release(count=False)
        with self._loop_lock:
            self._running += 1
            self.quiet.clear()
        self.table.hand_to_loop(
            held.place, held.generation, held.served.number, record.retrieval_count, record.message_id, record.receipt
        )
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
        self.mark(held, settlement)
        self.settler.add(Pending(held, settlement))
        self.room_on_loop.release()
        with self._loop_lock:
            self._running -= 1
            if not self._running:
                self.quiet.set()

    async def _execute(self, held: Held, ready: Ready, started: float) -> Settlement:
        from asyncio import CancelledError

        message, began = self.begin(held, ready)
        try:
            outcome = await arun(ready.task.function, ready.args, ready.kwargs, message, ready.soft_limit)
        except CancelledError as error:  # by itself or by another task: a worker that stops lets coroutines end
            outcome = Raised(error)
        return self.decide(held, ready, message, outcome, started, began)

    # --- what slots and coroutines share

    def begin(self, held: Held, ready: Ready) -> tuple[HeldMessage, float]:
        """A task is called now. → what current_message() gives in it, and the time"""
        if ready.hard_limit is not None:
            self.table.run(held.place, held.generation, ready.hard_limit)
        message = self.message_of(held, ready)
        if ready.app.events.wanted("before_task"):
            try:
                ready.app.events.emit("before_task", app=ready.app, message=message)
            except BaseException:
                _say_broken("before_task")
        return message, time.perf_counter()

    def decide(
        self, held: Held, ready: Ready, message: HeldMessage, outcome: Outcome, started: float, began: float
    ) -> Settlement:
        """A task has ended so: what becomes of its message."""
        if os.getpid() != self.pid:
            os._exit(70)  # the task forked, and this is the copy: the original decides
        settlement = settle(ready.app, ready.task, held.record, outcome, started)
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

    def say_unready(self, held: Held, settlement: Settlement) -> None:
        """Tell the log why a message was not run: the same reason once in a while, however many messages have it."""
        short, reason = held.record.message_id[-SHORT_ID:], getattr(settlement, "reason", "")
        if type(settlement) is not Release:
            _log.error("%s is a dead letter now: %s", short, reason)
        elif self.seldom(reason):
            _log.warning("%s cannot be run here (%s); handed back for %.3g s", short, reason, settlement.delay)

    def complain(self, error: BaseException) -> None:
        """Tell the log what stands in the way, once in a while."""
        if self.seldom(type_name(error)):
            with contextlib.suppress(BaseException):
                if isinstance(error, PsmqError):
                    _log.warning("%s", error)
                else:
                    _log.error("a mistake", exc_info=error)

    def message_of(self, held: Held, ready: Ready) -> HeldMessage:
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
        if events.wanted("after_task"):
            events.emit("after_task", app=ready.app, message=message, outcome=outcome, seconds=seconds)
        short = message.message_id[-SHORT_ID:]
        if type(settlement) is Delete:
            _log.debug("%s %s done in %.3g ms", message.task, short, seconds * 1000)
            return
        if type(settlement) is Release:
            _log.warning("%s %s %s; again in %.3g s", message.task, short, settlement.reason, settlement.delay)
            events.emit("retry", app=ready.app, message=message, outcome=outcome, delay=settlement.delay)
        else:
            reason = getattr(settlement, "reason", "")
            # The id's end is what the command line takes: psmq dead show 5k2m9x1q
            _log.error("%s %s failed for good at attempt %d: %s", message.task, short, message.attempt, reason)
            events.emit("dead", app=ready.app, message=message, outcome=outcome, reason=reason)


def _words(pending: Pending) -> tuple[str, str, Settlement]:
    record = pending.held.record
    return record.message_id, record.receipt, pending.settlement


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


class Slot:
    """One thread: get, execute, settle, and again."""

    def __init__(self, child: Child, number: int) -> None:
        self.child = child
        self.number = number
        self.consumer = child.manager.consumer()
        self.thread = threading.Thread(target=self._run, name=f"psmq-slot-{number}", daemon=True)
        self._pending: list[Pending] = []
        self._pending_since = 0.0
        self._pending_lock = threading.Lock()
        #: on the server for a token; there with a question, and nothing to tell
        self._waiting = self._asking = False

    def interrupt_wait(self) -> None:
        """The child stops: a wait on the server ends now."""
        if self._waiting:
            self.consumer.shut()

    def interrupt_question(self) -> None:
        """There is nobody who answers it; should there be, the supervisor hands back what the answer gives."""
        if self._asking:
            self.consumer.shut()

    def take_pending(self, older_than: float = 0.0) -> list[Pending]:
        """The decisions that the server does not know yet, for whoever tells it next."""
        if not self._pending or time.monotonic() - self._pending_since < older_than:
            return []
        with self._pending_lock:
            taken, self._pending = self._pending, []
        return taken

    def _run(self) -> None:
        child = self.child
        while not child.stopping.is_set():
            try:
                batch = self._get()
                if batch:
                    self._work(batch)
            except BaseException as error:
                # A slot must outlive whatever happens to it.
                if not child.stopping.is_set():
                    child.complain(error)
                    child.stopping.wait(_AFTER_OUTAGE)
        self._flush()
        self.consumer.close()

    # --- getting

    def _get(self) -> list[Held]:
        """The next batch: at once if there is something, else after waiting in line for it."""
        child = self.child
        if child.solo:
            return self._next_suspect()
        batch, _ = self._visit(child.served)
        if batch:
            return batch
        with child.lead:
            while not child.stopping.is_set():
                # Asked again as leader: another may have taken the token that was meant for what came meanwhile.
                batch, wait = self._visit(child.served)
                if batch:
                    return batch
                found = self._wait(wait)
                if found is not None:
                    batch, _ = self._visit((found,))
                    if batch:
                        return batch
        return []

    def _visit(self, queues: Sequence[Served]) -> tuple[list[Held], float]:
        """Ask the queues in order, telling each what was decided. → a batch, or for how long there is none"""
        child, table = self.child, self.child.table
        wait = _LONGEST_WAIT
        for served in queues:
            pending = self._pending_for(served)
            limit = min(child.pace.batch, self._room)
            if not limit and not pending:
                continue
            # Noted before it asks: should this process end before it sees the answer, what that gave can go back.
            table.set_client(self.number, self.consumer.client_id)
            self._asking = not pending
            try:
                answer = child.exchange(self.consumer, served, pending, limit)
            except QueueNotFound:
                wait = min(wait, _AFTER_OUTAGE)
                continue
            except BaseException:
                self._keep(pending)
                raise
            finally:
                self._asking = False
            if limit:
                child.suspects[served.number] = answer.suspects
                table.report_suspects(sum(child.suspects.values()))
            if answer.messages:
                table.begin_batch(self.number)
                if self._pending:  # for queues that were not reached
                    child.settler.look()
                return child.hold(served, answer.messages, self.number), 0.0
            wait = min(wait, _pause(served, answer))
        return [], wait

    @property
    def _room(self) -> int:
        """A slot may take its share of what the table has room for: together they never take more."""
        return self.child.table.room // len(self.child.slots)

    def _wait(self, wait: float) -> Served | None:
        """As leader: wait for a token, and for nothing else. → the queue that had one

        The question does not travel behind the wait: it would be answered to a process that is stopped, or whose GIL
        is held, and nobody else would get that message before its lease ends. A lost token costs two seconds at most.
        """
        child = self.child
        if not self._room:
            child.stopping.wait(SETTLE_WITHIN)
            return None
        self._waiting = True
        try:
            if wait <= 0 or child.stopping.is_set():
                return None
            queue = self.consumer.wait_any([one.queue for one in child.served], max(wait, 0.001))
        finally:
            self._waiting = False
        return next((one for one in child.served if one.queue is queue), None)

    def _next_suspect(self) -> list[Held]:
        """One at a time: also none beside a coroutine. Without any for a while the process ends."""
        child = self.child
        child.quiet.wait()
        ends = time.monotonic() + _SOLO_STAY
        while True:
            batch, _ = self._visit(child.served)
            if batch:
                return batch
            if time.monotonic() >= ends:
                child.stopping.set()
            if child.stopping.wait(_SOLO_PAUSE):
                return []

    # --- executing

    def _work(self, batch: list[Held]) -> None:
        child, table = self.child, self.child.table
        began = time.perf_counter()
        for position, held in enumerate(batch):
            table.start(held.place, held.generation)
            # In this order: marked, then looked. The supervisor revokes, then looks at the marks.
            if table.is_revoked(self.number) or child.stopping.is_set():
                self._hand_back(batch[position:])
                return
            try:
                settlement = self._attempt(held)
            except BaseException as error:
                settlement = child.failed_ourselves(held, error)
            if settlement is not None:
                child.mark(held, settlement)
                self._decide(Pending(held, settlement), more=position + 1 < len(batch))
        child.pace.note(len(batch), time.perf_counter() - began)

    def _attempt(self, held: Held) -> Settlement | None:
        """None: the event loop has it."""
        child = self.child
        started = time.time()
        ready = prepare(held.served.apps, held.record)
        if not isinstance(ready, Ready):
            child.say_unready(held, ready)
            return ready
        if ready.task.is_async:
            return child.run_on_loop(held, ready, started)
        message, began = child.begin(held, ready)
        outcome = run(ready.task.function, ready.args, ready.kwargs, message, ready.soft_limit)
        return child.decide(held, ready, message, outcome, started, began)

    def _hand_back(self, batch: Sequence[Held]) -> None:
        """Not started: back to its place in line, uncounted; refused if the supervisor has been faster."""
        for held in batch:
            settlement = Release(count=False)
            self.child.mark(held, settlement)
            self._decide(Pending(held, settlement), more=False)

    # --- settling

    def _decide(self, pending: Pending, *, more: bool) -> None:
        with self._pending_lock:
            if not self._pending:
                self._pending_since = time.monotonic()
            self._pending.append(pending)
        if more:
            self.child.settler.look()

    def _keep(self, pending: list[Pending]) -> None:
        if pending:
            with self._pending_lock:
                self._pending = pending + self._pending

    def _pending_for(self, served: Served) -> list[Pending]:
        if len(self.child.served) == 1:
            return self.take_pending()
        with self._pending_lock:
            mine = [one for one in self._pending if one.held.served is served]
            self._pending = [one for one in self._pending if one.held.served is not served]
        return mine

    def _flush(self) -> None:
        for pending in self.take_pending():
            self.child.settler.add(pending)


def _pause(served: Served, answer: Delivered) -> float:
    longest = min(_LONGEST_WAIT, served.queue.visibility_seconds / 2)
    if answer.more:
        return 0.0
    return longest if answer.wait is None else min(longest, answer.wait)


class Settler:
    """Settles for coroutines, and for slots that are busy: a thread with a connection of its own."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.consumer = child.manager.consumer()
        self.thread = threading.Thread(target=self._run, name="psmq-settler", daemon=True)
        self._added: list[Pending] = []
        self._lock = threading.Lock()
        self._bell = threading.Event()
        self._watching = False
        self._ending = False

    def add(self, pending: Pending) -> None:
        """Settle this as soon as possible."""
        with self._lock:
            self._added.append(pending)
        self._bell.set()

    def look(self) -> None:
        """A busy slot has something that should not wait for longer than SETTLE_WITHIN."""
        if not self._watching:
            self._watching = True
            self._bell.set()

    def finish(self) -> None:
        """Settle what is left, and end."""
        self._ending = True
        self._bell.set()
        self.thread.join()
        self.consumer.close()

    def _run(self) -> None:
        while True:
            self._bell.wait(SETTLE_WITHIN if self._watching else None)
            self._bell.clear()
            # In this order: whatever was added before the end was asked for is among what is taken now.
            last = self._ending
            pending = self._take()
            try:
                self._settle(pending)
            except BaseException as error:
                self.child.complain(error)
                with self._lock:
                    self._added = pending + self._added
                time.sleep(_AFTER_OUTAGE)
                self._bell.set()
                continue
            if last:
                return

    def _take(self) -> list[Pending]:
        with self._lock:
            pending, self._added = self._added, []
        watching = False
        for slot in self.child.slots:
            pending += slot.take_pending(SETTLE_WITHIN)
            watching = watching or bool(slot._pending)
        self._watching = watching
        return pending

    def _settle(self, pending: list[Pending]) -> None:
        """Settles and takes out of the list what the server knows."""
        while pending:
            served = pending[0].held.served
            part = [one for one in pending if one.held.served is served][:_AT_ONCE]
            chosen = set(map(id, part))
            try:
                self.child.exchange(self.consumer, served, part)
            except QueueNotFound:
                pass  # and nothing left to settle there
            finally:
                left = set(map(id, part))
                pending[:] = [one for one in pending if id(one) not in chosen or id(one) in left]
