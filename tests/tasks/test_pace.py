"""How the slots of a child share its work."""

import threading

import pytest

from psmq_tasks import pace
from psmq_tasks.pace import MOST_HELD, Lead, Pace


@pytest.fixture
def clock(monkeypatch):
    """clock(seconds): so much later for the pace and the lead."""
    now = [1000.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])

    def later(seconds):
        now[0] += seconds

    return later


def test_a_batch_is_a_few_milliseconds_of_work():
    """One while nothing is known, one for what takes long, at most 64."""
    mine = Pace()
    assert mine.batch == 1
    for _ in range(40):
        mine.note(1, 0.000_5)
    assert 15 <= mine.batch <= 20
    for _ in range(40):
        mine.note(64, 0.000_1)
    assert mine.batch == MOST_HELD
    mine.note(64, 6.4)
    assert mine.batch == 1


def test_slots_work_alone_until_tasks_are_seen_to_wait(clock):
    """Three batches in a row: others may still have been at work during the first."""
    mine = Pace()
    for _ in range(40):
        mine.note(1, 0.000_1)
    assert mine.alone
    for _ in range(2):
        mine.note_alone(10, 10)
        assert mine.alone
    mine.note_alone(10, 0)
    mine.note_alone(10, 10)
    assert mine.alone
    for _ in range(3):
        mine.note_alone(10, 10)
    assert not mine.alone


def test_it_is_tried_again_a_second_later_unless_tasks_take_long(clock):
    """Work changes; to look costs a moment of one slot's work."""
    mine = Pace()
    for _ in range(40):
        mine.note(1, 0.000_1)
    mine.note_stuck()
    assert not mine.alone
    clock(1.1)
    assert mine.alone
    mine.note(1, 5.0)
    assert not mine.alone
    clock(100)
    assert not mine.alone


def test_a_lead_is_kept_while_its_holder_works_and_passed_on_when_that_takes_long(clock):
    """By whoever looks: the holder may be in a task that does not return."""
    lead, first, second = Lead(), object(), object()
    assert lead.take(first, wait=False)
    assert not lead.take(second, wait=False)
    lead.works(first)
    assert lead.pass_on_if_stuck(0.015)
    assert lead.asks(first)
    assert not lead.pass_on_if_stuck(0.015)  # it asks: that may take long
    lead.works(first)
    clock(0.02)
    assert not lead.pass_on_if_stuck(0.015)
    assert not lead.asks(first)
    assert not lead.is_held_by(first)
    assert lead.take(second, wait=False)
    lead.pass_on(first)  # it is not its to pass on any more
    assert lead.is_held_by(second)


def test_who_waits_in_line_gets_it_when_it_is_passed_on():
    """And only one of them."""
    lead, holder, got = Lead(), object(), []
    lead.take(holder, wait=True)

    def wait(name):
        lead.take(name, wait=True)
        got.append(name)
        lead.pass_on(name)

    waiting = [threading.Thread(target=wait, args=(name,)) for name in ("a", "b")]
    for thread in waiting:
        thread.start()
    assert not got
    lead.pass_on(holder)
    for thread in waiting:
        thread.join(10)
    assert sorted(got) == ["a", "b"]
