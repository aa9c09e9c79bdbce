"""How a slot asks the server: at once, while it waits, or while it works; and what it notes before it does.

Should its process die, be stopped or be stuck in a task, the supervisor must be able to hand back what an answer gives
that nobody reads. So whose command is under way, and its number, stand in the in-flight table before it is sent.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from psmq.errors import QueueNotFound
from psmq.kill_points import passing
from psmq_tasks.pace import MOST_HELD
from psmq_tasks.settler import AFTER_OUTAGE, SETTLE_WITHIN

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from psmq import Consumer, Delivered
    from psmq_tasks.crew import Crew, Decisions
    from psmq_tasks.teller import Held, Pending, Served

__all__ = ["Asker"]

#: seconds the waiting slot stays on the server before it asks again by itself
_LONGEST_WAIT: Final = 2.0
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
                answer = self._ask(served, pending, limit)
            except QueueNotFound:
                wait = min(wait, AFTER_OUTAGE)
                continue
            if answer.messages:
                if self._decisions.any:  # for queues that were not reached
                    crew.settler.look()
                return self._take(served, answer), 0.0
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
        table, number = self._table, self.consumer.number + 1
        keeps = True
        self._waiting = True
        try:
            table.expect(self._number, number, awaited=True)
            if self._crew.stopping.is_set():
                return [], 0.0
            passing("slot.waiting")
            answer = self._ask(served, [], 1, wake=max(wait, 0.001))
        except QueueNotFound:
            return [], AFTER_OUTAGE
        finally:
            self._waiting = False
            keeps = table.read(self._number, number)
        return self._take(served, answer, keeps=keeps), self._pause(served, answer)

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
        ahead = _Ahead(self, work, asking=not pending)
        try:
            answer = self._ask(served, pending, min(self._crew.pace.batch, self._room), ahead=ahead)
        except QueueNotFound:
            return []
        finally:
            ahead.work()
            self._asking = False
        return self._take(served, answer, keeps=ahead.keeps)

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
        crew, table = self._crew, self._table
        # Noted before it asks: should this process end before it sees the answer, what that gave can go back.
        table.set_client(self._number, self.consumer.client_id)
        self._wanted = limit if wake is None else MOST_HELD
        self._asking = not pending and ahead is None
        passing("slot.asking")
        try:
            work = None if ahead is None else ahead.work
            answer = crew.teller.exchange(self.consumer, served, pending, limit, wake=wake, meanwhile=work)
        except QueueNotFound:
            raise
        except BaseException:
            self._decisions.keep(pending)
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
        self._table.begin_batch(self._number)
        messages = self._crew.teller.hold(served, answer.messages, self._number)
        if keeps:
            return messages
        self._decisions.hand_back(messages)
        return []

    def _pause(self, served: Served, answer: Delivered) -> float:
        """For how long there is nothing to ask for."""
        longest = min(_LONGEST_WAIT, served.queue.visibility_seconds / 2)
        if answer.more:
            return 0.0
        return longest if answer.wait is None else min(longest, answer.wait + self._crew.teller.yields)


class _Ahead:
    """What a slot does while its question is under way, once."""

    __slots__ = ("_asker", "_asking", "_work", "keeps")

    def __init__(self, asker: Asker, work: Callable[[], None], *, asking: bool) -> None:
        self._asker = asker
        self._work: Callable[[], None] | None = work
        #: the question tells the server nothing
        self._asking = asking
        #: what the answer gives is still the slot's
        self.keeps = True

    def work(self) -> None:
        """Do it, unless that was done; raises nothing."""
        work, self._work = self._work, None
        if work is None:
            return
        asker = self._asker
        table, slot, number = asker._table, asker._number, asker.consumer.number
        table.expect(slot, number)
        passing("slot.ahead")
        try:
            work()
        except BaseException as error:
            asker._crew.teller.complain(error)
        self.keeps = table.read(slot, number)
        asker._asking = self._asking
