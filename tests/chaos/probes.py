"""What catches a fault that was put into a copy of psmq. Run by test_mutants.py, on the copy; not collected by itself."""

from __future__ import annotations

import importlib.util
import sys
import threading
import time

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from support import ROOT, wait_until

from psmq_tasks.torture.jobs import KILLER_ATTEMPTS


def test_plain(queue):
    """What every mutant must still do: else it would be no wonder that it is caught."""
    message_id = queue.push(b"x")
    message = queue.get()
    assert (message.message_id, message.data) == (message_id, b"x")
    message.delete()
    assert queue.get() is None


def test_plain_worker(arena):
    """The same for workers."""
    arena.worker("-p", 1, "-t", 1)
    arena.push(3)
    arena.drain(10)
    assert arena.verdict().done == 3


def test_model(manager, raw_server):
    """Found failures are not made smaller here: that they are found is enough."""
    spec = importlib.util.spec_from_file_location("the_model", ROOT / "tests" / "queue" / "test_model.py")
    model = importlib.util.module_from_spec(spec)
    sys.modules["the_model"] = model
    spec.loader.exec_module(model)
    machine = type("Machine", (model.QueueMachine,), {"manager": manager, "raw": raw_server})
    quick = settings(max_examples=250, stateful_step_count=40, phases=[Phase.generate], database=None, derandomize=True)
    run_state_machine_as_test(machine, settings=quick)


def test_killers(arena):
    """A job that kills its process starts exactly so often."""
    arena.worker("-p", 1, "-t", 1)
    arena.push(1, task="killer")
    arena.drain(7)
    starts = [record for record in arena.history.read() if record.kind == "start"]
    assert len(starts) == KILLER_ATTEMPTS


def test_innocents_pay_once(arena):
    """What ran beside a killer runs alone next, and so ends at its second start."""
    arena.worker("-p", 1, "-t", 4)
    arena.push(3, 0.5)
    wait_until(lambda: len(arena.history.read()) >= 9)
    arena.push(1, task="killer")
    arena.drain(30)
    assert max(r.attempt for r in arena.history.read() if r.key.startswith("job")) == 2


@pytest.fixture
def patient(make_arena):
    """An arena whose leases last for so long that nothing comes back by their end."""
    return make_arena(timeout=30)


def test_a_killed_child_s_jobs_are_back_at_once(patient):
    """Its supervisor knows what it held."""
    worker = patient.worker("-p", 1, "-t", 2)
    patient.push(2, 0.5)
    wait_until(lambda: len(patient.history.read()) >= 6)
    worker.kill_a_child(patient.dice)
    patient.drain(8)
    found = patient.verdict()
    assert found.holds
    assert found.done == 2
    assert max(record.attempt for record in patient.history.read()) == 2, "a start that was cut off counts"


@pytest.mark.parametrize("point", ["slot.got", "slot.asking"])
def test_what_a_dead_child_never_saw_is_back_at_once(patient, point):
    """The answer was on its way when it died."""
    token = patient.folder / "token"
    token.touch()
    patient.worker("-p", 1, "-t", 1, kill_at=f"{point}:5:{token}")
    patient.push(20)
    wait_until(lambda: not token.exists())
    patient.drain(10)
    found = patient.verdict()
    assert found.holds
    assert found.done == 20
    assert {r.attempt for r in patient.history.read() if r.kind == "start"} == {1}


def test_what_a_slot_has_not_read_is_given_to_others(patient):
    """It had asked for its next batch when it met a long job."""
    patient.push(600)
    patient.push(1, 8.0)
    patient.push(600)
    patient.worker("-p", 1, "-t", 1)
    wait_until(lambda: patient.queue.info().counters.get("deleted", 0) > 200, 20)
    patient.worker("-p", 1, "-t", 1)
    wait_until(lambda: (found := patient.queue.info()).ready + found.leased <= 1, 6)
    patient.drain(12)
    assert patient.verdict().twice == 0


def test_what_had_not_ended_well_is_not_deleted(patient):
    """Killed between a failed attempt and its telling: the next attempt comes."""
    token = patient.folder / "token"
    token.touch()
    patient.worker("-p", 1, "-t", 1, kill_at=f"slot.marked:1:{token}")
    patient.push(1, task="flaky")
    wait_until(lambda: not token.exists())
    patient.drain(15)
    found = patient.verdict()
    assert found.holds
    assert found.done == 1


def test_what_had_ended_well_is_not_run_again(patient):
    """Killed between the end of a job and its telling: it is deleted, not run once more."""
    token = patient.folder / "token"
    token.touch()
    patient.worker("-p", 1, "-t", 1, kill_at=f"slot.marked:1:{token}")
    patient.push(1)
    wait_until(lambda: not token.exists())
    patient.drain(15)
    assert patient.verdict().twice == 0
    assert len([r for r in patient.history.read() if r.kind == "start"]) == 1


def test_leases_are_kept(make_arena):
    """A job that takes four times its lease runs once, while another worker waits for it."""
    arena = make_arena(timeout=0.6)
    for _ in range(2):
        arena.worker("-p", 1, "-t", 2)
    arena.push(2, 3.0)
    arena.drain(8)
    found = arena.verdict()
    assert (found.done, found.twice, found.overlapping) == (2, 0, 0)
    assert len([r for r in arena.history.read() if r.kind == "start"]) == 2


def test_a_stop_hands_back_uncounted(patient):
    """What was not started at TERM is ready at once, and was not counted; what runs ends."""
    worker = patient.worker("-p", 1, "-t", 2)
    patient.push(1000)  # quick ones: it takes many at once
    patient.drain(20)
    patient.push(60, 0.3, batch=60)
    # The first was given behind a wait, alone; who began the second holds the others.
    wait_until(lambda: sum(r.kind == "start" for r in patient.history.read()) > 1001)
    assert worker.end() == 0
    info = patient.queue.info()
    assert info.leased == 0
    assert {message.retrieval_count for message in patient.queue.messages("ready", limit=1000)} == {0}
    assert patient.verdict().queued == info.ready


def test_a_push_wakes(queue):
    """A getter that waits is woken by a push."""
    got = []
    thread = threading.Thread(target=lambda: got.append((queue.get(wait=5), time.monotonic())))
    thread.start()
    wait_until(lambda: queue.info().consumers > 0)
    time.sleep(0.2)
    began = time.monotonic()
    queue.push(b"x")
    thread.join()
    assert got[0][0].data == b"x"
    assert got[0][1] - began < 1.0
