"""What kills workers, and what becomes of their messages."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from support import children, wait_until

from psmq_tasks import TaskBuried, TimeLimitExceeded, WorkerLost
from psmq_tasks.history import Failure


def test_what_was_pushed_before_everything_was_killed_runs_later(stage):
    """A push that returned survives its sender and every worker."""
    tasks = stage.tasks("@app.task\ndef one(): note('ran')")
    tasks.one.delay()
    first = stage.worker(wait=False)
    first.kill()
    first.wait()
    stage.worker("-p", 1)
    wait_until(lambda: "ran" in stage.lines())


def test_a_killed_worker_s_task_runs_on_an_idle_one_when_its_lease_ends(stage):
    """SIGKILL of a whole worker: another, idle, runs the task within the visibility timeout + 1 s, nobody pushing."""
    tasks = stage.tasks(
        """
        @app.task
        def long(): note('start', current_message().attempt, time.time()); time.sleep(0.5 if current_message().attempt > 1 else 60)
        """,
        visibility_timeout=3,
    )
    worker = stage.worker("-p", 1)
    tasks.long.delay()
    wait_until(lambda: len(stage.lines()) == 1)
    stage.worker("-p", 1)
    worker.kill()
    killed = time.time()
    wait_until(lambda: len(stage.lines()) == 2, 10)
    again = float(stage.lines()[1].split()[2])
    assert again - killed < 3 + 1 + 0.5
    wait_until(lambda: stage.queue.info().leased == 0)


def test_a_killed_child_s_task_is_back_within_a_second(stage):
    """The supervisor knows what the child held, and gives it back at once."""
    tasks = stage.tasks(
        """
        @app.task
        def long(): note('start', current_message().attempt, time.time(), os.getpid()); time.sleep(0.1 if current_message().attempt > 1 else 60)
        """
    )
    stage.worker("-p", 2)
    tasks.long.delay()
    wait_until(stage.lines)
    os.kill(int(stage.lines()[0].split()[3]), signal.SIGKILL)
    killed = time.time()
    wait_until(lambda: len(stage.lines()) == 2)
    assert float(stage.lines()[1].split()[2]) - killed < 1.5
    wait_until(lambda: stage.queue.info().counters["deleted"] == 1)


def test_a_task_that_kills_its_process_is_dead_after_its_attempts_and_hurts_nobody(stage):
    """Started exactly max_retrievals times, then dead with the signal's name; a thousand good tasks behind it finish."""
    tasks = stage.tasks(
        """
        @app.task(stop=stop_after_attempt(3))
        def killer(): note('killer'); os.kill(os.getpid(), signal.SIGKILL)
        @app.task(result_ttl=0)
        def good(i): note('good', i)
        """
    )
    stage.worker("-p", 2, "-t", 4)
    handle = tasks.killer.delay()
    tasks.good.delay_many(tasks.good.call(i) for i in range(1000))
    with pytest.raises(WorkerLost, match="signal 9"):
        handle.result(timeout=40)
    wait_until(lambda: stage.queue.info().counters["deleted"] == 1000, 30)
    counts = stage.counts()
    assert counts["killer"] == 3
    assert {f"good {i}" for i in range(1000)} <= counts.keys()
    (letter,) = stage.queue.dead_letters()
    assert "killed by signal 9" in letter.reason
    assert [Failure.unpack(record).outcome for record in letter.failures] == ["lost"] * 3


def test_a_task_that_holds_the_gil_past_its_lease_runs_once(stage):
    """The supervisor extends leases through shared memory; the child need not run a line of Python for it."""
    tasks = stage.tasks(
        """
        @app.task
        def stuck(): note('start'); ctypes.PyDLL(None).usleep(3_000_000); note('end')
        """,
        visibility_timeout=1,
    )
    stage.worker("-p", 2)
    assert tasks.stuck.delay().result(timeout=20) is None
    assert stage.counts() == {"start": 1, "end": 1}


def test_waiting_retries_hold_up_nobody(stage):
    """A hundred tasks that wait for their second attempt occupy no slot: others run at once."""
    tasks = stage.tasks(
        """
        @app.task(wait=wait_fixed(30), result_ttl=0)
        def failing(): raise OSError('busy')
        @app.task
        def quick(): return 'done'
        """
    )
    stage.worker("-p", 1, "-t", 2)
    tasks.failing.delay_many(tasks.failing.call() for _ in range(100))
    wait_until(lambda: stage.queue.info().delayed == 100, 20)
    began = time.monotonic()
    assert tasks.quick.delay().result(timeout=5) == "done"
    assert time.monotonic() - began < 2


def test_short_tasks_do_not_wait_behind_a_long_one(stage):
    """What a slot holds behind a task that turns out long goes back uncounted, and runs elsewhere."""
    tasks = stage.tasks(
        """
        @app.task(result_ttl=0)
        def short(i): note(i, current_message().attempt)
        @app.task(result_ttl=0)
        def long(): note('long', 1); time.sleep(4)
        """
    )
    stage.worker("-p", 1, "-t", 2)
    tasks.short.delay_many(tasks.short.call(i) for i in range(200))
    wait_until(lambda: len(stage.lines()) == 200)  # the slots have learned that tasks are short
    calls = [tasks.short.call(i) for i in range(200, 400)]
    calls.insert(20, tasks.long.call())
    stage._app.send(calls)
    began = time.monotonic()
    wait_until(lambda: len(stage.lines()) == 401, 10)
    assert time.monotonic() - began < 3.5, "they waited for the long one"
    assert set(stage.counts().values()) == {1}
    assert all(line.endswith(" 1") for line in stage.lines()), "a hand-back must not count"


def test_a_hard_limit_ends_a_blocked_call_and_spares_the_neighbours(stage):
    """The process is ended; the task counts one attempt, what else ran there does not, and runs again."""
    tasks = stage.tasks(
        """
        @app.task(time_limit=1, stop=stop_after_attempt(1))
        def blocked(): ctypes.PyDLL(None).usleep(60_000_000)
        @app.task
        def neighbour():
            note('neighbour', current_message().attempt)
            time.sleep(2.5)
            return current_message().attempt
        """,
        visibility_timeout=10,
    )
    stage.worker("-p", 1, "-t", 2)
    neighbour = tasks.neighbour.delay()
    wait_until(stage.lines)
    with pytest.raises(TimeLimitExceeded):
        tasks.blocked.delay().result(timeout=20)
    assert neighbour.result(timeout=20) == 1
    assert stage.counts() == {"neighbour 1": 2}


def test_a_soft_limit_is_raised_in_the_task(stage):
    """The task can tidy up; what it then returns or raises counts."""
    tasks = stage.tasks(
        """
        @app.task(soft_time_limit=0.3, stop=stop_after_attempt(1))
        def tidy():
            try:
                while True: time.sleep(0.01)
            except SoftTimeLimitExceeded:
                return 'tidied'
        @app.task(soft_time_limit=0.3, stop=stop_after_attempt(1))
        async def forever(): await asyncio.sleep(60)
        """
    )
    stage.worker("-p", 1)
    assert tasks.tidy.delay().result(timeout=10) == "tidied"
    with pytest.raises(TimeLimitExceeded):
        tasks.forever.delay().result(timeout=10)


def test_a_stopped_worker_cannot_settle_what_has_passed_on(stage):
    """After SIGSTOP for longer than the lease another worker has the message; the late settlement is refused."""
    tasks = stage.tasks(
        """
        @app.task
        def slow():
            note('start', current_message().attempt)
            time.sleep(1.5)
            note('lost' if current_message().lease_lost else 'kept', current_message().attempt)
            return current_message().attempt
        """,
        visibility_timeout=1,
    )
    first = stage.worker("-p", 1)
    handle = tasks.slow.delay()
    wait_until(stage.lines)
    family = [first.pid, *children(first.pid)]
    for pid in family:
        os.kill(pid, signal.SIGSTOP)
    stage.worker("-p", 1)
    wait_until(lambda: "start 2" in stage.lines(), 10)
    for pid in reversed(family):
        os.kill(pid, signal.SIGCONT)
    assert handle.result(timeout=20) == 2
    wait_until(lambda: sum("kept" in line or "lost" in line for line in stage.lines()) == 2)
    wait_until(lambda: "had passed on" in stage.output(0))
    assert stage.queue.info().counters["deleted"] == 1


def test_a_dead_child_is_replaced_and_a_dead_supervisor_takes_its_children_along(stage):
    """No orphans: children end with their supervisor, however it dies."""
    stage.tasks("@app.task\ndef one(): pass")
    worker = stage.worker("-p", 2)
    first = wait_until(lambda: len(children(worker.pid)) == 2 and children(worker.pid))
    os.kill(first[0], signal.SIGKILL)
    wait_until(lambda: len(set(children(worker.pid)) - {first[0]}) == 2)
    family = children(worker.pid)
    worker.kill()
    worker.wait()
    wait_until(lambda: not any(_alive(pid) for pid in family), 5)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_buried_by_the_server_s_count_tells_the_waiter(stage):
    """A limit lower than the policy's attempts: the server buries at release, and result() raises the real error."""
    tasks = stage.tasks(
        """
        @app.task(wait=wait_fixed(0.05))
        def failing(): raise ValueError('no')
        """
    )
    stage.worker("-p", 1)
    handle = tasks.failing.delay()
    with pytest.raises(ValueError, match="no"):
        handle.result(timeout=10)
    (letter,) = stage.queue.dead_letters()
    assert Counter(Failure.unpack(record).type for record in letter.failures) == {"ValueError": 5}
    assert not isinstance(letter, TaskBuried)
