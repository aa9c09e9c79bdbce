"""A slot: one thread that gets, executes, settles, and gets again.

What it finished travels with its next get. Of a child's idle slots one at a time waits on the server; the one that got
something names the next before it works.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from psmq.kill_points import passing
from psmq_tasks.asking import Asker
from psmq_tasks.crew import Decisions
from psmq_tasks.pace import waits
from psmq_tasks.settler import AFTER_OUTAGE

if TYPE_CHECKING:
    from psmq import Consumer
    from psmq_tasks.crew import Crew
    from psmq_tasks.teller import Held

__all__ = ["Slot"]

#: seconds between looks of a process for suspects, and how long it stays without any
_SOLO_PAUSE, _SOLO_STAY = 0.25, 3.0


class Slot:
    """One thread: get, execute, settle, and again."""

    def __init__(self, crew: Crew, consumer: Consumer, number: int) -> None:
        self.thread = threading.Thread(target=self._run, name=f"psmq-slot-{number}", daemon=True)
        self.decisions = Decisions(crew)
        self.asker = Asker(crew, consumer, number, self.decisions)
        self._crew = crew
        self._number = number

    def _run(self) -> None:
        crew = self._crew
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
        self.decisions.flush()
        self.asker.consumer.close()

    # --- getting

    def _get(self) -> list[Held]:
        """The next batch: at once if there is something, else after waiting in line for it."""
        crew = self._crew
        if crew.solo:
            return self._next_suspect()
        if not crew.lead.asks(self):
            if not crew.pace.alone:
                batch, _ = self.asker.visit(crew.served)
                if batch:
                    return batch
            if not crew.lead.take(self, wait=False):
                self.decisions.flush()  # what was decided does not wait in line
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
        crew = self._crew
        while not crew.stopping.is_set():
            # Asked again as leader: another may have taken the token that was meant for what came meanwhile.
            batch, wait = self.asker.visit(crew.served)
            while not batch and wait > 0 and self.asker.may_wait_with_question:
                batch, wait = self.asker.wait_with_question(crew.served[0], wait)
            if batch:
                return batch
            found = self.asker.wait(wait)
            if found is not None:
                batch, _ = self.asker.visit((found,))
                if batch:
                    return batch
        return []

    def _next_suspect(self) -> list[Held]:
        """One at a time: also none beside a coroutine. Without any for a while the process ends."""
        crew = self._crew
        crew.runner.quiet.wait()
        ends = time.monotonic() + _SOLO_STAY
        while True:
            batch, _ = self.asker.visit(crew.served)
            if batch:
                return batch
            if time.monotonic() >= ends:
                crew.stopping.set()
            if crew.stopping.wait(_SOLO_PAUSE):
                return []

    # --- executing

    def _serve(self, batch: list[Held]) -> list[Held]:
        """Work. → the next batch, if it was worth asking for it meanwhile"""
        crew = self._crew
        leads = crew.lead.is_held_by(self)
        if leads:
            if crew.pace.alone:
                crew.lead.works(self)
                crew.settler.look()
            else:
                crew.lead.pass_on(self)
        if (leads or not crew.pace.alone) and self.asker.may_ask_ahead(batch):
            return self.asker.ask_ahead(batch[0].served, lambda: self._work(batch))
        self._work(batch)
        return []

    def _work(self, batch: list[Held]) -> None:
        crew, table = self._crew, self._crew.teller.table
        alone, began, waited = crew.lead.is_held_by(self), time.perf_counter(), waits()
        passing("slot.held")
        done = 0
        for held in batch:
            table.start(held.place, held.generation)
            passing("slot.started")
            # In this order: marked, then looked. The supervisor revokes, then looks at the marks.
            if table.is_revoked(self._number) or crew.stopping.is_set():
                self.decisions.hand_back(batch[done:])
                break
            try:
                settlement = crew.runner.attempt(held)
            except BaseException as error:
                settlement = crew.runner.failed_ourselves(held, error)
            done += 1
            if settlement is not None:
                passing("slot.ended")
                crew.runner.mark(held, settlement)
                passing("slot.marked")
                self.decisions.add(held, settlement, more=done < len(batch))
        if not done:
            return
        # Also of a batch that was taken back: or the next would be as large, and go back as often as returns are free.
        crew.pace.note(done, time.perf_counter() - began)
        if crew.lead.is_held_by(self):
            crew.pace.note_alone(done, waits() - waited)
        elif alone:
            crew.pace.note_stuck()
