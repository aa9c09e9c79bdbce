"""batch.lua: many writes as few commands, and none too long for Lua's unpack."""

import redis

from psmq import Delete, QueueManager


def test_a_thousand_of_everything_fits_into_one_call(raw):
    """unpack() works to 7,990 values: larger lists go in slices."""
    items = [
        part
        for number in range(1000)
        for part in (f"{number:011d}", "p1t100000m3r5", f"dedup {number}", b"%d" % number)
    ]
    ids = raw.do("push", *items)
    assert len(set(ids)) == 1000
    held = raw.get(1000)
    assert [found[0].encode() for found in held] == ids
    words = raw.settle(*[(id_, receipt, "rd60000", "", "failed", "") for id_, receipt, *_ in held])
    assert words == ["done"] * 1000
    assert raw.info()["delayed"] == 1000
    assert [raw.do("purge", "delayed") for _ in range(6)] == [200] * 5 + [0]
    for part in ("messages", "state", "failures", "delayed", "expiring"):
        assert not raw.server.exists(f"{raw.base}:{part}")


def test_a_batch_costs_a_dozen_commands(own_server):
    """Work on many messages is one command per key, not a loop."""
    with QueueManager(url=own_server) as manager, redis.Redis.from_url(own_server) as client:
        queue = manager.get_queue("q")
        queue.push_many([b"x"] * 64)
        client.config_resetstat()
        words, _ = queue.exchange([(message, Delete()) for message in queue.get_many(64)])
        calls = client.info("commandstats")
        ran = sum(found["calls"] for name, found in calls.items() if name != "cmdstat_fcall")
        assert words == ["done"] * 64
        assert ran < 64


def test_many_leases_make_tables_of_their_keys(raw):
    """A list would be searched from its start for each of them; what made the table is not left behind."""
    for _ in range(70):
        raw.push()
    assert len(raw.get(5)) == 5
    assert raw.server.object("encoding", f"{raw.base}:leased") == b"listpack"
    held = raw.get(64)
    for part, kind, count in (("leased", b"skiplist", "zcard"), ("state", b"hashtable", "hlen")):
        assert raw.server.object("encoding", f"{raw.base}:{part}") == kind
        assert getattr(raw.server, count)(f"{raw.base}:{part}") == 69
    assert [id_ for id_, *_ in held] == sorted(id_ for id_, *_ in held)
