"""get(wait=…): woken by whatever makes a message ready, and quiet while nothing does."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from freezegun import freeze_time
from support import fresh_name, output, wait_until

from psmq import AsyncQueueManager, Delete, QueueManager
from psmq.errors import QueueNotFound

#: less than the 2 s after which a getter looks without being woken
SOON = 1.0


@pytest.fixture
def quiet(quiet_server):
    """(queue, raw client) on a server where nothing else happens."""
    with QueueManager(url=quiet_server) as manager, redis.Redis.from_url(quiet_server) as client:
        queue = manager.get_queue(fresh_name(), visibility_timeout=20)
        yield queue, client
        manager.delete_queue(queue.name)


def waiters(client):
    return client.info("clients")["blocked_clients"]


def while_waiting(quiet, action, wait=8.0):
    """What a get(wait=…) answers to an action, and how many seconds after it."""
    queue, client = quiet
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(queue.get, wait=wait)
        wait_until(lambda: waiters(client) == 1)
        begun = time.monotonic()
        action()
        return future.result(), time.monotonic() - begun


def test_a_push_wakes_a_waiting_get(quiet):
    """At once, not at the next look."""
    queue, _ = quiet
    message, took = while_waiting(quiet, lambda: queue.push(b"x"))
    assert message.data == b"x"
    assert took < SOON


def test_a_delayed_push_is_got_when_it_is_due(quiet):
    """Not before, and not 2 s later."""
    queue, _ = quiet
    message, took = while_waiting(quiet, lambda: queue.push(b"x", delay=0.4))
    assert message.data == b"x"
    assert 0.4 <= took < 0.4 + SOON


def test_a_lease_that_ends_is_noticed_on_time(quiet):
    """Whoever waits knows when the nearest lease ends."""
    queue, client = quiet
    queue.push(b"x")

    def take():
        assert queue.get(visibility_timeout=0.5)

    queue.pause()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(queue.get, wait=8)
        wait_until(lambda: waiters(client) == 1)
        client.hdel(queue._address.base, "paused")  # resumed, but without its token: the waiter sleeps on
        begun = time.monotonic()
        take()
        message = future.result()
        took = time.monotonic() - begun
    assert message.retrieval_count == 2
    assert 0.5 <= took < 0.5 + SOON


@pytest.mark.parametrize("how", ["release", "release later", "extend shorter", "resume", "redrive", "hand back"])
def test_everything_that_makes_a_message_ready_wakes(quiet, how):
    """Release, a shortened lease, resume, redrive."""
    queue, _ = quiet
    queue.push(b"x")
    held = queue.get() if how != "resume" else queue.pause()
    actions = {
        "release": lambda: held.release(),
        "release later": lambda: held.release(0.3),
        "extend shorter": lambda: held.extend(0.3),
        "resume": lambda: queue.resume(),
        "redrive": lambda: queue.redrive([held.message_id]),
        "hand back": lambda: held.release(count=False),
    }
    if how == "redrive":
        held.bury("why")
    message, took = while_waiting(quiet, actions[how])
    assert message.data == b"x"
    assert took < 0.3 + SOON


def test_a_get_that_waits_gets_many(quiet):
    """The first wakes it, the rest comes along."""
    queue, client = quiet
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(queue.get_many, 10, wait=8)
        wait_until(lambda: waiters(client) == 1)
        queue.push_many([b"%d" % number for number in range(20)])
        assert [message.data for message in future.result()] == [b"%d" % number for number in range(10)]


def test_waiting_for_nothing_is_nearly_silent(quiet):
    """At most 12 commands in 10 seconds: 1, and 2 every 2 seconds."""
    queue, client = quiet
    client.config_resetstat()
    begun = time.monotonic()
    assert queue.get(wait=4) is None
    assert 4 <= time.monotonic() - begun < 4 + SOON
    sent = sum(
        found["calls"]
        for name, found in client.info("commandstats").items()
        if name in ("cmdstat_fcall", "cmdstat_blpop")
    )
    assert sent <= 5


def test_a_wait_is_as_long_as_it_says(quiet):
    """Down to milliseconds, and 0 does not wait at all."""
    queue, _ = quiet
    for wait in (0, 0.001, 0.05, 0.3):
        begun = time.monotonic()
        assert queue.get(wait=wait) is None
        assert wait <= time.monotonic() - begun < wait + SOON


def test_a_wait_ends_though_the_test_froze_the_clock(quiet):
    """Deadlines run by a clock that freezegun does not stop."""
    queue, _ = quiet
    with freeze_time("2030-01-01"):
        assert queue.get(wait=0.05) is None


def test_no_wake_up_is_lost_among_twenty_getters(quiet):
    """One token at a time, handed on: nobody sleeps beside a ready message until the next look."""
    queue, client = quiet
    late, total = [], 200
    left = itertools.count(1)
    done = threading.Event()

    def work():
        while not done.is_set():
            if message := queue.get(wait=1.5):
                late.append(time.monotonic() - float(message.data))
                message.delete()
                if next(left) == total:
                    done.set()
                    queue.push_many([b"0"] * 20)

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    wait_until(lambda: waiters(client) == 20)
    for number in range(total // 2):
        queue.push(b"%f" % time.monotonic())
        if number % 10 == 0:
            time.sleep(0.01)  # let them fall asleep in between
    queue.push_many([b"%f" % time.monotonic() for _ in range(total // 2)])
    assert done.wait(20)
    for thread in threads:
        thread.join()
    assert max(late[:total]) < SOON


def test_a_getter_that_vanishes_with_the_token_costs_two_seconds_at_most(quiet):
    """The token is a hint: everybody looks again after 2 s."""
    queue, client = quiet

    def push_and_lose_the_token():
        with client.pipeline() as pipe:
            pipe.fcall(
                "psmq_v1_push", 2, *queue._address[1:], "", 1, "client00", 1, "nonce000", "0123456789a", "", "", b"x"
            )
            pipe.delete(queue._address.wake)
            pipe.execute()

    message, took = while_waiting(quiet, push_and_lose_the_token)
    assert message.data == b"x"
    assert took < 2 + SOON


def test_five_hundred_gets_wait_in_a_process_of_three_threads(quiet_server):
    """AsyncQueue is really asynchronous."""
    told = output(
        """
        import asyncio, sys, threading, time
        from pathlib import Path
        from psmq import AsyncQueueManager

        def threads():
            status = Path("/proc/self/status")
            if not status.exists():
                return threading.active_count()
            return int(status.read_text().split("Threads:")[1].split()[0])

        async def main(url):
            async with AsyncQueueManager(url=url) as manager:
                queue = await manager.get_queue("many")
                waiting = [asyncio.create_task(queue.get(wait=5)) for _ in range(500)]
                while (await queue.info()).consumers < 500:
                    await asyncio.sleep(0.01)
                most = threads()
                await queue.push_many([b"%d" % number for number in range(500)])
                begun = time.monotonic()
                found = await asyncio.gather(*waiting)
                took = time.monotonic() - begun
                print(max(most, threads()), len({message.data for message in found}), took < 2.5)
                await manager.delete_queue("many")

        asyncio.run(main(sys.argv[1]))
        """,
        quiet_server,
    )
    threads, messages, in_time = told.split()
    assert (int(threads) <= 3, messages, in_time) == (True, "500", "True")


def test_an_async_get_is_woken_the_same(in_loop):
    """The same flow, driven by a loop."""

    async def body(manager, queue):
        waiting = asyncio.create_task(queue.get(wait=8))
        await asyncio.sleep(0.1)
        begun = time.monotonic()
        await queue.push(b"x")
        message = await waiting
        assert message.data == b"x"
        assert time.monotonic() - begun < SOON
        assert await queue.get(wait=0.05) is None

    in_loop(body)


def test_a_result_is_waited_for_without_looking_again_and_again(quiet):
    """All who wait get it, and it stays."""
    queue, client = quiet
    message_id = queue.push(b"x")
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(queue.result, message_id, wait=8) for _ in range(3)]
        wait_until(lambda: waiters(client) == 3)
        begun = time.monotonic()
        queue.exchange([(queue.get(), Delete(b"42"))])
        assert [future.result() for future in futures] == [b"42"] * 3
        assert time.monotonic() - begun < SOON
    assert queue.result(message_id) == b"42"
    client.config_resetstat()
    assert queue.result("no such id", wait=3) is None
    calls = client.info("commandstats")
    assert sum(calls[name]["calls"] for name in ("cmdstat_lindex", "cmdstat_blmove")) <= 4


def test_a_queue_that_is_deleted_under_a_waiting_get_is_an_error(quiet_server):
    """Not an endless wait."""
    with QueueManager(url=quiet_server) as manager, redis.Redis.from_url(quiet_server) as client:
        queue = manager.get_queue(fresh_name())
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(queue.get, wait=10)
            wait_until(lambda: waiters(client) == 1)
            manager.delete_queue(queue.name)
            with pytest.raises(QueueNotFound):
                future.result(timeout=5)


def test_loops_have_their_own_connections(server_url):
    """One manager in two event loops, one after the other."""
    manager = AsyncQueueManager(url=server_url)
    name = fresh_name()

    async def once():
        async with manager:
            queue = await manager.get_queue(name)
            await queue.push(b"x")
            return (await queue.info()).ready

    assert [asyncio.run(once()) for _ in range(2)] == [1, 2]

    async def end():
        async with manager:
            await manager.delete_queue(name)

    asyncio.run(end())
