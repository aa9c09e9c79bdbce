"""delays.lua: what is done by hand to messages that wait."""

import pytest


def fail(raw, delay=60_000, options=""):
    """A message that failed once and waits. → its id"""
    id_ = raw.push(b"x", options)
    ((got, receipt, *_),) = raw.get()
    assert got == id_
    assert raw.settle((id_, receipt, f"rd{delay}", "", "failed", "")) == ["done"]
    return id_


@pytest.mark.parametrize(("function", "head"), [("hasten", ()), ("bury_waiting", ("why",))])
@pytest.mark.parametrize("count", [0, 1001])
def test_there_are_one_to_a_thousand_ids(raw, function, head, count):
    """Bounded work in each call."""
    with raw.refused("INVALID_OPTION"):
        raw.do(function, *head, *["id"] * count)


@pytest.mark.parametrize(("function", "head"), [("hasten", ()), ("bury_waiting", ("why",))])
def test_one_that_does_not_wait_stops_all(raw, function, head):
    """All or none, and the answer names it."""
    waiting, ready = fail(raw), raw.push()
    for bad in (ready, "no such id"):
        with raw.refused("MESSAGE_NOT_FOUND") as caught:
            raw.do(function, *head, waiting, bad)
        assert str(caught.value) == f"PSMQ_MESSAGE_NOT_FOUND {bad} waiting"
    assert raw.info()["delayed"] == 1


def test_a_hastened_message_is_ready_and_keeps_its_count(timed, start):
    """Its history, first delivery and ttl stay; the next get is the second attempt."""
    raw = timed()
    id_ = fail(raw, options="t500000p3")
    raw.later(1)
    assert raw.do("hasten", id_, id_) == 1
    assert raw.server.zscore(f"{raw.base}:expiring", id_) == start + 500_000
    ((got, _, count, first, *_),) = raw.get()
    assert (got, count, first) == (id_, 2, start)
    assert raw.server.hget(f"{raw.base}:failures", id_) == b"6:failed,"


def test_a_delayed_push_that_was_never_delivered_is_hastened_too(timed):
    """It has no state yet; it queues behind what is ready, and a getter that waits is woken."""
    raw = timed()
    late = raw.push(b"late", "d60000")
    raw.later(1)
    early = raw.push(b"early")
    raw.server.delete(raw.address.wake)
    raw.later(1)
    assert raw.do("hasten", late) == 1
    assert raw.server.llen(raw.address.wake) == 1
    assert [one[0] for one in raw.get(2)] == [early, late]


def test_what_a_worker_died_with_stays_for_a_process_of_its_own(raw):
    """It is hastened into the suspects."""
    id_ = raw.push()
    ((_, receipt, *_),) = raw.get()
    raw.settle((id_, receipt, "rd60000c1", "", "", ""))
    raw.do("hasten", id_)
    assert raw.get(mode="worker") == []
    assert [one[0] for one in raw.get(mode="solo")] == [id_]


def test_a_buried_one_is_dead_with_its_history(raw):
    """And who waits for its result is told."""
    id_ = fail(raw, options="r60000t90000")
    assert raw.do("bury_waiting", "no use", id_) == 1
    info = raw.info()
    assert (info["delayed"], info["dead"], info["buried"]) == (0, 1, b"1")
    assert raw.server.hget(f"{raw.base}:reasons", id_) == b"no use"
    assert raw.server.hget(f"{raw.base}:failures", id_) == b"6:failed,"
    assert raw.server.lindex(raw.address.result(id_), 0) == b"!buried no use"
    assert raw.server.zscore(f"{raw.base}:expiring", id_) is None


def test_a_reason_is_needed(raw):
    """A dead letter tells why."""
    id_ = fail(raw)
    with raw.refused("INVALID_OPTION"):
        raw.do("bury_waiting", "", id_)


@pytest.mark.parametrize(("function", "head"), [("hasten", ()), ("bury_waiting", ("why",))])
def test_a_repeat_is_answered_and_does_nothing(raw, function, head):
    """Whoever lost the reply gets the same one."""
    id_ = fail(raw)
    assert raw.do(function, *head, id_, number=90, nonce="abcdefgh") == 1
    before = raw.dump()
    assert raw.do(function, *head, id_, number=90, nonce="abcdefgh") == 1
    assert raw.dump() == before
