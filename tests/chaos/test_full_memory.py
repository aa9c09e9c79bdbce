"""A server at its maxmemory: everything but push goes on, nothing is half-stored, and it recovers by itself."""

from __future__ import annotations

import threading
import time

import pytest
import redis

from psmq import Bury, Delete, Release
from psmq.errors import ServerFull


@pytest.fixture
def full(arena):
    """The arena's server, with a few messages in every state, at its maxmemory. → a redis-py client"""
    arena.queue.push_many([b"x" * 1000] * 4000)
    arena.queue.push_many([b"y"] * 5)
    arena.queue.push(b"later", delay=600)
    for message in arena.queue.get_many(5):
        message.bury("why")
    with redis.Redis.from_url(arena.url) as client:
        # Far more above it than the buffers of connections take, which shrink when they are idle: it stays full until
        # messages go.
        client.config_set("maxmemory", client.info("memory")["used_memory"] - 2_000_000)
        yield client
        client.config_set("maxmemory", 0)


def stored(client, base):
    """Every key of the queue but those that remember calls, with its content."""
    keys = sorted(client.scan_iter(f"{base}:*", count=1000))
    return {key: client.dump(key) for key in keys if not key.endswith((b":clients", b":recent"))}


def test_a_push_is_refused_and_stores_nothing(arena, full):
    """Not even the half of a thousand."""
    before = stored(full, arena.queue._address.base)
    for many in (1, 3, 1000):
        with pytest.raises(ServerFull):
            arena.queue.push_many([b"z" * 500] * many)
    assert stored(full, arena.queue._address.base) == before


def test_everything_else_works(arena, full):
    """get, extend, release, bury, redrive, pop, delete, purge, listings and settings."""
    queue = arena.queue
    one, two, three = queue.get_many(3)
    one.extend(30)
    one.delete()
    two.release()
    three.bury("again")
    assert len(queue.dead_letters()) == 6
    assert queue.redrive([letter.message.message_id for letter in queue.dead_letters()]) == 6
    assert queue.pop()
    got = queue.get_many(4)
    words, more = queue.exchange([(got[0], Release(5)), (got[1], Bury("no"))], 2)
    assert words == ["done", "done"]
    assert len(more) == 2
    queue.pause()
    queue.resume()
    assert queue.configure(max_retrievals=7).max_retrievals == 7
    assert queue.peek()
    info = queue.info()
    assert queue.purge() == info.ready + info.delayed
    counters = queue.info().counters
    info = queue.info()
    gone = counters["deleted"] + counters["popped"] + counters["purged"]
    assert counters["sent"] == gone + info.ready + info.delayed + info.leased + info.dead


def test_a_result_is_waited_for(arena, full):
    """The server refuses the command that waits without looking again and again: the waiter looks, then."""
    message = arena.queue.get()
    got = []
    thread = threading.Thread(target=lambda: got.append(arena.queue.result(message.message_id, wait=10)))
    thread.start()
    time.sleep(0.3)
    assert arena.queue.exchange([(message, Delete(b"the result"))])[0] == ["done"]
    thread.join()
    assert got == [b"the result"]


def test_workers_drain_it_and_then_pushes_are_taken_again(arena):
    """The jobs that are there run to their end; what they leave is room for more."""
    arena.push(200)
    with redis.Redis.from_url(arena.url) as client:
        ballast = [f"ballast-{number}" for number in range(50)]
        for name in ballast:
            client.set(name, b"x" * 100_000)
        # well below: buffers of clients come and go
        client.config_set("maxmemory", client.info("memory")["used_memory"] - 2_000_000)
        with pytest.raises(ServerFull):
            arena.push(1)
        arena.worker("-p", 2, "-t", 2)
        arena.drain(30)
        client.delete(*ballast)
        client.config_set("maxmemory", 0)
    arena.push(100)
    arena.drain(30)
    found = arena.verdict()
    assert found.holds
    assert (found.pushed, found.done) == (300, 300)
