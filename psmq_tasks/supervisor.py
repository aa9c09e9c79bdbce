"""Children: start, watch, end, replace; and hand back what they held.

The supervisor runs no user code and has one thread. Through the table that each child shares with it, it does what
must go on while a child is stuck: it extends leases, ends a child that passes a task's hard limit, takes back what
waits behind a long task, and knows at once what a dead child held.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from psmq.errors import PsmqError
from psmq.kill_points import passing
from psmq_tasks import parting, signals
from psmq_tasks.beat import Beat
from psmq_tasks.dues import Dues
from psmq_tasks.estate import gives_up, last_word
from psmq_tasks.inflight import STARTED
from psmq_tasks.leases import Leases
from psmq_tasks.process import ChildProcess, Lease, Plan, Report, start_child
from psmq_tasks.teller import SHORT_ID

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Supervisor"]

#: seconds between looks at the tables, and while something in them has not been started; and for the first report
_TICK, _SHORT_TICK, _REPORT_TICK = 0.1, 0.05, 0.02
#: a child that lived for less (s) is replaced later and later, up to so many seconds if it had not come to serve
_SHORT_LIFE, _LONGEST_BACKOFF, _LONGEST_PAUSE = 5.0, 5.0, 0.5

_log = logging.getLogger("psmq_tasks.supervisor")


class Supervisor:
    """Runs ``plan.processes`` children until it is told to stop. Call ``run`` once, from the main thread."""

    # made when the first child has reported
    _dues: Dues
    _leases: Leases
    _beat: Beat

    def __init__(self, plan: Plan, on_ready: Callable[[Report], None]) -> None:
        self._plan = plan
        self._on_ready = on_ready
        self._children: list[ChildProcess] = []
        #: the first child has reported what it serves, and where
        self._serving = False
        self._signals = 0
        #: HUP is not counted: a shell and its terminal both send it, service managers beside TERM
        self._hung_up = False
        self._stop_at: float | None = None
        #: nothing is waited for any more
        self._stopped = False
        self._gave_up_tasks = 0
        #: short lives in a row and when the next may start; for the pool (False) and for suspects (True) apart, so that
        #: what a killed process left is not kept waiting by its pool's pause
        self._short_lives = {False: 0, True: 0}
        self._next_start = {False: 0.0, True: 0.0}
        self._next_burst_look = 0.0
        #: --burst is through, and so many messages wait for their time
        self._left: int | None = None

    def run(self) -> int:
        """→ exit code: 0 stopped as asked, 1 tasks were abandoned, 2 the app does not import, 3 no server."""
        with signals.handled(self._on_signal) as wakes:
            first = self._start()
            while (report := first.report()) is None:
                wakes(_REPORT_TICK)
                if self._asked_to_stop:
                    return self._end_early(first)
            if report.problem:
                first.kill()
                first.wait()
                print(f"Error: {report.problem}", file=sys.stderr, flush=True)  # as it is: no line of a log
                return report.exit_code
            self._dues = Dues(report.server)
            if not self._dues.open(report.queues, lambda: self._asked_to_stop, wakes):
                return self._end_early(first)
            self._leases = Leases(self._dues)
            self._beat = Beat(self._dues.manager, self._plan, report.queues)
            self._serving = True
            self._on_ready(report)
            first.begin()
            try:
                while self._children or self._stop_at is None:
                    wakes(_SHORT_TICK if self._leases.any_unstarted else _TICK)
                    try:
                        self._tick()
                    except Exception:
                        # Whatever went wrong here, the children still need their leases.
                        _log.exception("supervisor")
                        wakes(1.0)
                self._dues.pay(now=True)
            finally:
                for child in self._children:
                    child.kill()
                    child.wait()
                self._beat.end()
                self._dues.manager.close()
        if self._left is not None:
            words = "message or retry waits for its" if self._left == 1 else "messages or retries wait for their"
            _log.info("nothing is left to do%s", f"; {self._left} delayed {words} time" if self._left else "")
        return 1 if self._gave_up_tasks or self._dues.owes else 0

    def _end_early(self, first: ChildProcess) -> int:
        """Asked to stop before anything was served."""
        _log.info("stopping")
        first.kill()
        first.wait()
        return 0

    def _on_signal(self, number: int, _frame: Any) -> None:
        if number == signal.SIGHUP:
            self._hung_up = True
        else:
            self._signals += 2 if number == signal.SIGQUIT else 1

    @property
    def _asked_to_stop(self) -> bool:
        return self._hung_up or self._signals > 0

    # --- each tick

    def _tick(self) -> None:
        self._reap()
        self._heed()
        self._dues.pay()
        if self._stop_at is None:
            self._dues.look()
        # Read after whatever may have waited for the server: a limit is no matter for what has ended meanwhile.
        leases = self._held()
        self._enforce_limits(leases)
        self._leases.take_back(leases, self._children)
        self._leases.extend(leases, self._children)
        if self._dues.asking:
            try:
                self._beat.tell(self._children, leases)
            except PsmqError as error:
                self._dues.failing(error)
        if self._stop_at is None:
            self._fill()
            if self._plan.burst and self._is_drained(leases):
                self._begin_stop()

    def _held(self) -> list[Lease]:
        return [Lease(child, entry) for child in self._children for entry in child.table.entries()]

    def _heed(self) -> None:
        """Do what signals ask for, and what the end of the grace does."""
        if self._stop_at is None and self._asked_to_stop:
            if self._signals < 2:
                _log.info("%s", parting.stopping(self._held(), self._plan.shutdown_timeout))
            self._begin_stop()
        if self._stop_at is None or not self._children:
            return
        if self._signals > 1 or time.monotonic() >= self._stop_at:
            if not self._stopped:
                self._stopped = True
                grace = self._plan.shutdown_timeout if self._signals < 2 else None
                _log.info("%s", parting.stopped(self._held(), grace))
            for child in self._children:
                child.interrupt()

    def _begin_stop(self) -> None:
        self._stop_at = time.monotonic() + self._plan.shutdown_timeout
        for child in self._children:
            if child.table.ready:
                child.stop()
            else:
                child.interrupt()  # it imports, or waits for the server, and holds nothing
        self._leases.take_back(self._held(), self._children, all_=True)

    def _start(self, *, solo: bool = False) -> ChildProcess:
        child = start_child(self._plan, solo=solo, first=not self._serving, others=self._children)
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
            # It was said already that those are not waited for.
            level = logging.DEBUG if child.interrupted else logging.INFO if child.stopping else logging.WARNING
            _log.log(level, "process %d %s; messages it held: %d", child.pid, how, len(entries))
        for entry in entries:
            if not self._leases.was_taken_back(child, entry):
                self._gave_up_tasks += gives_up(child, entry)
                self._dues.owe(entry, last_word(child, entry))
        self._leases.forget(child.pid)
        self._dues.abandon(child.table.clients())
        passing("supervisor.estate")
        self._dues.pay()

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
        if leases or now < self._next_burst_look or not self._dues.asking:
            return False
        if not all(child.table.ready for child in self._children):
            return False
        self._next_burst_look = now + 0.2
        try:
            infos = self._dues.infos()
            if any(info.leased or (info.ready and not info.paused) for info in infos):
                return False
            # Empty one after the other is not empty: a task that ran in between may have sent to the first.
            again = self._dues.infos()
        except PsmqError as error:
            self._dues.failing(error)
            return False
        if any(info.leased or (info.ready and not info.paused) for info in again):
            return False
        if [info.counters.get("received") for info in infos] != [info.counters.get("received") for info in again]:
            return False
        self._left = sum(info.delayed for info in infos)
        return True
