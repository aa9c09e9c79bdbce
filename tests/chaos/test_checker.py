"""The judge of all chaos: each thing that must not happen is seen when it has happened."""

from __future__ import annotations

import pytest

from psmq_tasks.torture import History, Record, check, percentile, places


def run(*lines, where=None, counters=None):
    """``lines``: (kind, key, time, message id, pid, attempt)"""
    records = [Record(*line) for line in lines]
    where = where or {}
    return check(records, where, counters or {"sent": len(where), "deleted": 0})


GOOD = [("try", "a", 1.0), ("push", "a", 2.0, "m1", 1), ("start", "a", 3.0, "m1", 7, 1), ("end", "a", 4.0, "m1", 7, 1)]


def test_a_job_that_was_done_is_done():
    found = run(*GOOD, counters={"sent": 1, "deleted": 1})
    assert found.holds
    assert (found.pushed, found.done, found.twice, found.overlapping, found.queued) == (1, 1, 0, 0, 0)


def test_a_job_that_is_nowhere_is_lost():
    """Pushed, perhaps begun, never ended, and not in the queue."""
    assert run(*GOOD[:2]).lost == ["a"]
    assert run(*GOOD[:3]).lost == ["a"]
    assert not run(*GOOD[:3]).holds
    assert run(*GOOD[:3], where={"m1": ["delayed"]}).holds
    assert run(*GOOD[:3], where={"m1": ["dead"]}).dead == 1


def test_a_push_that_did_not_return_may_be_there_or_not():
    """One stranger in the queue is explained by it, two are not."""
    assert run(("try", "a", 1.0)).holds
    assert run(("try", "a", 1.0), where={"m1": ["ready"]}).holds
    assert run(("try", "a", 1.0), where={"m1": ["ready"], "m2": ["ready"]}).phantom == ["m2"]
    assert run(*GOOD, where={"m9": ["ready"]}, counters={"sent": 2, "deleted": 1}).phantom == ["m9"]


def test_a_job_that_nobody_pushed_is_a_phantom():
    assert run(("start", "z", 3.0, "m9", 7, 1)).phantom == ["z"]


def test_a_message_in_two_places_is_seen():
    assert run(*GOOD[:2], where={"m1": ["ready", "leased"]}).phantom == ["m1"]


def test_a_push_that_was_stored_twice_is_seen():
    """The same job under two ids."""
    found = run(*GOOD, ("start", "a", 5.0, "m2", 8, 1), counters={"sent": 2, "deleted": 2})
    assert found.copied == ["a"]
    assert not found.holds


def test_twice_and_overlapping_are_counted():
    """Twice one after the other is what at-least-once allows; at the same time is told apart."""
    again = [("start", "a", 5.0, "m1", 8, 2), ("end", "a", 6.0, "m1", 8, 2)]
    found = run(*GOOD, *again, counters={"sent": 1, "deleted": 1})
    assert (found.holds, found.twice, found.overlapping) == (True, 1, 0)
    again = [("start", "a", 3.5, "m1", 8, 2), ("end", "a", 6.0, "m1", 8, 2)]
    assert run(*GOOD, *again, counters={"sent": 1, "deleted": 1}).overlapping == 1


def test_books_that_do_not_add_up_are_seen():
    assert run(*GOOD, counters={"sent": 2, "deleted": 1}).missing == 1
    assert not run(*GOOD, counters={"sent": 2, "deleted": 1}).holds


def test_the_time_from_a_kill_to_the_next_start_is_measured():
    """Of runs that the kill cut off, and no others."""
    found = run(
        *GOOD[:3], ("kill", "7", 3.5), ("start", "a", 3.9, "m1", 8, 2), ("end", "a", 4.0, "m1", 8, 2),
        counters={"sent": 1, "deleted": 1},
    )  # fmt: skip
    assert found.recoveries == pytest.approx([0.4])
    assert found.as_dict()["recovery_p95"] == pytest.approx(0.4)


def test_percentiles():
    assert percentile([], 95) is None
    assert percentile([3, 1, 2], 50) == 2
    assert percentile(range(1, 101), 95) == 95
    assert percentile([1, 2], 100) == 2


def test_a_history_is_read_as_it_was_written(tmp_path):
    """Keys, ids and attempts survive; a second writer appends."""
    one, two = History(tmp_path / "h"), History(tmp_path / "h")
    one.note("start", "a", "m1", 3)
    two.note_all("push", [("b", "m2"), ("c", "m3")])
    assert [(r.kind, r.key, r.message_id, r.attempt) for r in one.read()] == [
        ("start", "a", "m1", 3),
        ("push", "b", "m2", 0),
        ("push", "c", "m3", 0),
    ]
    one.close(), two.close()


def test_places_names_every_state(queue):
    """All pages of all states."""
    ids = queue.push_many([b"x"] * 1200)
    delayed = queue.push(b"x", delay=60)
    leased, dead = queue.get_many(2)
    dead.bury("why")
    found = places(queue)
    assert len(found) == 1201
    assert found[delayed] == ["delayed"]
    assert (found[leased.message_id], found[dead.message_id]) == (["leased"], ["dead"])
    assert sum(states == ["ready"] for states in found.values()) == len(ids) - 2
