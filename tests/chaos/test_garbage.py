"""Workers on a queue that a stranger has written into."""

from __future__ import annotations

import redis


def test_workers_go_on_past_what_strangers_wrote(arena):
    """Ids, bytes, states and whole keys that are none of ours: set aside with a reason; every job is done."""
    base = arena.queue._address.base
    arena.push(50)
    with redis.Redis.from_url(arena.url) as client:
        for number, part in enumerate(("ready", "suspects", "delayed", "leased", "expiring")):
            bad = {f"stranger {number} {at}": at for at in range(20)} | {"x" * 3000: 1, "y" * 22: "-inf", "": 5}
            client.zadd(f"{base}:{part}", bad)
        client.hset(f"{base}:messages", "y" * 22, b"no message")
        client.hset(f"{base}:state", "y" * 22, b"- 999999999999999 1 1 w1")
        client.hset(base, "received", "garbage")
        client.hset(base, "max_retrievals", "nan")
        for part in ("dedup", "failures", "recent", "consumers"):
            client.delete(f"{base}:{part}")
            client.set(f"{base}:{part}", "garbage")
        arena.worker("-p", 2, "-t", 2)
        arena.push(50)
        arena.push(5, task="flaky")
        arena.drain(30)
        assert client.exists(f"{base}:garbage")
    ends = {record.key for record in arena.history.read() if record.kind == "end"}
    assert len(ends) == 105
    letters = arena.queue.dead_letters(limit=1000)
    assert {letter.reason for letter in letters} <= {
        "its id is none of ours",
        "its bytes are not a message",
        "its bytes are missing",
        "its state cannot be read",
    }
    assert len(letters) > 80
    assert arena.workers[0].end() == 0
