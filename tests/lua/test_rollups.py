"""rollups.lua: what was done, minute by minute, and how long it waited and ran."""

from __future__ import annotations

import pytest

from psmq import QueueManager, stats


def minutes(raw, wanted=480):
    """{minute: what was done}, as Python reads it."""
    found = stats.read("q", wanted, raw.call("stats", wanted))
    return {one.minute: one for one in found.minutes}


def counts(minute):
    return (minute.pushed, minute.delivered, minute.done, minute.failed, minute.buried, minute.expired)


def test_a_queue_that_did_nothing_has_no_minutes(raw):
    """An empty get is nothing done."""
    raw.get()
    assert minutes(raw) == {}


def test_what_is_done_is_counted_in_its_minute(timed, start):
    """Pushed, delivered, done; a minute later another line; the one that runs is read like those that are over."""
    raw = timed()
    for _ in range(3):
        raw.push()
    taken = raw.get(2)
    raw.settle((taken[0][0], taken[0][1], "d", "", "", ""))
    raw.later(60)
    raw.settle((taken[1][0], taken[1][1], "d", "", "", ""))
    first = start // 60_000
    found = minutes(raw)
    assert {minute: counts(one) for minute, one in found.items()} == {
        first: (3, 2, 1, 0, 0, 0),
        first + 1: (0, 0, 1, 0, 0, 0),
    }


def test_waiting_is_from_ready_to_delivery_whatever_the_priority(timed):
    """A delay is no waiting: it ends when the message is ready."""
    raw = timed()
    raw.push(options="p7")
    raw.push(options="p-3")
    raw.push(options="d4000")
    raw.later(10)
    assert len(raw.get(3)) == 3
    (one,) = minutes(raw).values()
    # 10 s twice: 2^13 … 2^13.5 ms; 6 s once: 2^12.5 … 2^13 ms
    assert one.wait.buckets == {27: 2, 26: 1}


def test_running_is_from_this_delivery_to_its_settlement(timed):
    """Also of a message that was delivered before: each attempt counts for itself."""
    raw = timed(visibility_timeout=1000)
    raw.push()
    for seconds, options in ((2, "rd5000"), (8, "d")):
        ((id_, receipt, *_),) = raw.get()
        raw.later(seconds)
        raw.settle((id_, receipt, options, "", "", ""))
        raw.later(5)
    done = [one.run.buckets for one in minutes(raw).values()]
    assert sum(done[0].values()) == 2
    # 2 s: 2^10.5 … 2^11 ms; 8 s: 2^12.5 … 2^13 ms
    assert done == [{22: 1, 26: 1}]


def test_a_hand_back_that_does_not_count_is_no_failure(timed):
    """It never ran; a counted return did, and a lease that ended counts with them."""
    raw = timed(visibility_timeout=10)
    raw.push()
    ((id_, receipt, *_),) = raw.get()
    raw.settle((id_, receipt, "ru1", "", "", ""))
    assert next(iter(minutes(raw).values())).failed == 0
    ((id_, receipt, *_),) = raw.get()
    raw.settle((id_, receipt, "r", "", "", ""))
    assert raw.get()
    raw.later(11)
    assert raw.get()
    (one,) = minutes(raw).values()
    assert (one.failed, one.run.count, one.delivered) == (2, 1, 4)


def test_buried_popped_and_expired_are_counted(timed):
    """Each where it belongs."""
    raw = timed()
    for options in ("", "", "t1000"):
        raw.push(options=options)
    ((id_, receipt, *_),) = raw.get()
    raw.settle((id_, receipt, "b", "no good", "", ""))
    raw.do("pop")
    raw.later(2)
    raw.get()
    (one,) = minutes(raw).values()
    assert counts(one) == (3, 2, 1, 0, 1, 1)


def test_eight_hours_are_kept_in_480_fields(timed, start):
    """A field is used again after eight hours; what is older is not shown, though it may still lie there."""
    raw = timed()
    for _ in range(500):
        raw.push()
        raw.later(60)
    kept = f"{raw.base}:minutes"
    assert raw.server.hlen(kept) == 480
    first = start // 60_000
    assert sorted(minutes(raw)) == list(range(first + 20, first + 500))
    assert sorted(minutes(raw, 2)) == [first + 498, first + 499]
    raw.later(9 * 3600)
    assert minutes(raw) == {}


def test_a_repeated_command_counts_once(raw):
    """Its answer was remembered, and nothing is done."""
    for _ in range(2):
        raw.do("push", "0" * 11, "", "", b"x", number=1, nonce="0" * 8)
    assert next(iter(minutes(raw).values())).pushed == 1


@pytest.mark.parametrize("garbage", [b"", b"x", b"\x93\x01", b"\xc0", b"\x81\xa1x\xa1y"])
def test_a_damaged_minute_stops_nobody(raw, garbage):
    """It is counted anew."""
    raw.push()
    raw.server.hset(raw.base, "minute", garbage)
    assert minutes(raw) == {}
    raw.push()
    assert next(iter(minutes(raw).values())).pushed == 1


def test_minutes_out_of_range_are_refused(raw):
    """1 … 480."""
    for wanted in ("0", "481", "x", ""):
        with raw.refused("INVALID_OPTION"):
            raw.call("stats", wanted)


def test_counting_costs_no_command_of_its_own(own_server):
    """The server runs as many commands for an exchange as it has keys to write; the minute goes with the others."""
    import redis

    with QueueManager(url=own_server) as manager, redis.Redis.from_url(own_server) as client:
        queue = manager.get_queue("q")
        queue.push_many([b"x"] * 20)
        held = queue.get_many(10)
        client.config_resetstat()
        queue.delete(held[0])
        ran = {name: found["calls"] for name, found in client.info("commandstats").items()}
        assert ran.get("cmdstat_hset") == 2  # the queue's hash, and what the client was answered
        assert queue.stats(1).total("done") == 1
