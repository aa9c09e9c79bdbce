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
    assert [raw.do("purge", "delayed") for _ in range(5)] == [250] * 4 + [0]
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
