"""How a slot asks the server: at once, while it waits, or while it works; and what it notes before it does.

Should its process die, be stopped or be stuck in a task, the supervisor must be able to hand back what an answer gives
that nobody reads. So whose command is under way, and its number, stand in the in-flight table before it is sent.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Final

from psmq.errors import QueueNotFound
from psmq.kill_points import passing
from psmq_tasks.pace import MOST_HELD
from psmq_tasks.settler import AFTER_OUTAGE, SETTLE_WITHIN

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from psmq import Consumer, Delivered, MessageRecord
    from psmq_tasks.crew import Crew, Decisions
    from psmq_tasks.teller import Held, Pending, Served

__all__ = ["Asker"]

#: seconds the waiting slot stays on the server before it asks again by itself
_LONGEST_WAIT: Final = 2.0
#: seconds that a message is leased at first which is given behind a wait: should the whole worker be frozen or cut off
#: there, nobody is left who could hand it back. What runs for longer is extended in time by the supervisor.
_FIRST_LEASE: Final = 5.0
#: a slot asks ahead when so many messages take no longer than it may hold them
_WORTH_ASKING: Final = 4


class Asker:
    """The side of a slot that faces the server; for its thread, but for the interruptions."""

    def __init__(self, crew: Crew, consumer: Consumer, number: int, decisions: Decisions) -> None:
        self.consumer = consumer
        self._crew = crew
        self._table = crew.teller.table
        #: the slot's
        self._number = number
        self._decisions = decisions
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

    def visit(self, queues: Sequence[Served]) -> tuple[list[Held], float]:
        """Ask the queues in order, telling each what was decided. → a batch, or for how long there is none"""
        crew = self._crew
        wait = _LONGEST_WAIT
        for served in queues:
            pending = self._decisions.take_for(served)
            limit = min(crew.pace.batch, self._room)
            if not limit and not pending:
                continue
            try:
                batch, answer = self._ask(served, pending, limit)
            except QueueNotFound:
                wait = min(wait, AFTER_OUTAGE)
                continue
            if answer.messages:
                if self._decisions.any:  # for queues that were not reached
                    crew.settler.look()
                return batch, 0.0
            wait = min(wait, self._pause(served, answer))
        return [], wait

    @property
    def _room(self) -> int:
        """A slot may take its share of what the table has room for: together they never take more."""
        return self._table.room // self._crew.size

    def wait(self, wait: float) -> Served | None:
        """As leader: wait for a token, and for nothing else. → the queue that had one

        The question does not travel behind the wait: while a task may hold the GIL it would be answered to nobody, and
        nobody else would get that message before its lease ends. A lost token costs two seconds at most.
        """
        crew = self._crew
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

    @property
    def may_wait_with_question(self) -> bool:
        """Whether this slot surely reads an answer when it comes: no task holds the GIL, and should somebody stop the
        process, the supervisor sees it.
        """
        crew = self._crew
        idle = self._table.is_empty and not crew.stopping.is_set()
        return idle and len(crew.served) == 1 and not crew.solo and sys.platform == "linux"

    def wait_with_question(self, served: Served, wait: float) -> tuple[list[Held], float]:
        """As leader: wait for a token with a question for one message behind it, which the server answers the moment
        it gives the token. → as visit
        """
        self._waiting = True
        try:
            if self._crew.stopping.is_set():
                return [], 0.0
            passing("slot.waiting")
            batch, answer = self._ask(served, [], 1, wake=max(wait, 0.001))
        except QueueNotFound:
            return [], AFTER_OUTAGE
        finally:
            self._waiting = False
        return batch, self._pause(served, answer)

    def may_ask_ahead(self, batch: Sequence[Held]) -> bool:
        """Where a batch was full there is likely to be more. Nobody else comes to what this slot has not read, so it
        asks only where work is short; and not before it has asked for what is more urgent.
        """
        crew = self._crew
        if crew.solo or crew.stopping.is_set() or batch[0].served is not crew.served[0]:
            return False
        return len(batch) >= self._wanted and min(crew.pace.batch, self._room) >= _WORTH_ASKING

    def ask_ahead(self, served: Served, work: Callable[[], None]) -> list[Held]:
        """Ask for the next batch, ``work`` (once, whatever becomes of the question), then read the answer."""
        pending = self._decisions.take_for(served)
        try:
            batch, _ = self._ask(
                served, pending, min(self._crew.pace.batch, self._room), ahead=_Ahead(self, work, pending)
            )
        except QueueNotFound:
            return []
        return batch

    def _ask(
        self,
        served: Served,
        pending: list[Pending],
        limit: int,
        *,
        wake: float | None = None,
        ahead: _Ahead | None = None,
    ) -> tuple[list[Held], Delivered]:
        """One exchange; what was decided stays ours to tell if that fails. → what it gave and is ours, the answer"""
        self._wanted = limit if wake is None else MOST_HELD
        lease = None if wake is None else min(served.queue.visibility_seconds, _FIRST_LEASE)
        number = self._note(limit)
        work = None if ahead is None else partial(ahead.work, number)
        self._asking = not pending and ahead is None
        answer: Delivered | None = None
        passing("slot.asking")
        try:
            answer = self._crew.teller.exchange(
                self.consumer, served, pending, limit, lease=lease, wake=wake, meanwhile=work
            )
        except QueueNotFound:
            raise
        except BaseException:
            self._decisions.keep(pending)
            raise
        finally:
            if ahead is not None:
                ahead.work(number)  # whatever became of the question
            self._asking = False
            held = self._read(number, served, answer.messages if answer is not None else ())
        if limit:
            self._crew.suspects[served.number] = answer.suspects
            self._table.report_suspects(sum(self._crew.suspects.values()))
        return held, answer

    def _note(self, limit: int) -> int:
        """That a command is under way, before it is: should this process end, or be stopped, before it sees the answer,
        what that gave can go back. → the command's number
        """
        number = self.consumer.number + 1
        self._table.set_client(self._number, self.consumer.client_id)
        if limit:
            self._table.expect(self._number, number, awaited=True)
        return number

    def _read(self, number: int, served: Served, messages: Sequence[MessageRecord]) -> list[Held]:
        """Hold what the answer to that command gave. → none of it where the supervisor has taken it back"""
        held: list[Held] = []
        if messages:
            passing("slot.got")
            self._table.begin_batch(self._number)
            held = self._crew.teller.hold(served, messages, self._number, self.consumer)
        # In the table before it is read: there is no moment at which a process that is stopped has it unnoted.
        if self._table.read(self._number, number):
            return held
        self._decisions.hand_back(held)
        self._decisions.flush()
        return []

    def _pause(self, served: Served, answer: Delivered) -> float:
        """For how long there is nothing to ask for."""
        longest = min(_LONGEST_WAIT, served.queue.visibility_seconds / 2)
        if answer.more:
            return 0.0
        return longest if answer.wait is None else min(longest, answer.wait + self._crew.teller.yields)


class _Ahead:
    """What a slot does while its question is under way, once."""

    __slots__ = ("_asker", "_pending", "_work")

    def __init__(self, asker: Asker, work: Callable[[], None], pending: list[Pending]) -> None:
        self._asker = asker
        self._work: Callable[[], None] | None = work
        #: what travels with the question; none: it tells the server nothing
        self._pending = pending

    def work(self, number: int) -> None:
        """Do it, unless that was done; raises nothing. ``number``: the question's."""
        work, self._work = self._work, None
        if work is None:
            return
        asker = self._asker
        table, slot, asking = asker._table, asker._number, not self._pending
        table.expect(slot, number)
        asker._decisions.lend(self._pending)
        passing("slot.ahead")
        try:
            work()
        except BaseException as error:
            asker._crew.teller.complain(error)
        asker._decisions.reclaim()
        table.expect(slot, number, awaited=True)  # and it comes when the server has it
        asker._asking = asking
