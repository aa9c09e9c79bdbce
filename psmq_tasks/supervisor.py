"""Children: start, watch, end, replace; and hand back what they held.

The supervisor runs no user code and has one thread. Through the table that each child shares with it, it does what
must go on while a child is stuck: it extends leases, ends a child that passes a task's hard limit, takes back what
waits behind a long task, and knows at once what a dead child held.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from psmq import Delete, QueueManager, Release
from psmq.errors import InvalidOption, OutcomeUnknown, PsmqError, QueueNotFound, ServerUnreachable
from psmq.kill_points import passing
from psmq_tasks.beat import Beat
from psmq_tasks.history import Failure
from psmq_tasks.inflight import DONE, HELD, STARTED, Entry
from psmq_tasks.process import ChildProcess, Lease, Plan, Report, start_child
from psmq_tasks.teller import SHORT_ID

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from psmq import Consumer, Queue, QueueInfo, Settlement

__all__ = ["Supervisor"]

#: seconds between looks at the tables, and while something in them has not been started
_TICK, _SHORT_TICK = 0.1, 0.05
#: seconds a slot may hold what it has not started, before that is given to others: behind a task that runs for so long,
#: and behind nothing that runs
_BEHIND_LONG, _LONG = 0.04, 0.1
#: messages in one call of what a dead child leaves behind
_BILL: Final = 100
#: seconds between revoking and looking at the marks: a slot marks, then looks at `revoked`
_REVOKE_PAUSE: Final = 0.003
#: seconds a call of the supervisor may take: it has more to do than to wait for a server
_PATIENCE: Final = 2.0
#: seconds between questions whether the server is there
_LOOK: Final = 5.0
#: seconds a lease lasts, as long as nothing else is known
_LEASE: Final = 30.0
#: seconds a task without a hard limit keeps its lease
MAX_LEASE: Final = 12 * 3600.0
#: a child that lived for less (s) is replaced later and later, up to so many seconds if it had not come to serve
_SHORT_LIFE, _LONGEST_BACKOFF, _LONGEST_PAUSE = 5.0, 5.0, 0.5
#: seconds until a task is tried again whose process was ended, at most
_LONGEST_DELAY: Final = 60.0

_log = logging.getLogger("psmq_tasks.supervisor")
_host: Final = socket.gethostname()


class Supervisor:
    """Runs ``plan.processes`` children until it is told to stop. Call ``run`` once, from the main thread."""

    def __init__(self, plan: Plan, on_ready: Callable[[Report], None]) -> None:
        self._plan = plan
        self._on_ready = on_ready
        self._children: list[ChildProcess] = []
        self._queues: list[Queue] = []
        self._consumer: Consumer | None = None
        self._manager: QueueManager | None = None
        self._beat: Beat | None = None
        #: what the server has not been told yet: (queue's index, message id, receipt, settlement)
        self._owed: list[tuple[int, str, str, Settlement]] = []
        self._abandoned: list[str] = []
        self._taken_back: set[tuple[int, int, int]] = set()
        #: what was not started when it was seen first, and when that was
        self._held_since: dict[tuple[int, int, int], float] = {}
        self._extended_at = time.monotonic()
        self._failing_since: float | None = None
        #: after an outage began: there is more to do than to wait for a server
        self._ask_again_at = 0.0
        self._signals = 0
        self._stop_at: float | None = None
        self._gave_up_tasks = 0
        #: short lives in a row and when the next may start; for the pool (False) and for suspects (True) apart, so that
        #: what a killed process left is not kept waiting by its pool's pause
        self._short_lives = {False: 0, True: 0}
        self._next_start = {False: 0.0, True: 0.0}
        self._next_burst_look = 0.0
        self._next_look = 0.0
        #: --burst is through, and so many messages wait for their time
        self._left: int | None = None

    def run(self) -> int:
        """→ exit code: 0 stopped as asked, 1 tasks were abandoned, 2 the app does not import, 3 no server."""
        with _signals(self._on_signal) as wakes:
            first = self._start()
            while (report := first.report()) is None:
                wakes(_TICK)
                if self._signals:
                    first.kill()
                    first.wait()
                    return 0
            if report.problem:
                first.kill()
                first.wait()
                print(report.problem, file=sys.stderr, flush=True)  # as it is: no line of a log
                return report.exit_code
            if not self._connect(report, wakes):
                first.kill()
                first.wait()
                return 0
            assert self._manager is not None
            self._beat = Beat(self._manager, self._plan, report.queues)
            self._on_ready(report)
            try:
                while self._children or self._stop_at is None:
                    wakes(_SHORT_TICK if self._held_since else _TICK)
                    try:
                        self._tick()
                    except Exception:
                        # Whatever went wrong here, the children still need their leases.
                        _log.exception("supervisor")
                        wakes(1.0)
                self._pay(now=True)
            finally:
                for child in self._children:
                    child.kill()
                    child.wait()
                self._beat.end()
                self._manager.close()
        if self._left is not None:
            words = "message or retry waits for its" if self._left == 1 else "messages or retries wait for their"
            _log.info("nothing is left to do%s", f"; {self._left} delayed {words} time" if self._left else "")
        return 1 if self._gave_up_tasks or self._owed else 0

    def _connect(self, report: Report, wakes: Callable[[float], None]) -> bool:
        """Open the queues, however long the server takes. → False: asked to stop meanwhile"""
        self._manager = QueueManager(**report.server, timeout=_PATIENCE)
        self._consumer = self._manager.consumer()
        while not self._signals:
            try:
                # Made anew should one have been deleted since the child opened it.
                self._queues = [self._manager.get_queue(name) for name in report.queues]
            except (ServerUnreachable, OutcomeUnknown) as error:
                self._failing(error)
                wakes(1.0)
            else:
                self._answered()
                return True
        return False

    def _on_signal(self, number: int, _frame: Any) -> None:
        self._signals += 2 if number == signal.SIGQUIT else 1

    # --- each tick

    def _tick(self) -> None:
        self._reap()
        self._pay()
        if self._stop_at is None and self._signals:
            self._begin_stop()
        if self._stop_at is not None and (self._signals > 1 or time.monotonic() >= self._stop_at):
            for child in self._children:
                child.interrupt()
        self._look_for_server()
        # Read after whatever may have waited for the server: a limit is no matter for what has ended meanwhile.
        leases = [Lease(child, entry) for child in self._children for entry in child.table.entries()]
        self._enforce_limits(leases)
        self._take_back(leases)
        self._extend(leases)
        if self._beat is not None and time.monotonic() >= self._ask_again_at:
            try:
                self._beat.tell(self._children, leases)
            except PsmqError as error:
                self._failing(error)
        if self._stop_at is None:
            self._fill()
            if self._plan.burst and self._is_drained(leases):
                self._begin_stop()

    def _begin_stop(self) -> None:
        self._stop_at = time.monotonic() + self._plan.shutdown_timeout
        for child in self._children:
            if child.table.ready:
                child.stop()
            else:
                child.interrupt()  # it imports, or waits for the server, and holds nothing
        self._take_back([Lease(child, entry) for child in self._children for entry in child.table.entries()], all_=True)

    def _start(self, *, solo: bool = False) -> ChildProcess:
        child = start_child(self._plan, solo=solo, first=not self._queues, others=self._children)
        self._children.append(child)
        passing("supervisor.forked")
        return child

    def _fill(self) -> None:
        """Replace children that died; start one for suspects, which run alone until it is known who kills."""
        now = time.monotonic()
        ordinary = sum(not child.solo for child in self._children)
        suspects = max((child.table.suspects for child in self._children), default=0)
        solo = len(self._children) - ordinary
        try:
            while ordinary < self._plan.processes and now >= self._next_start[False]:
                self._start()
                ordinary += 1
            if solo < min(suspects, self._plan.processes) and now >= self._next_start[True]:
                self._start(solo=True)
        except OSError as error:
            _log.error("cannot start a process: %s", error)
            self._next_start = dict.fromkeys(self._next_start, now + _LONGEST_BACKOFF)

    def _reap(self) -> None:
        for child in list(self._children):
            if not child.has_ended():
                continue
            self._children.remove(child)
            finished = child.exit_code == 0 and (child.solo or self._stop_at is not None)
            self._settle_estate(child, finished=finished)
            if self._beat is not None:
                self._beat.remember(child)
            child.close()
            if finished and child.solo:
                for other in self._children:
                    other.table.report_suspects(0)  # until they ask again
            if finished or child.over_limit is not None:
                continue
            lived = time.monotonic() - child.started_at
            short = min(self._short_lives[child.solo] + 1, 10) if lived < _SHORT_LIFE else 0
            self._short_lives[child.solo] = short
            if short > 1:
                longest = _LONGEST_PAUSE if child.table.ready else _LONGEST_BACKOFF
                self._next_start[child.solo] = time.monotonic() + min(0.05 * 2.0**short, longest)

    # --- what a child leaves behind

    def _settle_estate(self, child: ChildProcess, *, finished: bool) -> None:
        """A dead child writes no more: its table says what it held and how far it was."""
        entries = list(child.table.entries())
        if not finished or entries:
            how = child.how_it_ended()
            level = logging.INFO if child.stopping else logging.WARNING
            _log.log(level, "process %d %s; messages it held: %d", child.pid, how, len(entries))
        for entry in entries:
            key = (child.pid, entry.place, entry.generation)
            if key in self._taken_back and entry.state == HELD:
                continue
            self._owed.append((entry.queue, entry.message_id, entry.receipt, self._last_word(child, entry)))
        self._taken_back = {key for key in self._taken_back if key[0] != child.pid}
        self._abandoned += child.table.clients()
        passing("supervisor.estate")
        self._pay()

    def _last_word(self, child: ChildProcess, entry: Entry) -> Settlement:
        if entry.state == DONE:
            return Delete()
        if entry.state == HELD:
            return Release(count=False)
        if child.over_limit is not None:
            if child.over_limit[:2] != (entry.place, entry.generation):
                return Release(count=False)  # ended by us, for another's sake
            reason = f"passed its time limit of {entry.limit:g} s and was ended with its process"
            delay = min(2.0 ** min(entry.attempt - 1, 10), _LONGEST_DELAY)
            failure = _failure(child, entry, "timed out", "TimeLimitExceeded", reason, delay)
            return Release(delay, failure=failure, reason=reason, result=f"!timeout {entry.limit:g}".encode())
        if child.interrupted:
            self._gave_up_tasks += 1
            return Release(count=False)  # interrupted by the shutdown, not by itself
        how = child.how_it_ended()
        return Release(
            failure=_failure(child, entry, "lost", "WorkerLost", how, 0.0),
            reason=f"its process was lost at attempt {entry.attempt}: {how}",
            crashed=True,
            result=f"!lost {how}".encode(),
        )

    def _pay(self, *, now: bool = False) -> None:
        """Tell the server what it is owed; what it cannot be told now stays for a later tick."""
        if (not self._owed and not self._abandoned) or (not now and time.monotonic() < self._ask_again_at):
            return
        assert self._consumer is not None
        failed: set[object] = set()
        for index, queue in enumerate(self._queues):
            mine = [item[1:] for item in self._owed if item[0] == index]
            node = self._consumer.node_of(queue)
            if node in failed:
                continue
            try:
                for start in range(0, len(mine), _BILL):
                    answer = self._consumer.exchange(queue, mine[start : start + _BILL])
                    self._report_dead(mine[start : start + _BILL], answer.words)
                # After what is known of them: what is still theirs then, they never saw.
                for client_id in self._abandoned:
                    self._consumer.abandon(queue, client_id)
            except QueueNotFound:
                pass
            except InvalidOption:
                _log.exception("the server refuses what became of %d messages: their leases end", len(mine))
            except PsmqError as error:
                self._failing(error)
                failed.add(node)  # in a cluster the others may well answer
                continue
            self._owed = [item for item in self._owed if item[0] != index]
        passing("supervisor.paid")
        if not failed:
            self._abandoned = []
            self._answered()

    def _report_dead(self, settlements: Iterable[tuple[str, str, Settlement]], words: list[str]) -> None:
        for (message_id, _, settlement), word in zip(settlements, words, strict=True):
            if word == "dead" and isinstance(settlement, Release):
                _log.error("%s is a dead letter now: %s", message_id[-SHORT_ID:], settlement.reason)

    # --- leases

    def _extend(self, leases: list[Lease]) -> None:
        now = time.monotonic()
        if now < self._ask_again_at or now - self._extended_at < self._shortest_lease() / 3:
            return
        assert self._consumer is not None
        failed: set[object] = set()
        asked = False
        for index, queue in enumerate(self._queues):
            mine = [lease for lease in leases if lease.entry.queue == index and self._keeps(lease, now)]
            node = self._consumer.node_of(queue)
            if not mine or node in failed:
                continue
            try:
                pairs = [(lease.entry.message_id, lease.entry.receipt) for lease in mine]
                words = self._consumer.extend(queue, pairs)
                asked = True
            except QueueNotFound:
                continue
            except PsmqError as error:
                self._failing(error)
                failed.add(node)
                continue
            for lease, word in zip(mine, words, strict=True):
                if word == "stale":
                    self._lose(lease)
                else:
                    lease.child.table.note_extended(lease.entry)
        passing("supervisor.extended")
        if not failed:
            if asked:
                self._answered()
            self._extended_at = now

    def _shortest_lease(self) -> float:
        """A child asks for leases as its queues were set up when it started, which may have been after us."""
        ours = [queue.visibility_seconds for queue in self._queues]
        return min(ours + [child.table.lease for child in self._children if child.table.ready], default=_LEASE)

    def _keeps(self, lease: Lease, now: float) -> bool:
        child, entry = lease
        if (child.pid, entry.place, entry.generation) in self._taken_back and entry.state == HELD:
            return False
        if child.table.is_lost(entry.place, entry.generation):
            return False
        if entry.started_at and not entry.limit and now - entry.started_at > MAX_LEASE:
            child.table.lose(entry)
            short, hours = entry.message_id[-SHORT_ID:], MAX_LEASE / 3600
            _log.error("%s runs for more than %g h: others may have it (a time_limit would end it)", short, hours)
            return False
        return True

    def _lose(self, lease: Lease) -> None:
        """Refused: settled in this moment, or passed on. The table as it is now tells which."""
        for entry in lease.child.table.entries():
            same = entry.place == lease.entry.place and entry.generation == lease.entry.generation
            if same and entry.state == STARTED:
                lease.child.table.lose(entry)
                short = entry.message_id[-SHORT_ID:]
                _log.warning("%s has passed to another worker, though it still runs here", short)

    def _take_back(self, leases: list[Lease], *, all_: bool = False) -> None:
        """Give to others what a slot does not come to start (or everything not started, at a stop), uncounted.

        It is behind a long task, its process is stopped or another thread there keeps the GIL: slots take no more than
        ten milliseconds of work.
        """
        now = time.monotonic()
        keys = {(child.pid, entry.place, entry.generation): (child, entry) for child, entry in leases}
        self._taken_back &= keys.keys()
        held = {key: lease for key, lease in keys.items() if lease[1].state == HELD and lease[1].slot is not None}
        self._held_since = {key: self._held_since.get(key, now) for key in held}
        running = {(child.pid, entry.slot): entry.started_at for child, entry in leases if entry.state == STARTED}
        wanted: dict[tuple[int, int, int], ChildProcess] = {}
        for key, (child, entry) in held.items():
            started = running.get((child.pid, entry.slot))
            long = now - self._held_since[key] >= _LONG if started is None else now - started >= _BEHIND_LONG
            if key not in self._taken_back and (all_ or long):
                assert entry.slot is not None
                child.table.revoke(entry.slot)
                wanted[key] = child
        if not wanted:
            return
        passing("supervisor.revoked")
        time.sleep(_REVOKE_PAUSE)
        for child in {child.pid: child for child in wanted.values()}.values():
            for entry in child.table.entries():
                key = (child.pid, entry.place, entry.generation)
                if key in wanted and entry.state == HELD:
                    self._taken_back.add(key)
                    self._owed.append((entry.queue, entry.message_id, entry.receipt, Release(count=False)))
        self._pay()

    def _enforce_limits(self, leases: list[Lease]) -> None:
        now = time.monotonic()
        for child, entry in leases:
            over = entry.limit and entry.started_at and now - entry.started_at > entry.limit
            if entry.state == STARTED and over and child.over_limit is None:
                short = entry.message_id[-SHORT_ID:]
                _log.error("%s passed its time limit of %g s: ending process %d", short, entry.limit, child.pid)
                child.over_limit = (entry.place, entry.generation)
                passing("supervisor.limit")
                child.kill()

    # --- the rest

    def _is_drained(self, leases: list[Lease]) -> bool:
        """--burst: nothing is ready or leased any more; what waits for its time stays."""
        now = time.monotonic()
        if leases or now < max(self._next_burst_look, self._ask_again_at):
            return False
        if not all(child.table.ready for child in self._children):
            return False
        self._next_burst_look = now + 0.2
        try:
            infos = self._infos()
            if any(info.leased or (info.ready and not info.paused) for info in infos):
                return False
            # Empty one after the other is not empty: a task that ran in between may have sent to the first.
            again = self._infos()
        except PsmqError as error:
            self._failing(error)
            return False
        if any(info.leased or (info.ready and not info.paused) for info in again):
            return False
        if [info.counters.get("received") for info in infos] != [info.counters.get("received") for info in again]:
            return False
        self._left = sum(info.delayed for info in infos)
        return True

    def _infos(self) -> list[QueueInfo]:
        infos = []
        for queue in self._queues:
            with contextlib.suppress(QueueNotFound):
                infos.append(queue.info())
        return infos

    def _look_for_server(self) -> None:
        """Children that have nothing to do wait out an outage in silence: it is told of here."""
        if self._stop_at is not None or time.monotonic() < max(self._next_look, self._ask_again_at):
            return
        try:
            self._queues[0].info()
            self._answered()
        except QueueNotFound:
            self._answered()
        except PsmqError as error:
            self._failing(error)
        self._next_look = time.monotonic() + _LOOK

    def _failing(self, error: PsmqError) -> None:
        if self._failing_since is None:
            self._failing_since = time.monotonic()
            _log.warning("the server does not answer (%s); running tasks go on", error)
        self._ask_again_at = time.monotonic() + min(1.0, self._shortest_lease() / 6)

    def _answered(self) -> None:
        if self._failing_since is not None:
            _log.warning("the server answers again after %.1f s", time.monotonic() - self._failing_since)
            self._failing_since = None


def _failure(child: ChildProcess, entry: Entry, outcome: Any, kind: str, message: str, delay: float) -> bytes:
    """No policy is asked: it is the user's code. The server compares the message's count with its limit."""
    now = time.time()
    again = "again, alone" if outcome == "lost" else f"again in {delay:g} s"
    ran = time.monotonic() - entry.started_at if entry.started_at else 0.0
    record = Failure(
        attempt=entry.attempt,
        outcome=outcome,
        type=kind,
        message=message,
        traceback="",
        started=now - ran,
        ended=now,
        host=_host,
        pid=child.pid,
        task=child.table.task_of(entry),
        decision=f"{again}, if the limit allows",
        why=f"decided by the supervisor: attempt {entry.attempt} counts towards max_retrievals",
        delay=delay,
        worker=f"{_host}:{os.getpid()}",
        extensions=child.table.extensions(entry.place, entry.generation),
    )
    return record.pack()


@contextlib.contextmanager
def _signals(handler: Callable[[int, Any], None]) -> Any:
    """Handles TERM, INT and QUIT, and yields a wait that any signal (a child's death too) ends."""
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    old_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    handled = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)}
    handled[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
    with selectors.DefaultSelector() as selector, reader, writer:
        selector.register(reader, selectors.EVENT_READ)

        def wait(seconds: float) -> None:
            if selector.select(seconds):
                with contextlib.suppress(BlockingIOError):
                    while reader.recv(256):
                        pass

        try:
            yield wait
        finally:
            signal.set_wakeup_fd(old_fd)
            for number, old in handled.items():
                signal.signal(number, old)
