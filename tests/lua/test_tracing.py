"""tracing.lua: where one message is, and what the log says of it."""

from __future__ import annotations

from itertools import pairwise

import pytest

from psmq import draw_randoms


def trace(raw, id_, after=0):
    """(state, retrieval_count, reason, failures, ms a result is kept, the server's result, events)"""
    reply = raw.call("trace", id_, after)
    texts = [text.decode() for text in reply[14::2]]
    told = [line.split(" ")[0] for text in texts for line in text.split("\n")[1:]]
    return reply[0].decode(), reply[2], reply[6].decode(), reply[7], reply[8], reply[9], told


def test_a_message_is_found_in_each_state(timed):
    """With its count, its reason and its history; its data is not sent."""
    raw = timed(event_log=1000)
    assert trace(raw, "0" * 22) == ("", 0, "", b"", -1, b"", [])
    id_ = raw.push(b"k\0v\0secret", "n4r60000")
    assert raw.call("trace", id_, 0)[5] == b"r60000n4;k\0v\0"
    assert trace(raw, id_) == ("ready", 0, "", b"", -1, b"", ["pushed"])
    ((_, receipt, *_),) = raw.get()
    assert trace(raw, id_)[:2] == ("leased", 1)
    raw.settle((id_, receipt, "rd5000", "", "what", ""))
    assert trace(raw, id_)[:4] == ("delayed", 1, "", b"4:what,")
    raw.later(5)
    assert trace(raw, id_)[0] == "ready"
    ((_, receipt, *_),) = raw.get()
    raw.settle((id_, receipt, "b", "why", "", ""))
    state, count, reason, failures, kept, said, told = trace(raw, id_)
    assert (state, count, reason, failures) == ("dead", 2, "why", b"4:what,")
    assert kept > 0
    assert said == b"!buried why"
    assert told == ["pushed", "delivered", "released", "delivered", "buried"]


def test_what_time_has_done_shows_before_anybody_moved_it(timed):
    """As in listings: a lease that ended is ready, or dead at its limit; what outlived its ttl is nowhere."""
    raw = timed(visibility_timeout=10)
    again, dies, gone = raw.push(), raw.push(options="m1"), raw.push(options="t15000")
    raw.get(2)
    raw.later(9)
    assert [trace(raw, id_)[0] for id_ in (again, dies, gone)] == ["leased", "leased", "ready"]
    raw.later(7)
    assert [trace(raw, id_)[0] for id_ in (again, dies, gone)] == ["ready", "dead", ""]
    assert "its lease ended at delivery 1 of 1" in trace(raw, dies)[2]


def test_a_suspect_and_a_held_lease_are_what_listings_say(timed):
    """What a worker died with is ready, for a process of its own; during the grace after an outage a lease holds."""
    raw = timed(visibility_timeout=30)
    id_ = raw.push()
    ((_, receipt, *_),) = raw.get(mode="worker")
    raw.settle((id_, receipt, "rc1", "", "", ""))
    assert trace(raw, id_)[0] == "ready"
    raw.get(mode="solo")
    raw.later(31)
    raw.push()  # the first call after the gap: workers get time
    assert trace(raw, id_)[0] == "leased"


def test_what_is_finished_is_told_by_the_log_and_its_result(timed):
    """The result itself is not sent, unless the server wrote it: nobody here can verify it."""
    raw = timed(event_log=1000)
    id_ = raw.push(options="r60000")
    ((_, receipt, *_),) = raw.get()
    raw.settle((id_, receipt, "d", "", "", "signed bytes"))
    state, _, _, _, kept, said, told = trace(raw, id_)
    assert (state, said, told) == ("", b"", ["pushed", "delivered", "deleted"])
    assert 0 < kept <= 60_000


def test_the_end_of_an_id_finds_it_in_the_log(timed):
    """Only the lines that mention it come, of entries that may tell of a thousand others."""
    raw = timed(event_log=1000)
    ids = raw.do("push", *[part for at in range(50) for part in (f"{at:011d}", f"d{at}", "", b"x")])
    reply = raw.call("trace", ids[7].decode()[-8:], 0)
    assert reply[0] == b""
    assert reply[14].decode().split("\n")[1:] == [f"pushed {ids[7].decode()} 7 "]


def test_the_log_is_read_on_from_where_the_last_look_ended(timed):
    """Nothing twice, nothing left out; long logs in parts."""
    raw = timed(event_log=100_000)
    first = raw.push()
    for _ in range(1200):
        raw.push()
    ((_, receipt, *_),) = raw.get()
    raw.settle((first, receipt, "d", "", "", ""))
    looks, after, more = [], 0, 1
    while more:
        reply = raw.call("trace", first, after)
        assert int(reply[11]) > after
        looks.append([int(number) for number in reply[13::2]])
        after, more = int(reply[11]), reply[12]
    assert len(looks) == 2
    assert looks[0] == [1]
    assert all(one < other for one, other in pairwise([0, *looks[0], *looks[1]]))
    assert trace(raw, first, after)[-1] == []


def test_a_strangers_key_in_the_place_of_the_log_is_an_empty_log(raw):
    """A read sets nothing aside, and does not fail."""
    raw.push()
    raw.server.set(f"{raw.base}:events", "x")
    assert trace(raw, "0" * 22)[-1] == []


@pytest.mark.parametrize(("id_", "after"), [("", "0"), ("x" * 41, "0"), ("x", ""), ("x", "-1"), ("x", "1.5")])
def test_what_cannot_be_read_is_refused(raw, id_, after):
    """An id, or its end, and a number."""
    with raw.refused("INVALID_OPTION"):
        raw.call("trace", id_, after)


def test_a_log_of_large_entries_is_read_once(alone):
    """Each call reads about as much as it looks through, not the rest of the log with it."""
    for _ in range(200):
        metadata = [f"k\0{draw}{'v' * 400}\0" for draw in draw_randoms(200)]
        alone.do("push", *[word for text in metadata for word in (text[2:13], f"n{len(text)}", "", text)])

    def spent(command, deed):
        alone.server.config_resetstat()
        deed()
        return alone.server.info("commandstats")[command]["usec"]

    def follow():
        after, more = 0, 1
        while more:
            reply = alone.call("trace", "0" * 22, after)
            after, more = int(reply[11]), reply[12]

    whole = spent("cmdstat_xrange", lambda: alone.server.xrange(f"{alone.base}:events"))
    assert spent("cmdstat_fcall", follow) < 5 * whole
