"""Bounded work: a backlog makes no call slower. 10⁵ messages here, 10⁶ in the long run."""

from __future__ import annotations

import contextlib
import time

import pytest
import redis
from support import fresh_name, wait_until

from psmq import Bury, Delete, NewMessage, Release

#: milliseconds that a call may take
MOST = 5.0
BODY = b"x" * 200


class Clocked:
    """Measures what the calls of a block take in the server: the processor time of its one thread, which other
    processes of the machine do not lengthen."""

    def __init__(self, url):
        self.client = redis.Redis.from_url(url)
        self.table = {}

    def _milliseconds(self):
        found = self.client.info("cpu")
        return 1000 * (found["used_cpu_user_main_thread"] + found["used_cpu_sys_main_thread"])

    def _calls(self):
        found = self.client.info("commandstats")
        return sum(found.get(name, {"calls": 0})["calls"] for name in ("cmdstat_fcall", "cmdstat_fcall_ro"))

    def __call__(self, name, act, times=5):
        """What a round takes, the least of several, in ms; of one round of many calls: what each takes.

        → what the last round answered
        """
        took, answer = [], None
        for _ in range(times):
            calls, began = self._calls(), self._milliseconds()
            answer = act()
            took.append(self._milliseconds() - began)
            if times == 1:
                took[0] /= self._calls() - calls
            if took[-1] < MOST / 2:
                break
        self.table[name] = min(took)
        return answer


@pytest.fixture
def clocked(arena):
    found = Clocked(arena.url)
    yield found
    found.client.close()


def load(queue, count, **options):
    for _ in range(count // 1000):
        queue.push_many([NewMessage(BODY, **options)] * 1000)


def measure(clocked, manager, queue, count):
    """Every verb on a queue with so many ready, and as many that are due, ended or expired at once."""
    load(queue, count)
    for _ in range(5):
        queue.exchange([(message, Bury("no", failure=b"f" * 500)) for message in queue.get_many(1000)])
    queue.push_many([NewMessage(BODY, delay=900)] * 1000)
    clocked("push", lambda: queue.push(BODY))
    clocked("push with everything", lambda: queue.push(
        BODY, priority=3, ttl=900, deduplication_id=str(time.monotonic()), metadata={"a": "b"}, max_retrievals=3))  # fmt: skip
    clocked("get", queue.get)
    clocked("pop", queue.pop)
    clocked("peek", queue.peek)
    clocked("info", queue.info)
    clocked("exchange of 64", lambda: queue.exchange([(m, Delete()) for m in queue.get_many(64)], 64))
    clocked("64 retries", lambda: queue.exchange([(m, Release(5, failure=b"f" * 500)) for m in queue.get_many(64)]))
    for state in ("ready", "delayed", "leased", "dead"):
        clocked(f"100 {state}", lambda state=state: queue.messages(state, limit=100))
    letters = clocked("100 dead letters", lambda: queue.dead_letters(limit=100))
    clocked("redrive of 100", lambda: queue.redrive([one.message.message_id for one in letters]), 1)
    held = queue.get_many(64)
    clocked("extend of 64", lambda: manager.consumer().extend(queue, [(m.message_id, m.receipt) for m in held], 60))
    many = queue.get_many(200)
    clocked("200 burials", lambda: queue.exchange([(m, Bury("no")) for m in many]), 1)

    late = manager.get_queue(fresh_name("late"), visibility_timeout=3)
    load(late, count // 4, delay=2.0)
    load(late, count // 4, ttl=2.0)
    load(late, count // 4)
    for _ in range(count // 4 // 1000):
        assert len(late.get_many(1000, visibility_timeout=2)) > 0
    wait_until(lambda: late.info().delayed == 0, 30)
    with contextlib.suppress(TimeoutError):
        wait_until(lambda: late.info().leased == 0, 3)
    for name in ("peek", "info", "get"):
        clocked(f"{name}, {count:,} due", getattr(late, name))
    clocked("100 ready, all due", lambda: late.messages("ready", limit=100))
    clocked("push, all due", lambda: late.push(BODY))
    clocked("a purge", lambda: late.purge(states=("ready", "dead")), 1)
    clocked("a purge of dead letters", lambda: queue.purge(states=("dead",)), 1)
    clocked("deleting it", lambda: manager.delete_queue(queue.name), 1)
    manager.delete_queue(late.name)


def show(table):
    for name, took in sorted(table.items(), key=lambda row: -row[1]):
        print(f"{took:7.2f} ms  {name}")


@pytest.mark.timeout(120)
def test_a_backlog_makes_no_call_slow(arena, clocked):
    """10⁵ messages: no verb takes the server 5 ms, whatever is due at that moment."""
    measure(clocked, arena.manager, arena.manager.get_queue(fresh_name("b")), 100_000)
    show(clocked.table)
    assert [name for name, took in clocked.table.items() if took >= MOST] == []


@pytest.mark.timeout(120)
def test_bulk_calls_cost_the_same_with_and_without_a_backlog(arena, clocked):
    """A thousand at once take what a thousand take: not more because many others wait."""
    times = {}
    for count in (4_000, 60_000):
        queue = arena.manager.get_queue(fresh_name("b"))
        load(queue, count)

        def trip(queue=queue):
            queue.push_many([BODY] * 1000)
            got = queue.get_many(1000)
            queue.exchange([(message, Bury("no")) for message in got])
            queue.redrive([message.message_id for message in got])

        clocked("trip", trip, 6)
        times[count] = clocked.table["trip"]
        arena.manager.delete_queue(queue.name)
    print(times)
    assert times[60_000] < 2.5 * times[4_000]


@pytest.mark.chaos_long
@pytest.mark.timeout(1200)
def test_a_million_messages_make_no_call_slow(arena, clocked):
    """The same with 10⁶."""
    measure(clocked, arena.manager, arena.manager.get_queue(fresh_name("b")), 1_000_000)
    show(clocked.table)
    assert [name for name, took in clocked.table.items() if took >= MOST] == []
