"""redis.lua: what strangers wrote into a queue's keys is set aside, and everybody goes on."""

from __future__ import annotations

import itertools

import pytest

from psmq import Bury, Delete, QueueManager, Release

KEYS = (
    "messages", "state", "ready", "suspects", "delayed", "leased", "dead", "reasons", "failures", "expiring", "wake",
    "clients", "recent", "consumers", "dedup", "dedup:ends", "results",
)  # fmt: skip
SETTINGS = (
    "visibility_timeout", "max_retrievals", "on_expiry", "delay", "ttl", "max_size", "max_length",
    "deduplication_window", "received", "sent", "last_id", "largest", "seen", "offset", "grace",
)  # fmt: skip


def plant(client, key, kind):
    client.delete(key)
    if kind == "string":
        client.set(key, "garbage")
    elif kind == "list":
        client.rpush(key, "garbage")
    elif kind == "set":
        client.sadd(key, "garbage")
    elif kind == "hash":
        client.hset(key, "garbage", "garbage")
    elif kind == "zset":
        client.zadd(key, {"garbage": 1})
    else:
        client.xadd(key, {"garbage": "garbage"})


def live(queue):
    """Every verb, on messages that come now; none may fail. Older ones may be met on the way."""
    mine = queue.push_many([b"a", b"b", b"c", b"d", b"e"])
    queue.push(b"later", delay=600, priority=3, ttl=900, deduplication_id="x")
    found = {}
    for _ in range(60):
        for message in queue.get_many(10):
            if message.message_id in mine:
                found[message.message_id] = message
            else:
                message.delete()
        if len(found) == len(mine):
            break
    assert sorted(found) == mine
    a, b, c, d, e = (found[message_id] for message_id in mine)
    assert [message.data for message in (a, b, c, d, e)] == [b"a", b"b", b"c", b"d", b"e"]
    a.extend(30)
    words, _ = queue.exchange([(a, Delete(b"result")), (b, Release(5)), (c, Release()), (d, Bury("why"))])
    assert words == ["done"] * 4
    e.delete()
    assert c.message_id in [message.message_id for message in queue.messages("ready", limit=1000)]
    assert [letter.reason for letter in queue.dead_letters(ids=[d.message_id])] == ["why"]
    queue.redrive([d.message_id])
    queue.info()
    queue.peek()
    queue.pop()
    queue.purge(states=("ready", "delayed", "leased", "dead"))
    assert not queue.get()


@pytest.mark.parametrize("key", KEYS)
def test_a_key_of_another_type_is_set_aside(raw_server, server_url, queue, key):
    """Whatever the type, whatever is asked: it is renamed, once, and the call goes on as if it had not been there."""
    base = queue._address.base
    queue.push_many([b"old"] * 3)
    queue.get().bury("old")
    for kind in ("string", "list", "set", "hash", "zset", "stream"):
        plant(raw_server, f"{base}:{key}", kind)
        queue.info()
        queue.peek()
        for state in ("ready", "delayed", "leased", "dead"):
            queue.messages(state)
        queue.dead_letters()
        with QueueManager(url=server_url) as newcomer:  # whom nobody remembers yet
            live(newcomer.get_queue(queue.name))
    if key != "wake":
        assert raw_server.exists(f"{base}:garbage")


def test_a_read_changes_nothing_of_what_strangers_wrote(raw_server, queue):
    """It sees nothing there, on a replica too."""
    queue.push(b"x")
    ready = f"{queue._address.base}:ready"
    raw_server.delete(ready)
    raw_server.set(ready, "garbage")
    assert queue.info().ready == 0
    assert queue.peek() is None
    assert raw_server.get(ready) == b"garbage"


def test_what_was_set_aside_goes_with_its_queue(raw_server, manager, new_queue):
    """delete_queue leaves no key."""
    queue = new_queue()
    raw_server.set(f"{queue._address.base}:ready", "garbage")
    queue.push(b"x")
    assert raw_server.exists(f"{queue._address.base}:garbage")
    manager.delete_queue(queue.name)
    assert list(raw_server.scan_iter(f"{queue._address.base}*", count=1000)) == []


@pytest.mark.parametrize("value", [None, "abc", "", "nan", "inf", "-5", "1e400", "9" * 30, "-inf"])
def test_settings_and_counters_that_cannot_be_read_are_as_if_not_there(raw_server, new_queue, value):
    """Missing or garbled: the default counts, and what is counted begins anew."""
    for name in SETTINGS:
        queue = new_queue()
        if value is None:
            raw_server.hdel(queue._address.base, name)
        else:
            raw_server.hset(queue._address.base, name, value)
        try:
            live(queue)
        except Exception as error:
            error.add_note(f"{name} = {value}")
            raise


BAD_IDS = (
    "",
    "garbage",
    "with space in it",
    "x" * 5000,
    "ünïcödé",
    "0" * 22,
    "1k0zb01fpy0d2pmwce3nh0;",
    "%s%d",
    "a\nb\0c",
)
BAD_VALUES = (
    b"",
    b"x",
    b"no head",
    b"n999;abc",
    b"p9999999999999999;x",
    b"n-5;x",
    b"p5",
    b"x1r1m0p-1000n2;",
    b"\0\xff" * 100,
)
BAD_STATES = (
    b"", b"x", b"- 1", b"- 999999999999999 1 5", b"- 99999999999999999999 0 0", b"- 1 1 99999999999999999999",
    b"a b c d e f", b"- 0 0 0 x99999999999999999999u99999999999999999999c99999w1", b"\xff\xfe 1 2 3", b"- 5 5 5 x1x2x3",
)  # fmt: skip


@pytest.mark.parametrize("key", ["ready", "suspects", "delayed", "leased", "dead", "expiring"])
def test_members_that_are_no_messages_stop_nobody(raw_server, queue, key):
    """Ids, values, states and scores of any kind: none of them reaches a getter as an error, the others go on."""
    base = queue._address.base
    cases = itertools.product(BAD_IDS, (None, *BAD_VALUES[:4], b";fine"), (None, *BAD_STATES))
    for number, (name, value, state) in enumerate(cases):
        message_id = f"{name}{number}" if number % 3 else name
        score = ("0", "-inf", "inf", "1e300", "-1", "0.5", "-9e15")[number % 7]
        raw_server.zadd(f"{base}:{key}", {message_id: score})
        if value is not None:
            raw_server.hset(f"{base}:messages", message_id, value)
        if state is not None:
            raw_server.hset(f"{base}:state", message_id, state)
    queue.info()
    queue.peek()
    for state in ("ready", "delayed", "leased", "dead"):
        queue.messages(state, limit=1000)
    queue.dead_letters(limit=1000)
    live(queue)


@pytest.mark.parametrize("value", BAD_VALUES)
def test_values_that_cannot_be_read_are_set_aside_or_harmless(raw_server, queue, value):
    """A message that was pushed, its bytes overwritten: dead with a reason, or given as what it is now."""
    message_id = queue.push(b"x", metadata={"a": "b"})
    raw_server.hset(f"{queue._address.base}:messages", message_id, value)
    message = queue.get()
    if message is None:
        (letter,) = queue.dead_letters()
        assert "message" in letter.reason
    else:
        assert isinstance(message.data, bytes)
        assert isinstance(message.metadata, dict)
        assert isinstance(message.priority, int)
    live(queue)


@pytest.mark.parametrize("state", BAD_STATES)
def test_states_that_cannot_be_read_are_set_aside_or_harmless(raw_server, queue, state):
    """While it waits, and while it is leased."""
    message_id = queue.push(b"x")
    raw_server.hset(f"{queue._address.base}:state", message_id, state)
    queue.get()
    raw_server.hset(f"{queue._address.base}:state", message_id, state)
    raw_server.zadd(f"{queue._address.base}:leased", {message_id: 5})
    live(queue)
