"""One call, run: whatever the task does comes back as an outcome, and a limit strikes the call or nothing."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time

import pytest
from support import output

from psmq_tasks.errors import OutsideTask, SoftTimeLimitExceeded
from psmq_tasks.executor import CurrentMessage, arun, current_message, run
from psmq_tasks.outcome import Raised, Returned, TimedOut


def message(task="m:f", attempt=1):
    return CurrentMessage("0123456789a0123456789a", task, "q", attempt, {"sender": "host:1"})


def go(function, *args, soft_limit=None, **kwargs):
    return run(function, args, kwargs, message(), soft_limit)


async def ago(function, *args, soft_limit=None, **kwargs):
    return await asyncio.create_task(arun(function, args, kwargs, message(), soft_limit))


def spin():
    while True:
        pass


ERRORS = [
    ValueError("no"),
    SystemExit(3),
    KeyboardInterrupt(),
    GeneratorExit(),
    StopIteration(1),
    MemoryError(),
    asyncio.CancelledError(),
]


def test_a_returned_value_is_the_outcome():
    """With its arguments."""
    assert go(divmod, 7, 2) == Returned((3, 1))
    assert go(lambda a, *, b: a + b, 1, b=2) == Returned(3)


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize("soft_limit", [None, 60])
def test_whatever_a_task_raises_is_an_outcome(error, soft_limit):
    """sys.exit ends the task, not the worker."""

    def fails():
        raise error

    assert go(fails, soft_limit=soft_limit) == Raised(error)


@pytest.mark.parametrize("error", [error for error in ERRORS if not isinstance(error, StopIteration)], ids=repr)
@pytest.mark.parametrize("soft_limit", [None, 60])
def test_whatever_a_coroutine_raises_is_an_outcome(error, soft_limit):
    """Also a CancelledError of its own, while nobody cancels the worker's task."""

    async def fails():
        await asyncio.sleep(0)
        raise error

    assert asyncio.run(ago(fails, soft_limit=soft_limit)) == Raised(error)


def test_a_recursion_without_end_is_an_outcome():
    """And the stack is whole again."""

    def deeper():
        return deeper()

    assert isinstance(go(deeper).error, RecursionError)
    assert go(int) == Returned(0)


def test_a_coroutine_nobody_awaits_is_an_error_that_says_so():
    """A plain function that returns one looked async to its author."""

    async def inner():
        pass

    def looks_async():
        return inner()

    outcome = go(looks_async)
    assert isinstance(outcome.error, TypeError)
    assert "async def" in str(outcome.error)


def test_a_running_task_can_ask_for_its_message():
    """Id, task, queue, attempt, metadata, and whether its lease is still its own."""
    mine = message("m:g", attempt=3)

    def ask():
        found = current_message()
        mine.lease_lost = True
        return found.message_id, found.task, found.queue_name, found.attempt, found.metadata, found.lease_lost

    outcome = run(ask, (), {}, mine)
    assert outcome.value == (mine.message_id, "m:g", "q", 3, {"sender": "host:1"}, True)
    with pytest.raises(OutsideTask):
        current_message()


def test_tasks_in_threads_and_coroutines_see_their_own_message():
    """Also many at once on one loop."""

    async def ask(n):
        await asyncio.sleep(0)
        return (n, current_message().attempt)

    async def many():
        return await asyncio.gather(
            *(asyncio.create_task(arun(ask, (n,), {}, message(attempt=n), None)) for n in range(50))
        )

    assert [outcome.value for outcome in asyncio.run(many())] == [(n, n) for n in range(50)]


def test_context_variables_that_a_task_sets_end_with_it():
    """The next task in this thread starts clean."""
    colour = contextvars.ContextVar("colour", default="none")
    assert go(colour.set, "red").value
    assert go(colour.get) == Returned("none")


# -- soft limits ------------------------------------------------------------------------------------------------------


def test_a_soft_limit_is_raised_in_the_tasks_own_code():
    """Let through, it is a timeout."""
    assert go(spin, soft_limit=0.01) == TimedOut(0.01)


def test_a_task_may_catch_its_soft_limit_and_tidy_up():
    """What it then returns or raises is its outcome."""

    def tidy(then):
        try:
            spin()
        except SoftTimeLimitExceeded:
            return then()

    assert go(tidy, lambda: "tidied", soft_limit=0.01) == Returned("tidied")
    error = ValueError()

    def fail():
        raise error

    assert go(tidy, fail, soft_limit=0.01) == Raised(error)


def test_a_call_that_ends_in_time_is_not_disturbed():
    """And nothing is left behind for the next."""
    assert go(int, soft_limit=60) == Returned(0)


def test_a_limit_that_passes_as_the_call_ends_strikes_the_call_or_nothing():
    """Never the code that runs next in this thread. A few hundred calls that end just then."""
    limit = 0.002

    def until(deadline):
        while time.monotonic() < deadline:
            pass

    for round_ in range(300):
        # From 0.2 ms before the limit to 0.2 ms after it.
        outcome = go(until, time.monotonic() + limit + (round_ - 150) * 0.2e-3 / 150, soft_limit=limit)
        assert outcome in (Returned(None), TimedOut(limit))
        for _ in range(200):  # here it would strike
            pass
    end = time.monotonic() + 0.01
    while time.monotonic() < end:
        pass


def test_a_limit_that_struck_leaves_the_interpreter_as_it_was():
    """Dropping a pending exception the easy way makes CPython look for it before every instruction from then on.

    Traced code, which looks before a function's first instruction, then stands still for ever.
    """
    program = """
        import faulthandler, sys
        from psmq_tasks.executor import CurrentMessage, run
        def late():
            while True: pass
        def trace(*_): return trace
        faulthandler.dump_traceback_later(20, exit=True)
        sys.settrace(trace)
        print(run(late, (), {}, CurrentMessage("id", "m:f", "q", 1), 0.01))
        print((lambda: "goes on")())
    """
    assert output(program) == "TimedOut(limit=0.01, hard=False)\ngoes on\n"


def test_each_thread_has_its_own_limit():
    """The watchdog tells them apart, and wakes for the earliest."""
    outcomes = {}

    def thread(limit):
        outcomes[limit] = go(spin, soft_limit=limit)

    limits = [0.05, 0.01, 0.03]
    threads = [threading.Thread(target=thread, args=(limit,)) for limit in limits]
    for one in threads:
        one.start()
    for one in threads:
        one.join(30)
    assert outcomes == {limit: TimedOut(limit) for limit in limits}


def test_one_watchdog_serves_the_process():
    """Not a thread per call."""
    go(int, soft_limit=60)
    assert [thread.name for thread in threading.enumerate()].count("psmq-soft-limits") == 1


def test_limits_work_in_a_forked_child():
    """The watchdog's thread stays in the parent: the child starts its own."""
    program = """
        import os
        from psmq_tasks.executor import CurrentMessage, run
        def spin():
            while True: pass
        message = CurrentMessage("id", "m:f", "q", 1)
        print(run(spin, (), {}, message, 0.01), flush=True)
        pid = os.fork()
        if not pid:
            print(run(spin, (), {}, message, 0.01), flush=True)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    """
    assert output(program).splitlines() == ["TimedOut(limit=0.01, hard=False)"] * 2


def test_other_users_of_the_same_call_are_not_disturbed():
    """ctypes shares the attributes of pythonapi between all libraries: ours sets none of their types."""
    go(spin, soft_limit=0.01)
    import ctypes

    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_long(0), None) == 0


def test_a_coroutine_gets_its_soft_limit_where_it_waits():
    """As the same exception, not as a cancellation."""

    async def waits(then):
        try:
            await asyncio.get_running_loop().create_future()
        except SoftTimeLimitExceeded:
            if then is None:
                raise
            return then

    assert asyncio.run(ago(waits, None, soft_limit=0.01)) == TimedOut(0.01)
    assert asyncio.run(ago(waits, "tidied", soft_limit=0.01)) == Returned("tidied")


def test_a_coroutine_may_go_on_waiting_after_its_soft_limit():
    """To tidy up takes an await or two: it strikes once, and nothing stays cancelled."""

    async def waits():
        try:
            await asyncio.get_running_loop().create_future()
        except SoftTimeLimitExceeded:
            await asyncio.sleep(0.01)
            assert not asyncio.current_task().cancelling()
            async with asyncio.timeout(1):
                await asyncio.sleep(0.01)
            return "done"

    assert asyncio.run(ago(waits, soft_limit=0.01)) == Returned("done")


def test_a_soft_limit_ends_a_task_group():
    """Its error group of nothing else is a timeout too."""

    async def group():
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.sleep(60))
            await asyncio.sleep(60)

    assert asyncio.run(ago(group, soft_limit=0.01)) == TimedOut(0.01)


def test_a_coroutine_that_ends_in_time_is_not_disturbed():
    """Its timer is gone with it."""

    async def quick():
        await asyncio.sleep(0)
        return asyncio.get_running_loop()

    async def both():
        loop = (await ago(quick, soft_limit=60)).value
        return [handle for handle in loop._scheduled if not handle.cancelled()]

    assert asyncio.run(both()) == []


@pytest.mark.parametrize("soft_limit", [None, 60])
def test_a_cancellation_from_outside_passes_through(soft_limit):
    """The worker stops: it decides what becomes of the message, there is no outcome."""
    seen = []

    async def waits():
        try:
            await asyncio.get_running_loop().create_future()
        except BaseException as error:
            seen.append(type(error))
            raise

    async def stop():
        task = asyncio.create_task(arun(waits, (), {}, message(), soft_limit))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(stop())
    assert seen == [asyncio.CancelledError]


def test_wrong_arguments_are_an_outcome():
    """A signature that changed in a deploy."""
    assert isinstance(go(lambda a: a).error, TypeError)

    async def one(a):
        pass

    assert isinstance(asyncio.run(ago(one)).error, TypeError)
