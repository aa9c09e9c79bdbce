"""A slot: one thread that gets, executes, settles, and gets again.

What it finished travels with its next get. Of a child's idle slots one at a time waits on the server; the one that got
something names the next before it works.
"""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from psmq import Release
from psmq.errors import QueueNotFound
from psmq.kill_points import passing
from psmq_tasks.pace import MOST_HELD, Lead, Pace, waits
from psmq_tasks.settler import AFTER_OUTAGE, SETTLE_WITHIN
from psmq_tasks.teller import Pending

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psmq import Consumer, Delivered
    from psmq_tasks.runner import Runner
    from psmq_tasks.settler import Settler
    from psmq_tasks.teller import Held, Served, Teller

__all__ = ["Crew", "Slot"]

#: seconds the waiting slot stays on the server before it asks again by itself
_LONGEST_WAIT: Final = 2.0
#: seconds between looks of a process for suspects, and how long it stays without any
_SOLO_PAUSE, _SOLO_STAY = 0.25, 3.0
#: a slot asks ahead when so many messages take no longer than it may hold them
_WORTH_ASKING: Final = 4


@dataclass(frozen=True)
class Crew:
    """What the slots of a child share."""

    served: tuple[Served, ...]
    teller: Teller
    settler: Settler
    runner: Runner
    stopping: threading.Event
    #: how many slots there are
    size: int
    #: takes suspects only, one at a time
    solo: bool
    #: held by the slot that waits on the server, or works alone
    lead: Lead
    pace: Pace = field(default_factory=Pace)
    #: messages that wait for a process of their own, by queue
    suspects: dict[int, int] = field(default_factory=dict)


class Slot:
    """One thread: get, execute, settle, and again."""

    def __init__(self, crew: Crew, consumer: Consumer, number: int) -> None:
        self.crew = crew
        self.number = number
        self.consumer = consumer
        self.thread = threading.Thread(target=self._run, name=f"psmq-slot-{number}", daemon=True)
        self._pending: list[Pending] = []
        self._pending_since = 0.0
        self._pending_lock = threading.Lock()
        #: how many the last question was for
        self._wanted = 0
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

    @property
    def has_pending(self) -> bool:
        """Whether there are decisions that the server does not know yet."""
        return bool(self._pending)

    def take_pending(self, older_than: float = 0.0) -> list[Pending]:
        """The decisions that the server does not know yet, for whoever tells it next."""
        if not self._pending or time.monotonic() - self._pending_since < older_than:
            return []
        with self._pending_lock:
            taken, self._pending = self._pending, []
        return taken

    def _run(self) -> None:
        crew = self.crew
        while not crew.stopping.is_set():
            try:
                batch = self._get()
                while batch:
                    batch = self._serve(batch)
            except BaseException as error:
                # A slot must outlive whatever happens to it.
                if not crew.stopping.is_set():
                    crew.teller.complain(error)
                    crew.stopping.wait(AFTER_OUTAGE)
        crew.lead.pass_on(self)
        self._flush()
        self.consumer.close()

    # --- getting

    def _get(self) -> list[Held]:
        """The next batch: at once if there is something, else after waiting in line for it."""
        crew = self.crew
        if crew.solo:
            return self._next_suspect()
        if not crew.lead.asks(self):
            if not crew.pace.alone:
                batch, _ = self._visit(crew.served)
                if batch:
                    return batch
            if not crew.lead.take(self, wait=False):
                self._flush()  # what was decided does not wait in line
                crew.lead.take(self, wait=True)
        try:
            batch = self._get_as_leader()
        except BaseException:
            crew.lead.pass_on(self)
            raise
        if not batch or not crew.pace.alone:
            crew.lead.pass_on(self)
        return batch

    def _get_as_leader(self) -> list[Held]:
        """Asks, waits for a token, asks again. Empty: the child stops."""
        crew = self.crew
        while not crew.stopping.is_set():
            # Asked again as leader: another may have taken the token that was meant for what came meanwhile.
            batch, wait = self._visit(crew.served)
            while not batch and wait > 0 and self._may_wait_with_question:
                batch, wait = self._wait_with_question(crew.served[0], wait)
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
        crew = self.crew
        wait = _LONGEST_WAIT
        for served in queues:
            pending = self._pending_for(served)
            limit = min(crew.pace.batch, self._room)
            if not limit and not pending:
                continue
            try:
                answer = self._ask(served, pending, limit)
            except QueueNotFound:
                wait = min(wait, AFTER_OUTAGE)
                continue
            if answer.messages:
                if self._pending:  # for queues that were not reached
                    crew.settler.look()
                return self._take(served, answer), 0.0
            wait = min(wait, _pause(served, answer))
        return [], wait

    def _ask(
        self,
        served: Served,
        pending: list[Pending],
        limit: int,
        *,
        wake: float | None = None,
        ahead: _Ahead | None = None,
    ) -> Delivered:
        """One exchange; what was decided stays ours to tell if that fails."""
        crew, table = self.crew, self.crew.teller.table
        # Noted before it asks: should this process end before it sees the answer, what that gave can go back.
        table.set_client(self.number, self.consumer.client_id)
        self._wanted = limit if wake is None else MOST_HELD
        self._asking = not pending and ahead is None
        passing("slot.asking")
        try:
            work = None if ahead is None else ahead.work
            answer = crew.teller.exchange(self.consumer, served, pending, limit, wake=wake, meanwhile=work)
        except QueueNotFound:
            raise
        except BaseException:
            self._keep(pending)
            raise
        finally:
            self._asking = False
        if limit:
            crew.suspects[served.number] = answer.suspects
            table.report_suspects(sum(crew.suspects.values()))
        return answer

    def _take(self, served: Served, answer: Delivered, *, keeps: bool = True) -> list[Held]:
        """Note what an answer gave; if the supervisor has taken that back, it goes, and this client is another one."""
        if not keeps:
            self.consumer.renew()
        if not answer.messages:
            return []
        passing("slot.got")
        self.crew.teller.table.begin_batch(self.number)
        messages = self.crew.teller.hold(served, answer.messages, self.number)
        if keeps:
            return messages
        self._hand_back(messages)
        return []

    @property
    def _room(self) -> int:
        """A slot may take its share of what the table has room for: together they never take more."""
        return self.crew.teller.table.room // self.crew.size

    @property
    def _may_wait_with_question(self) -> bool:
        """Whether this slot surely reads an answer when it comes: no task holds the GIL, and should somebody stop the
        process, the supervisor sees it.
        """
        crew = self.crew
        idle = crew.teller.table.is_empty and not crew.stopping.is_set()
        return idle and len(crew.served) == 1 and not crew.solo and sys.platform == "linux"

    def _wait_with_question(self, served: Served, wait: float) -> tuple[list[Held], float]:
        """As leader: wait for a token with a question for one message behind it, which the server answers the moment
        it gives the token. → as _visit
        """
        table, number = self.crew.teller.table, self.consumer.number + 1
        keeps = True
        self._waiting = True
        try:
            table.expect(self.number, number, awaited=True)
            if self.crew.stopping.is_set():
                return [], 0.0
            passing("slot.waiting")
            answer = self._ask(served, [], 1, wake=max(wait, 0.001))
        except QueueNotFound:
            return [], AFTER_OUTAGE
        finally:
            self._waiting = False
            keeps = table.read(self.number, number)
        return self._take(served, answer, keeps=keeps), _pause(served, answer)

    def _wait(self, wait: float) -> Served | None:
        """As leader: wait for a token, and for nothing else. → the queue that had one

        The question does not travel behind the wait: while a task may hold the GIL it would be answered to nobody, and
        nobody else would get that message before its lease ends. A lost token costs two seconds at most.
        """
        crew = self.crew
        if not self._room:
            crew.stopping.wait(SETTLE_WITHIN)
            return None
        self._waiting = True
        try:
            if wait <= 0 or crew.stopping.is_set():
                return None
            passing("slot.waiting")
            queue = self.consumer.wait_any([one.queue for one in crew.served], max(wait, 0.001))
        finally:
            self._waiting = False
        return next((one for one in crew.served if one.queue is queue), None)

    def _next_suspect(self) -> list[Held]:
        """One at a time: also none beside a coroutine. Without any for a while the process ends."""
        crew = self.crew
        crew.runner.quiet.wait()
        ends = time.monotonic() + _SOLO_STAY
        while True:
            batch, _ = self._visit(crew.served)
            if batch:
                return batch
            if time.monotonic() >= ends:
                crew.stopping.set()
            if crew.stopping.wait(_SOLO_PAUSE):
                return []

    # --- executing

    def _serve(self, batch: list[Held]) -> list[Held]:
        """Work. → the next batch, if it was worth asking for it meanwhile"""
        crew, served = self.crew, batch[0].served
        if crew.lead.is_held_by(self):
            if crew.pace.alone:
                crew.lead.works(self)
                crew.settler.look()
            else:
                crew.lead.pass_on(self)
        limit = min(crew.pace.batch, self._room)
        if not self._asks_ahead(batch, limit):
            self._work(batch)
            return []
        pending = self._pending_for(served)
        ahead = _Ahead(self, batch, asking=not pending)
        try:
            answer = self._ask(served, pending, limit, ahead=ahead)
        except QueueNotFound:
            return []
        finally:
            ahead.work()  # whatever became of the question
            self._asking = False
        return self._take(served, answer, keeps=ahead.keeps)

    def _asks_ahead(self, batch: list[Held], limit: int) -> bool:
        """Where a batch was full there is likely to be more. Nobody else comes to what this slot has not read, so it
        asks only where work is short; and not before it has asked for what is more urgent.
        """
        crew = self.crew
        if len(batch) < self._wanted or limit < _WORTH_ASKING or batch[0].served is not crew.served[0]:
            return False
        if crew.solo or crew.stopping.is_set():
            return False
        return crew.lead.is_held_by(self) or not crew.pace.alone

    def _work(self, batch: list[Held]) -> None:
        crew, table = self.crew, self.crew.teller.table
        alone, began, waited = crew.lead.is_held_by(self), time.perf_counter(), waits()
        passing("slot.held")
        for position, held in enumerate(batch):
            table.start(held.place, held.generation)
            passing("slot.started")
            # In this order: marked, then looked. The supervisor revokes, then looks at the marks.
            if table.is_revoked(self.number) or crew.stopping.is_set():
                self._hand_back(batch[position:])
                return
            try:
                settlement = crew.runner.attempt(held)
            except BaseException as error:
                settlement = crew.runner.failed_ourselves(held, error)
            if settlement is not None:
                passing("slot.ended")
                crew.runner.mark(held, settlement)
                passing("slot.marked")
                self._decide(Pending(held, settlement), more=position + 1 < len(batch))
        crew.pace.note(len(batch), time.perf_counter() - began)
        if crew.lead.is_held_by(self):
            crew.pace.note_alone(len(batch), waits() - waited)
        elif alone:
            crew.pace.note_stuck()

    def _hand_back(self, batch: Sequence[Held]) -> None:
        """Not started: back to its place in line, uncounted; refused if the supervisor has been faster."""
        for held in batch:
            settlement = Release(count=False)
            self.crew.runner.mark(held, settlement)
            self._decide(Pending(held, settlement), more=False)

    # --- settling

    def _decide(self, pending: Pending, *, more: bool) -> None:
        with self._pending_lock:
            if not self._pending:
                self._pending_since = time.monotonic()
            self._pending.append(pending)
        if more:
            self.crew.settler.look()

    def _keep(self, pending: list[Pending]) -> None:
        if pending:
            with self._pending_lock:
                self._pending = pending + self._pending

    def _pending_for(self, served: Served) -> list[Pending]:
        if len(self.crew.served) == 1:
            return self.take_pending()
        with self._pending_lock:
            mine = [one for one in self._pending if one.held.served is served]
            self._pending = [one for one in self._pending if one.held.served is not served]
        return mine

    def _flush(self) -> None:
        for pending in self.take_pending():
            self.crew.settler.add(pending)


class _Ahead:
    """The work that a slot does while its question is under way, once."""

    __slots__ = ("_asking", "_batch", "_slot", "keeps")

    def __init__(self, slot: Slot, batch: list[Held], *, asking: bool) -> None:
        self._slot = slot
        self._batch: list[Held] | None = batch
        #: the question tells the server nothing
        self._asking = asking
        #: what the answer gives is still the slot's
        self.keeps = True

    def work(self) -> None:
        """All of the batch, unless that was done; raises nothing."""
        batch, self._batch = self._batch, None
        if batch is None:
            return
        slot = self._slot
        table, number = slot.crew.teller.table, slot.consumer.number
        table.expect(slot.number, number)
        passing("slot.ahead")
        try:
            slot._work(batch)
        except BaseException as error:
            slot.crew.teller.complain(error)
        self.keeps = table.read(slot.number, number)
        slot._asking = self._asking


def _pause(served: Served, answer: Delivered) -> float:
    longest = min(_LONGEST_WAIT, served.queue.visibility_seconds / 2)
    if answer.more:
        return 0.0
    return longest if answer.wait is None else min(longest, answer.wait)
