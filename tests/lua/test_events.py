"""events.lua: the log of what happened to messages, an entry for each call that touched some."""

from __future__ import annotations

import pytest
import redis

from psmq import QueueManager, library


def log(raw):
    """[(number of its last event, time in ms, client, [(verb, ids, details), …]), …]"""
    found = []
    for number, fields in raw.server.xrange(f"{raw.base}:events"):
        head, *lines = fields[b"e"].decode().split("\n")
        words = [line.split(" ", 2) for line in lines]
        events = [(verb, ids.split(","), rest[0] if rest else "") for verb, ids, *rest in words]
        milliseconds, client = head.split(" ")
        found.append((int(number.split(b"-")[0]), int(milliseconds), client, events))
    return found


def happened(raw, message_id):
    return [(verb, details) for *_, events in log(raw) for verb, ids, details in events if message_id in ids]


def test_a_queue_keeps_no_log_unless_it_is_told_to(raw):
    """Nothing is written for it."""
    raw.push()
    ((id_, receipt, *_),) = raw.get()
    raw.settle((id_, receipt, "d", "", "", ""))
    assert not raw.server.exists(f"{raw.base}:events")
    assert "events" not in raw.info()


def test_the_life_of_a_message_is_told_in_order(timed, start):
    """Whoever asked for it, when, and what came of it."""
    raw = timed(event_log=1000)
    id_ = raw.push(b"task\0a:b\0body", "n9d1000")
    raw.later(2)
    ((_, receipt, *_),) = raw.get()
    raw.call("extend", 5000, id_, receipt)
    raw.settle((id_, receipt, "rd3000", "failed", "why", ""))
    raw.later(4)
    ((_, receipt, *_),) = raw.get()
    raw.settle((id_, receipt, "b", "no\ngood", "", ""))
    raw.do("redrive", "", id_)
    ((_, receipt, *_),) = raw.get()
    raw.settle((id_, receipt, "d", "", "", ""))
    assert happened(raw, id_) == [
        ("pushed", "1000 task\0a:b\0"),
        ("delivered", "1"),
        ("extended", "5000"),
        ("released", "3000 counted failed"),
        ("delivered", "2"),
        ("buried", "no good"),
        ("redriven", ""),
        ("delivered", "1"),
        ("deleted", ""),
    ]
    assert [milliseconds - start for _, milliseconds, *_ in log(raw)] == [0, *[2000] * 3, *[6000] * 5]
    assert [client for _, _, client, _ in log(raw)] == ["" if at == 2 else raw.client for at in range(9)]


@pytest.mark.parametrize(
    ("settlement", "told"),
    [("ru1", "0 uncounted "), ("rc1d500", "500 lost "), ("rd250m9", "250 counted ")],
)
def test_a_release_says_how_it_counts(timed, settlement, told):
    """Handed back unstarted, lost with its worker, or failed."""
    raw = timed(event_log=10)
    id_ = raw.push()
    ((_, receipt, *_),) = raw.get()
    raw.settle((id_, receipt, settlement, "", "", ""))
    assert happened(raw, id_)[-1] == ("released", told)


def test_what_time_and_hands_do_is_told_too(timed):
    """A lease that ends, a ttl that ends, a pop, a purge; hasten, amend and adopt."""
    raw = timed(event_log=1000, visibility_timeout=10, max_retrievals=2)
    lost, dies, late, popped = raw.push(), raw.push(options="m1"), raw.push(options="t5000d1000"), raw.push()
    raw.get(2)
    raw.later(11)
    raw.do("pop")
    assert happened(raw, lost)[-2:] == [("delivered", "1"), ("ended", "")]
    assert happened(raw, dies)[-1][0] == "buried"
    assert happened(raw, late)[-1] == ("expired", "")
    assert happened(raw, popped)[-1] == ("popped", "1")
    waits = raw.push(options="d60000")
    raw.do("hasten", waits)
    assert happened(raw, waits)[-1] == ("hastened", "")
    raw.do("amend", dies, 0, "other", "", "")
    assert happened(raw, dies)[-1] == ("amended", "")
    raw.do("purge", "dead", dies)
    assert happened(raw, dies)[-1] == ("purged", "")
    raw.do("adopt", dies, 1000, 1, ";x", "why", "")
    assert happened(raw, dies)[-1] == ("adopted", "")


def test_a_batch_is_one_entry_of_one_line(own_server):
    """64 deliveries and 64 deletions: one command more for the call, not for each message."""
    with QueueManager(url=own_server) as manager, redis.Redis.from_url(own_server) as client:
        queue = manager.get_queue("q", event_log=10_000)
        queue.push_many([b"x"] * 128)
        held = queue.get_many(64)
        client.config_resetstat()
        from psmq import Delete

        queue.exchange([(one, Delete()) for one in held], 64)
        ran = {name: found["calls"] for name, found in client.info("commandstats").items()}
        assert (ran.get("cmdstat_xadd"), ran.get("cmdstat_hincrby")) == (1, None)
        number, fields = client.xrevrange("psmq:{q}:events", count=1)[0]
        assert fields[b"e"].count(b"\n") == 2
        assert number == b"320-0"


def test_the_log_is_bounded_by_events_not_by_entries(timed):
    """Whole nodes of the stream go: a few more than N may be there, never a multiple."""
    raw = timed(event_log=500)
    for _ in range(30):
        raw.do("push", *[part for at in range(100) for part in (f"{at:011d}", "", "", b"x")])
    told = [number for number, *_ in log(raw)]
    assert told[-1] == 3000
    assert 500 <= 100 * len(told) <= 700
    for _ in range(1500):
        raw.push()
    assert 500 <= len(log(raw)) <= 500 + 100


def test_long_reasons_and_metadata_are_cut(timed):
    """500 bytes of each: a log of small events stays one."""
    raw = timed(event_log=10)
    id_ = raw.push(b"k\0" + b"v" * 5000 + b"\0", "n5003")
    ((_, receipt, *_),) = raw.get()
    raw.settle((id_, receipt, "b", "r" * 5000, "", ""))
    (_, pushed), _, (_, buried) = happened(raw, id_)
    assert (len(pushed), len(buried)) == (500, 500)


def test_switching_it_off_and_deleting_the_queue_leave_no_key(raw):
    """Whatever was told before."""
    raw.call("configure", "event_log", "100")
    raw.push()
    assert raw.server.exists(f"{raw.base}:events")
    raw.call("configure", "event_log", "0")
    assert not raw.server.exists(f"{raw.base}:events")
    raw.call("configure", "event_log", "100")
    raw.push()
    raw.call("delete_queue", "1", clock="")
    raw.call("forget_queue", clock="")
    assert list(raw.server.scan_iter(f"{raw.base}*")) == []


@pytest.mark.parametrize("kept", ["-1", "100001", "x", ""])
def test_how_many_are_kept_is_0_to_100_000(raw, kept):
    """Anything else is refused."""
    with raw.refused("INVALID_OPTION"):
        raw.call("configure", "event_log", kept)


def test_nothing_in_the_place_of_the_log_stops_a_settlement(raw):
    """A key of another type, an entry with a higher number, a count that is none: the log begins anew."""
    raw.call("configure", "event_log", "100")
    for spoil in (
        lambda: raw.server.set(f"{raw.base}:events", "x"),
        lambda: raw.server.xadd(f"{raw.base}:events", {"e": "x"}, id="9999999999-0"),
        lambda: raw.server.hset(raw.base, "events", "many"),
        lambda: raw.server.hset(raw.base, "events", "-50"),
    ):
        id_ = raw.push()
        ((_, receipt, *_),) = raw.get()
        raw.server.delete(f"{raw.base}:events")
        spoil()
        assert raw.settle((id_, receipt, "d", "", "", "")) == ["done"]
        assert happened(raw, id_) == [("deleted", "")]


def test_a_full_server_is_drained_with_the_log_on(own_server):
    """Pushes are refused, and settlements write their events."""
    with QueueManager(url=own_server) as manager, redis.Redis.from_url(own_server) as client:
        queue = manager.get_queue("q", event_log=100_000)
        queue.push_many([b"x" * 100] * 100)
        client.config_set("maxmemory", client.info("memory")["used_memory"] - 1)
        while held := queue.get_many(7):
            for message in held:
                message.delete()
        assert queue.info().counters["deleted"] == 100
        assert client.xrevrange("psmq:{q}:events", count=1)[0][0] == b"300-0"
        client.config_set("maxmemory", 0)


def test_a_repeated_command_is_told_once(raw):
    """Its answer was remembered, and nothing is done."""
    raw.call("configure", "event_log", "100")
    for _ in range(2):
        raw.do("push", "0" * 11, "", "", b"x", number=1, nonce="0" * 8)
    assert len(log(raw)) == 1


def test_the_most_that_is_kept_is_the_same_in_python(raw):
    """Both refuse what the other would."""
    from psmq import QueueConfig
    from psmq.errors import InvalidOption

    assert "events.most = 100000" in library.source()
    assert QueueConfig(event_log=100_000).event_log == 100_000
    with pytest.raises(InvalidOption):
        QueueConfig(event_log=100_001)
