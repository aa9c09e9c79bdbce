"""The way to the result: it comes, or what comes instead says why."""

from __future__ import annotations

import asyncio
import pickle
import re
import threading
import time
from datetime import timedelta

import pytest
from tasks.conftest import work
from tenacity import stop_after_attempt, wait_fixed

from psmq import Bury, Release
from psmq_tasks.attempt import settle
from psmq_tasks.errors import (
    ResultNotKept,
    ResultTimeout,
    TaskBuried,
    TaskFailed,
    TimeLimitExceeded,
    WorkerLost,
)
from psmq_tasks.outcome import Lost, Raised, Returned, TimedOut
from psmq_tasks.results import FIRST_WAIT, LONGEST_WAIT, Hint, TaskHandle


def add(a: int, b: int) -> int:
    return a + b


def fail() -> None:
    raise ValueError("bad input")


class Source:
    """Answers with one outcome at the n-th request; notes how long each would have waited."""

    def __init__(self, outcome=None, at=1):
        self.given, self.at, self.waits = outcome, at, []

    def outcome(self, queue_name, message_id, wait):
        self.waits.append(wait)
        return self.given if len(self.waits) >= self.at else None

    async def aoutcome(self, queue_name, message_id, wait):
        return self.outcome(queue_name, message_id, wait)

    def why_waiting(self, queue_name, message_id, task):
        return Hint(f"nothing serves queue {queue_name!r}", stuck=True)

    async def awhy_waiting(self, queue_name, message_id, task):
        return self.why_waiting(queue_name, message_id, task)


def handle_of(source, **options):
    return TaskHandle(source, "0123456789a0123456789a", "mail", "m:f", **options)


def test_a_result_comes_back(app):
    """By result(), exception(), done(), and await."""
    handle = app.task(add).delay(1, 2)
    assert not handle.done()
    work(app)
    assert handle.done()
    assert handle.result(timeout=5) == 3
    assert handle.exception(timeout=5) is None

    async def wait():
        again = pickle.loads(pickle.dumps(handle))
        try:
            return await again, await again.aresult(timeout=5)
        finally:
            await app.aclose()

    assert asyncio.run(wait()) == (3, 3)


def test_an_error_is_raised_with_the_remote_traceback(app):
    """``except ValueError`` works, and the worker's lines are shown."""
    handle = app.task(fail).delay()
    work(app)
    with pytest.raises(ValueError, match="bad input") as caught:
        handle.result(timeout=5)
    assert "in fail" in str(caught.value.__cause__)
    assert isinstance(handle.exception(), ValueError)


def test_a_result_that_comes_later_ends_the_wait(app):
    """The server wakes who waits."""
    handle = app.task(add).delay(1, 2)
    found = []
    waiter = threading.Thread(target=lambda: found.append(handle.result(timeout=30)))
    waiter.start()
    work(app)
    waiter.join(30)
    assert found == [3]


def test_a_timeout_says_that_nothing_serves_the_queue(app):
    """And what would. Once something asks for messages, it does not."""
    handle = app.task(add).delay(1, 2)
    with pytest.raises(ResultTimeout, match=f"nothing serves queue '{app.name}': psmq-worker ") as caught:
        handle.result(timeout=0)
    assert isinstance(caught.value, TimeoutError)
    assert (caught.value.message_id, caught.value.timeout) == (handle.id, 0.0)

    async def wait():
        with pytest.raises(ResultTimeout, match="nothing serves"):
            await handle.aresult(timeout=0)
        await app.aclose()

    asyncio.run(wait())
    app.queue(app.name).get()
    with pytest.raises(ResultTimeout) as caught:
        handle.result(timeout=0)
    assert caught.value.hint == "a worker has it: attempt 1"


def hint_of(handle):
    with pytest.raises(ResultTimeout) as caught:
        handle.result(timeout=0)
    return caught.value.hint


def test_a_timeout_says_how_the_call_is_doing(app):
    """Whatever it waits for: a place in line, its next attempt, somebody who has its code."""
    task = app.task(stop=stop_after_attempt(3), wait=wait_fixed(600))(fail)
    handle = task.delay()
    queue = app.queue(app.name)
    queue.pause()
    assert hint_of(handle) == f"queue {app.name!r} is paused: psmq resume {app.name}"
    queue.resume()
    queue.get().release(count=False)
    assert hint_of(handle) == f"it waits in line: queue {app.name!r} has 1 ready"
    held = queue.get()
    queue.exchange([(held, settle(app, task, held.record, Raised(ValueError("bad input")), time.time()))])
    assert hint_of(handle) == "failed once, last: ValueError: bad input; again in 600 s"
    queue.hasten([handle.id])
    held = queue.get()
    assert hint_of(handle) == "failed once, last: ValueError: bad input; a worker has it: attempt 2"
    queue.exchange([(held, Release(30, count=False, unknown=True, reason="nobody knows it"))])
    assert re.fullmatch(
        r"no worker that got it has that task: psmq-worker \S+ \(next try in (30|29\.\d) s\)", hint_of(handle)
    )
    queue.purge(states=["delayed"])
    assert "is not in queue" in hint_of(handle)
    later = task.using(delay=90).delay()
    assert re.fullmatch(r"it is due in (90|89\.\d) s", hint_of(later))


def test_who_waits_for_what_never_comes_is_told_in_the_log(caplog):
    """Once, after some seconds; who waits for what comes is not."""
    source = Source(Returned(1), at=3)
    assert handle_of(source).result() == 1
    (told,) = caplog.messages
    assert told == "m:f 0123456789a0123456789a has no result yet: nothing serves queue 'mail'"
    caplog.clear()
    handle_of(Source(Returned(1))).result()
    source = Source(Returned(1), at=2)
    source.why_waiting = lambda *_: Hint("a worker has it: attempt 1")
    handle_of(source).result()
    with pytest.raises(ResultTimeout):
        handle_of(Source()).result(timeout=5)
    assert not caplog.messages


def test_what_the_server_buries_is_told(app):
    """A reader of a task that was buried by hand does not wait for ever."""
    handle = app.task(add).delay(1, 2)
    queue = app.queue(app.name)
    queue.exchange([(queue.get(), Bury("by hand"))])
    with pytest.raises(TaskBuried, match="by hand"):
        handle.result(timeout=5)


def test_a_long_wait_is_asked_for_in_portions():
    """No request waits longer than a minute; without a timeout there is always another."""
    source = Source(Returned(1), at=4)
    assert handle_of(source).result() == 1
    assert source.waits == [FIRST_WAIT, *[LONGEST_WAIT] * 3]
    source = Source()
    with pytest.raises(ResultTimeout, match="after 150 s; nothing serves queue 'mail'"):
        handle_of(source).result(timeout=timedelta(seconds=150))
    assert source.waits == [5, 60, 60, 25]
    source = Source()
    with pytest.raises(ResultTimeout):
        asyncio.run(handle_of(source).aresult(timeout=90))
    assert source.waits == [5, 60, 25]


def test_a_timeout_of_nothing_looks_once():
    """0, and what is less."""
    for timeout in (0, -5):
        source = Source()
        with pytest.raises(ResultTimeout):
            handle_of(source).result(timeout=timeout)
        assert source.waits == [0]


def test_a_result_is_asked_for_once():
    """It stays with the handle when the server has long dropped it."""
    source = Source(Returned([1]))
    handle = handle_of(source)
    assert handle.done()
    assert handle.result() is handle.result()
    assert asyncio.run(handle.aresult()) == [1]
    assert len(source.waits) == 1


@pytest.mark.parametrize(
    "outcome, error, words",
    [
        (Lost("killed by signal 9"), WorkerLost, "killed by signal 9"),
        (TimedOut(5.0, hard=True), TimeLimitExceeded, "hard time limit of 5 s"),
    ],
)
def test_what_is_no_end_of_the_tasks_own_has_its_own_error(outcome, error, words):
    """WorkerLost instead of a wait without end."""
    with pytest.raises(error, match=words):
        handle_of(Source(outcome)).result()
    assert isinstance(handle_of(Source(outcome)).exception(), error)


def test_a_result_that_is_not_kept_is_not_waited_for(app):
    """``result_ttl=0``: at once, by every way of asking."""
    handle = app.task(add, result_ttl=0).delay(1, 2)
    for ask in (handle.result, handle.exception, handle.done, lambda: asyncio.run(handle.aresult())):
        with pytest.raises(ResultNotKept, match="result_ttl=0"):
            ask()


def test_a_task_that_exits_does_not_end_its_caller(app):
    """TaskFailed tells of the SystemExit."""
    handle = app.task(exit_now, name="m:exit").delay()
    work(app)
    with pytest.raises(TaskFailed, match="SystemExit: 3"):
        handle.result(timeout=5)


def exit_now():
    raise SystemExit(3)


def test_a_handle_pickles_and_compares_by_its_message(app):
    """One task can hand it to another."""
    handle = app.task(add).delay(1, 2)
    twin = pickle.loads(pickle.dumps(handle))
    assert twin == handle
    assert hash(twin) == hash(handle)
    assert twin != app.tasks[handle.task].delay(1, 2)
    assert handle != handle.id
    assert repr(handle) == f"<TaskHandle {handle.task} {handle.id} in queue {app.name!r}>"
    work(app)
    assert twin.result(timeout=5) == 3
