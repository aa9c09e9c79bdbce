"""redriving.lua: dead letters become ready again."""

import pytest


def bury(raw, options="", times=1):
    id_ = raw.push(b"x", options)
    for left in reversed(range(times)):
        ((_, receipt, *_),) = raw.get()
        raw.settle((id_, receipt, "b" if not left else "r", "why" if not left else "", "failed", ""))
    return id_


@pytest.mark.parametrize("count", [0, 1001])
def test_a_redrive_has_one_to_a_thousand_ids(raw, count):
    """Bounded work in each call."""
    with raw.refused("INVALID_OPTION"):
        raw.do("redrive", "", *["id"] * count)


def test_one_that_is_not_dead_stops_all(raw):
    """All or none, and the answer names it."""
    id_ = bury(raw)
    ready = raw.push()
    for bad in (ready, "no such id"):
        with raw.refused("MESSAGE_NOT_FOUND") as caught:
            raw.do("redrive", "", id_, bad)
        assert str(caught.value) == f"PSMQ_MESSAGE_NOT_FOUND {bad} dead"
    assert raw.info()["dead"] == 1


def test_a_letter_without_bytes_cannot_go_back(raw):
    """It was set aside because they are missing."""
    id_ = raw.push()
    raw.server.hdel(f"{raw.base}:messages", id_)
    raw.get()
    with raw.refused("MESSAGE_NOT_FOUND") as caught:
        raw.do("redrive", "", id_)
    assert str(caught.value).endswith("readable")
    assert raw.do("purge", "dead", id_) == 1


def test_it_starts_anew_with_its_history(timed):
    """Same id, count 0, first delivery unset, failures kept, stored result and expiry gone."""
    raw = timed()
    id_ = bury(raw, "r60000t90000p7m3", times=2)
    assert raw.server.exists(raw.address.result(id_))
    raw.later(1000)
    assert raw.do("redrive", "", id_, id_) == 1
    assert not raw.server.exists(raw.address.result(id_), f"{raw.base}:reasons", f"{raw.base}:dead")
    ((found, _, count, first, options, _),) = raw.get()
    assert (found, count, first, options) == (id_, 1, int(raw.clock), b"m3r60000")
    assert raw.server.hget(f"{raw.base}:failures", id_) == b"6:failed,6:failed,"


def test_keep_count_gives_exactly_one_more_delivery(timed):
    """Whatever the limits were."""
    raw = timed(max_retrievals=9)
    id_ = bury(raw, times=3)
    assert raw.do("redrive", "1", id_) == 1
    ((_, receipt, count, *_),) = raw.get()
    assert count == 4
    assert raw.settle((id_, receipt, "r", "", "", "")) == ["dead"]


def test_it_queues_behind_what_is_ready_of_its_priority(timed):
    """As of now; its priority stays."""
    raw = timed()
    low, high = bury(raw), bury(raw, "p5")
    raw.later(1)
    waiting = raw.push()
    raw.later(1)
    raw.do("redrive", "", low, high)
    assert [found[0] for found in raw.get(9)] == [high, waiting, low]


def test_what_reads_show_as_dead_can_be_redriven(timed):
    """Though nobody has asked for messages since its last lease ended."""
    raw = timed(visibility_timeout=10, max_retrievals=1, on_expiry="bury")
    lost, expired = raw.push(), raw.push(b"x", "t5000p-1")
    raw.get()
    raw.later(60)
    assert raw.info()["dead"] == 2
    assert raw.do("redrive", "", lost, expired) == 2
    assert raw.info()["ready"] == 2
    assert raw.info()["buried"] == b"2"


def test_a_suspect_that_is_redriven_is_none(timed):
    """Somebody has looked at it."""
    raw = timed(max_retrievals=2)
    id_ = raw.push()
    for _ in range(2):
        ((_, receipt, *_),) = raw.get()
        raw.settle((id_, receipt, "rc1", "", "", ""))
    raw.do("redrive", "", id_)
    assert len(raw.get(1, mode="worker")) == 1


def test_a_redrive_wakes_a_getter(raw):
    """Like every other way to become ready."""
    id_ = bury(raw)
    raw.server.delete(f"{raw.base}:wake")
    raw.do("redrive", "", id_)
    assert raw.server.llen(f"{raw.base}:wake") == 1
