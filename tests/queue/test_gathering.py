"""Pushes of many threads or coroutines share a trip, and each still stands for itself."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
import redis
from support import wait_until

from psmq import QueueManager, gathering
from psmq.errors import MessageTooLarge, NotSerializable, OutcomeUnknown, QueueFull


def together(count, work):
    """Run ``work(index)`` in so many threads at once. → what each returned or raised"""
    found = [None] * count
    ready = threading.Barrier(count)

    def run(index):
        ready.wait(10)
        try:
            found[index] = work(index)
        except Exception as error:
            found[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found


def test_threads_that_push_at_once_share_trips_and_get_their_own_ids(quiet_server):
    """Each returns when its own message is stored."""
    with QueueManager(url=quiet_server) as manager, redis.Redis.from_url(quiet_server) as client:
        queue = manager.get_queue("together")
        queue.push(b"warm")
        queue.pop()
        client.config_resetstat()
        ids = together(16, lambda index: [queue.push(b"%d %d" % (index, turn)) for turn in range(50)])
        trips = client.info("commandstats")["cmdstat_fcall"]["calls"]
        expected = {id_: b"%d %d" % (index, turn) for index, mine in enumerate(ids) for turn, id_ in enumerate(mine)}
        stored = {message.message_id: message.data for message in queue.get_many(1000)}
        assert stored == expected
        assert trips < 800 / 2


def test_one_that_is_refused_is_refused_alone(new_queue):
    """The trip they shared stored nothing: each is sent again by itself."""
    queue = new_queue(max_size=100)

    def push(index):
        return queue.push(b"x" * (101 if index % 4 == 0 else 10))

    for _ in range(5):
        for index, answer in enumerate(together(16, push)):
            if index % 4 == 0:
                assert isinstance(answer, MessageTooLarge)
            else:
                assert isinstance(answer, str)
    assert queue.info().ready == 5 * 12


def test_a_queue_is_filled_to_the_last_place(new_queue):
    """Whoever comes after that gets QueueFull, also when it shared a trip with one that fitted."""
    queue = new_queue(max_length=100)
    answers = together(16, lambda index: [_try(lambda: queue.push(b"x"), QueueFull) for _ in range(10)])
    flat = [answer for mine in answers for answer in mine]
    assert sum(isinstance(answer, str) for answer in flat) == 100 == queue.info().ready
    assert sum(isinstance(answer, QueueFull) for answer in flat) == 60


def _try(work, kind):
    try:
        return work()
    except kind as error:
        return error


def test_batches_beside_single_pushes_stay_whole(queue):
    """push_many shares trips, too, up to a thousand messages in one."""
    sizes = [1, 400, 700, 1, 1000, 3]
    answers = together(len(sizes), lambda index: queue.push_many([b"%d" % index] * sizes[index]))
    assert [len(answer) for answer in answers] == sizes
    found = []
    while batch := queue.get_many(1000):
        found += batch
    assert {message.message_id: int(message.data) for message in found} == {
        id_: index for index, ids in enumerate(answers) for id_ in ids
    }


def test_a_server_that_is_gone_is_an_error_for_each(own_server):
    """Nobody waits for an answer that never comes."""
    with QueueManager(url=own_server, timeout=0.5) as manager:
        queue = manager.get_queue("gone")
        with redis.Redis.from_url(own_server) as client:
            client.client_pause(60_000, all=True)
            answers = together(8, lambda index: queue.push(b"x"))
    assert all(isinstance(answer, OutcomeUnknown) for answer in answers)


def test_a_fork_between_pushes_leaves_the_child_a_gatherer_of_its_own(queue):
    """The sending thread is not copied, nor are the pushes that waited for it."""
    stop = threading.Event()

    def push_on(index):
        while not stop.is_set():
            queue.push(b"x")

    threads = [threading.Thread(target=push_on, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            pid = os.fork()
            if not pid:
                together(4, lambda index: queue.push(b"child"))
                os._exit(0)
            assert wait_until(lambda pid=pid: os.waitpid(pid, os.WNOHANG)[0]) == pid
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)
    info = queue.info()
    assert info.counters["sent"] == info.ready
    found = []
    while batch := queue.get_many(1000):
        found += [message.data for message in batch]
    assert found.count(b"child") == 5 * 4


def test_the_sending_thread_ends_when_nobody_pushes_beside_another(queue):
    """A program that pushes now and then keeps no thread for it."""
    together(8, lambda index: [queue.push(b"x") for _ in range(20)])
    wait_until(lambda: "psmq-pushes" not in {thread.name for thread in threading.enumerate()})
    together(8, lambda index: [queue.push(b"x") for _ in range(20)])
    assert queue.info().ready == 320


SENDER = "psmq-pushes"
#: no thread's id: with it among those who push, nobody is alone
COMPANY = -1


@contextmanager
def held_up(queue, monkeypatch):
    """Everybody has company, and what the sending thread sends waits for the event that this gives."""
    gatherer, gate = queue._link._gatherer, threading.Event()
    run = gatherer._run

    def gated(push, clock, *, meanwhile=None):
        if threading.current_thread().name == SENDER:
            assert gate.wait(20)
        return run(push, clock, meanwhile=meanwhile)

    monkeypatch.setattr(gatherer, "_run", gated)
    gatherer._inside.add(COMPANY)
    try:
        yield gate
    finally:
        gate.set()


@contextmanager
def on_alarm(work):
    """What this thread does soon, in the middle of whatever it is at."""
    before = signal.signal(signal.SIGALRM, lambda *_: work())
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def in_threads(count, work):
    """Start ``work`` in so many threads. → the threads"""
    threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


def under_way(queue, data):
    """A thread whose push the sending thread has taken, so that what comes now waits."""
    (thread,) = in_threads(1, lambda: queue.push(data))
    gatherer = queue._link._gatherer
    wait_until(lambda: gatherer._sending and gatherer._queue.empty())
    return thread


def all_ended(threads):
    deadline = time.monotonic() + 20
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0))
    return not any(thread.is_alive() for thread in threads)


def test_whoever_is_interrupted_leaves_nobody_asleep(queue, monkeypatch):
    """Each that is woken wakes another: also when one of them is gone."""
    gatherer = queue._link._gatherer
    monkeypatch.setattr(gathering, "_FORGOTTEN", 1000.0)

    def interrupt():
        raise KeyboardInterrupt

    with held_up(queue, monkeypatch) as gate:
        threads = [under_way(queue, b"first")]
        with on_alarm(interrupt), pytest.raises(KeyboardInterrupt):
            queue.push(b"interrupted")
        threads += in_threads(6, lambda: queue.push(b"later"))
        wait_until(lambda: gatherer._queue.qsize() == 7)
        gate.set()
        assert all_ended(threads)
    # What was not on its way when its thread left was not sent.
    assert queue.info().ready == 7


def test_whoever_was_not_woken_by_another_is_woken_all_the_same(queue, monkeypatch):
    """An exception from outside may hit a thread just as it should wake the next."""
    gatherer = queue._link._gatherer
    wake_next = gatherer._wake_next

    def hit():
        if threading.current_thread().name == SENDER:
            wake_next()

    monkeypatch.setattr(gatherer, "_wake_next", hit)
    with held_up(queue, monkeypatch) as gate:
        threads = [under_way(queue, b"x")]
        threads += in_threads(7, lambda: queue.push(b"x"))
        wait_until(lambda: gatherer._queue.qsize() == 7)
        gate.set()
        assert all_ended(threads)
    assert queue.info().ready == 8


def test_a_signals_handler_pushes_while_its_thread_waits(queue, monkeypatch):
    """It does not wait behind what it has interrupted."""
    with held_up(queue, monkeypatch) as gate:

        def handler():
            queue.push(b"handler")
            assert queue.info().ready == 1
            gate.set()

        with on_alarm(handler):
            queue.push(b"interrupted")
    assert queue.info().ready == 2


def test_the_sending_thread_pushes_itself(queue, monkeypatch):
    """Whatever the garbage collector ends may run in any thread, and push."""
    gatherer = queue._link._gatherer
    run, pushed = gatherer._run, []

    def pushing(push, clock, *, meanwhile=None):
        if threading.current_thread().name == SENDER and not pushed:
            pushed.append(True)
            queue.push(b"from within")
        return run(push, clock, meanwhile=meanwhile)

    monkeypatch.setattr(gatherer, "_run", pushing)
    gatherer._inside.add(COMPANY)
    assert all_ended(in_threads(4, lambda: queue.push(b"x")))
    assert pushed
    assert queue.info().ready == 5


class Alarm(Exception):
    pass


@contextmanager
def alarms(handler):
    """A signal every millisecond or so, in the main thread."""
    before = signal.signal(signal.SIGALRM, handler)
    try:
        yield lambda: signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0002, 0.002))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_exceptions_at_any_moment_leave_nobody_asleep(queue):
    """As Ctrl-C, or an alarm that ends what takes too long."""
    ended = threading.Event()

    def push_on():
        while not ended.is_set():
            queue.push(b"x")

    def handler(*_):
        raise Alarm

    threads, count, ends = in_threads(8, push_on), 0, time.monotonic() + 4
    with alarms(handler) as set_alarm:
        while time.monotonic() < ends:
            try:
                set_alarm()
                while True:
                    queue.push(b"main")
            except Alarm:
                count += 1
    ended.set()
    assert all_ended(threads)
    assert count > 100


def test_a_handler_may_wait_for_a_thread_that_pushes(queue):
    """As a graceful end does, which joins its threads."""
    ended, asked, done = threading.Event(), threading.Semaphore(0), threading.Semaphore(0)
    count, waited = 0, []

    def push_on():
        while not ended.is_set():
            queue.push(b"x")

    def push_when_asked():
        while asked.acquire(timeout=20) and not ended.is_set():
            queue.push(b"asked")
            done.release()

    def handler(*_):
        nonlocal count
        count += 1
        asked.release()
        waited.append(done.acquire(timeout=10))

    threads, ends = in_threads(4, push_on) + in_threads(1, push_when_asked), time.monotonic() + 4
    with alarms(handler) as set_alarm:
        while time.monotonic() < ends and all(waited):
            before = count
            set_alarm()
            while count == before:
                queue.push(b"main")
    ended.set()
    asked.release()
    assert all_ended(threads)
    assert all(waited)
    assert count > 100


LAST_WORDS = """
import os, sys, threading, time
from psmq import QueueManager
queue = QueueManager(url=sys.argv[1]).get_queue("last-words")
class Last:
    def __init__(self):
        self.itself, self.queue, self.say = self, queue, os.write
    def __del__(self):
        self.queue.push(b"bye")
        self.say(1, b"pushed")
def push_on():
    while True:
        queue.push(b"x")
for _ in range(8):
    threading.Thread(target=push_on, daemon=True).start()
time.sleep(0.3)
last = Last()
del last  # in a cycle, so it goes when the interpreter does
"""


def test_a_program_ends_whose_threads_push_and_that_pushes_as_it_ends(quiet_server):
    """Its daemon threads are frozen by then, the one that sends among them."""
    for _ in range(3):
        words = [sys.executable, "-c", LAST_WORDS, quiet_server]
        ended = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        assert (ended.returncode, ended.stdout) == (0, "pushed")


def test_what_is_stored_does_not_wait_for_a_large_push_behind_it(queue, monkeypatch):
    """Who is to be woken is woken before it is written: that may take long."""
    gatherer, seen = queue._link._gatherer, []
    run = gatherer._run

    def watched(push, clock, *, meanwhile=None):
        seen.append((sum(map(len, push.args[3::4])) > 100_000, len(gatherer._answered)))
        return run(push, clock, meanwhile=meanwhile)

    monkeypatch.setattr(gatherer, "_run", watched)
    with held_up(queue, monkeypatch) as gate:
        threads = [under_way(queue, b"small")]
        threads += in_threads(1, lambda: queue.push(b"x" * 500_000))
        wait_until(lambda: gatherer._queue.qsize() == 1)
        gate.set()
        assert all_ended(threads)
    assert seen == [(False, 0), (True, 0)]


def test_coroutines_share_trips_and_one_that_is_cancelled_costs_the_others_nothing(in_loop):
    """Its own message may have been pushed."""

    async def body(manager, queue):
        tasks = [asyncio.create_task(queue.push(b"%d" % number)) for number in range(300)]
        await asyncio.sleep(0)
        for task in tasks[::10]:
            task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        stored = {message.message_id: message.data for message in await queue.get_many(1000)}
        for number, answer in enumerate(answers):
            if isinstance(answer, str):
                assert stored[answer] == b"%d" % number
            else:
                assert isinstance(answer, asyncio.CancelledError)
                assert number % 10 == 0

    in_loop(body)


def test_a_coroutine_that_is_refused_is_refused_alone(in_loop):
    """As with threads."""

    async def body(manager, queue):
        answers = await asyncio.gather(
            *(queue.push(b"x" * (101 if number % 4 == 0 else 10)) for number in range(40)), return_exceptions=True
        )
        assert [isinstance(answer, MessageTooLarge) for answer in answers] == [number % 4 == 0 for number in range(40)]
        assert (await queue.info()).ready == 30

    in_loop(body, max_size=100)


@pytest.mark.parametrize("kind", ["thread", "coroutine"])
def test_one_that_pushes_alone_goes_straight_to_the_server(kind, queue, in_loop):
    """Sharing is for those who have company."""
    if kind == "thread":
        for _ in range(50):
            queue.push(b"x")
        assert not queue._link._gatherer._sender
        return

    async def body(manager, queue):
        for _ in range(50):
            await queue.push(b"x")
        assert len(asyncio.all_tasks()) == 1

    in_loop(body)


def test_where_no_thread_can_be_started_everybody_goes_alone(queue, monkeypatch):
    """At a limit of threads, or when the interpreter ends: nobody waits for a thread that never came."""
    gatherer = queue._link._gatherer

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        patch.setattr(gatherer, "_inside", {COMPANY})
        queue.push(b"alone")
    together(8, lambda index: [queue.push(b"x") for _ in range(10)])
    assert queue.info().ready == 81


def test_a_stream_is_read_one_trip_ahead_and_tells_how_far_it_is(new_queue):
    """progress gets the ids of each trip as it is stored; what fails later leaves these stored."""
    queue, read, told = new_queue(), [], []

    def items(bad):
        for number in range(500):
            read.append(number)
            yield object() if number == bad else b"%d" % number

    ids = queue.push_many(items(None), progress=lambda stored: told.append((stored, len(read))))
    assert [len(stored) for stored, _ in told] == [200, 200, 100]
    assert [count for _, count in told] == [400, 500, 500]
    assert [one for stored, _ in told for one in stored] == ids
    told.clear()
    with pytest.raises(NotSerializable):
        queue.push_many(items(340), progress=lambda stored: told.append(stored))
    assert [len(stored) for stored in told] == [200]
    assert queue.info().ready == 700


def test_a_stream_that_pushes_itself_is_no_trouble(new_queue):
    """What is read meanwhile may use the same queue: it has a connection of its own."""
    queue = new_queue()

    def items():
        for number in range(2100):
            if number == 1500:
                queue.push(b"from within")
            yield b"%d" % number

    assert len(queue.push_many(items())) == 2100
    assert queue.info().ready == 2101


def test_a_stream_that_is_interrupted_closes_its_connection(new_queue):
    """Nobody reads that answer, and no other command gets it."""
    queue = new_queue()

    def items():
        for number in range(420):
            if number == 300:
                raise KeyboardInterrupt
            yield b"%d" % number

    with pytest.raises(KeyboardInterrupt):
        queue.push_many(items())
    wait_until(lambda: queue.info().ready == 200)
    assert queue.peek().data == b"0"
