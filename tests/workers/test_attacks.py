"""What users, servers and operators do to a worker, and what must hold all the same."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest
import redis
from support import children, wait_until

from psmq_tasks import TaskBuried, TaskFailed, TasksError, WorkerLost
from psmq_tasks.history import Failure

# --- user code that reaches further than it should


def test_what_watches_a_task_cannot_lose_what_became_of_it(stage):
    """Subscribers and log filters that raise what nobody expects: each task is settled, and its slot goes on."""
    tasks = stage.tasks(
        """
        import logging
        @app.events.subscribe('before_task')
        def interrupt(**_): raise KeyboardInterrupt
        @app.events.subscribe('after_task')
        def cancel(**_): raise asyncio.CancelledError
        class Broken(logging.Filter):
            def filter(self, record): raise OSError('no log today')
        logging.getLogger('psmq_tasks.worker').addFilter(Broken())
        @app.task
        def plain(x): return x
        @app.task(stop=stop_after_attempt(1))
        def failing(): raise ValueError('no')
        @app.task
        async def coroutine(x): return x
        """
    )
    stage.worker("-p", 1, "-t", 1)
    for i in range(2):
        assert tasks.plain.delay(i).result(timeout=5) == i
        assert tasks.coroutine.delay(i).result(timeout=5) == i
        with pytest.raises(ValueError, match="no"):
            tasks.failing.delay().result(timeout=5)
    wait_until(lambda: stage.queue.info().leased == 0)


def test_a_policy_that_cannot_even_be_described_buries_its_task(stage):
    """An error of the retry policy whose words raise too: the task is dead with a reason, the slot goes on."""
    tasks = stage.tasks(
        """
        class Awful(Exception):
            def __str__(self): raise RuntimeError('not even this')
        def never(state): raise Awful
        @app.task(wait=never)
        def failing(): raise ValueError('no')
        @app.task
        def good(): return 1
        """
    )
    stage.worker("-p", 1, "-t", 1)
    handle = tasks.failing.delay()
    assert tasks.good.delay().result(timeout=5) == 1
    wait_until(lambda: stage.queue.info().leased == 0)
    stage.queue.purge()
    assert handle


def test_an_event_loop_survives_its_coroutines(stage):
    """A sub-task that calls sys.exit, a coroutine that stops the loop or cancels itself: the others go on."""
    tasks = stage.tasks(
        """
        @app.task(stop=stop_after_attempt(1))
        async def leave():
            async def inner(): sys.exit(3)
            await asyncio.create_task(inner())
        @app.task
        async def stop(): asyncio.get_running_loop().stop(); return 'stopped'
        @app.task(stop=stop_after_attempt(1))
        async def cancel(): asyncio.current_task().cancel(); await asyncio.sleep(60)
        @app.task
        async def nap(): await asyncio.sleep(0.5); return os.getpid()
        """
    )
    stage.worker("-p", 1, "-t", 1)
    naps = [tasks.nap.delay()]
    assert tasks.stop.delay().result(timeout=5) == "stopped"
    for task in (tasks.leave, tasks.cancel):
        naps.append(tasks.nap.delay())
        with pytest.raises((TaskFailed, TaskBuried)):
            task.delay().result(timeout=5)
    assert len({nap.result(timeout=5) for nap in naps}) == 1
    wait_until(lambda: stage.queue.info().leased == 0)


def test_what_the_server_would_not_take_does_not_stop_a_slot(stage):
    """A result of 20 MiB, failures of control characters and CJK: each is told in words, and the next task runs."""
    tasks = stage.tasks(
        r"""
        once = dict(stop=stop_after_attempt(1))
        @app.task(**once)
        def huge(): return bytes(20 * 1024 * 1024)
        @app.task(**once)
        def garbage(): raise ValueError('\0\x01' * 50_000)
        @app.task(**once)
        def chinese(): raise ValueError('\u6f22\U0001f600' * 50_000)
        @app.task(**once)
        def wordy(): raise Reject('\0' * 200_000)
        @app.task
        def good(): return 1
        """
    )
    stage.worker("-p", 1, "-t", 1)
    with pytest.raises(TasksError, match="16 MiB"):
        tasks.huge.delay().result(timeout=10)
    for task in (tasks.garbage, tasks.chinese, tasks.wordy):
        with pytest.raises(Exception) as caught:  # noqa: PT011  # what, is not the point
            task.delay().result(timeout=10)
        assert "Timeout" not in type(caught.value).__name__
    assert tasks.good.delay().result(timeout=5) == 1
    letters = stage.queue.dead_letters()
    assert len(letters) == 3
    assert all(Failure.unpack(record).decision for letter in letters for record in letter.failures)
    assert stage.queue.info().leased == 0


def test_a_task_that_forks_ends_once(stage):
    """The copy that comes back from the task is no worker: it settles nothing, and takes nothing."""
    tasks = stage.tasks(
        """
        @app.task
        def forks():
            pid = os.fork()
            if not pid: return 'copy'
            os.waitpid(pid, 0)
            return 'original'
        """
    )
    stage.worker("-p", 1, "-t", 2)
    for _ in range(3):
        assert tasks.forks.delay().result(timeout=5) == "original"
    info = stage.queue.info()
    assert (info.counters["deleted"], info.counters["received"]) == (3, 3)


def test_a_task_may_use_processes_of_its_own(stage):
    """What a task forks obeys TERM as any process does: a pool can be terminated."""
    tasks = stage.tasks(
        """
        import multiprocessing
        def double(x): return 2 * x
        @app.task
        def pooled():
            with multiprocessing.get_context('fork').Pool(2) as pool:
                return pool.map(double, [1, 2, 3])
        @app.task
        def terminated():
            process = multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,))
            process.start()
            process.terminate()
            process.join(5)
            return process.exitcode
        """
    )
    stage.worker("-p", 1)
    assert tasks.pooled.delay().result(timeout=10) == [2, 4, 6]
    assert tasks.terminated.delay().result(timeout=10) == -signal.SIGTERM


# --- stopping


def test_what_ends_at_the_last_moment_is_settled(stage):
    """Sixteen tasks end in the same instant of a graceful stop: none is run again, and the exit code says so."""
    tasks = stage.tasks("@app.task\ndef until(then): note('start'); time.sleep(max(0, then - time.time()))")
    for _ in range(3):
        worker = stage.worker("-p", 1, "-t", 16)
        done = stage.queue.info().counters["deleted"]
        then, started = time.time() + 1.0, len(stage.lines())
        tasks.until.delay_many(tasks.until.call(then) for _ in range(16))
        wait_until(lambda started=started: len(stage.lines()) == started + 16)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(10) == 0
        info = stage.queue.info()
        assert (info.ready, info.leased, info.counters["deleted"]) == (0, 0, done + 16)


def test_a_coroutine_that_waits_for_room_is_not_started_by_a_stopping_worker(stage):
    """What waits behind async-concurrency at TERM goes back uncounted; what runs ends."""
    tasks = stage.tasks(
        """
        @app.task
        async def slow(i): note('start', i, current_message().attempt); await asyncio.sleep(1); note('end', i)
        """
    )
    worker = stage.worker("-p", 1, "-t", 2, "--async-concurrency", 1)
    tasks.slow.delay_many(tasks.slow.call(i) for i in range(3))
    wait_until(stage.lines)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(10) == 0
    assert stage.lines() == ["start 0 1", "end 0"]
    assert [message.retrieval_count for message in stage.queue.messages("ready")] == [0, 0]


def test_who_kills_its_process_while_the_worker_stops_is_counted(stage):
    """A stop excuses what it interrupts, not what dies of itself."""
    tasks = stage.tasks(
        """
        @app.task
        def killer(): note('start'); time.sleep(0.7); os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    worker = stage.worker("-p", 1)
    tasks.killer.delay()
    wait_until(stage.lines)
    worker.send_signal(signal.SIGTERM)
    worker.wait(10)
    (message,) = stage.queue.messages("ready")
    assert message.retrieval_count == 1


def test_a_worker_whose_server_is_gone_stops_at_once(outage):
    """Idle, and nobody to ask: TERM does not wait for the server."""
    outage.tasks("@app.task\ndef one(): pass")
    worker = outage.worker("-p", 2)
    outage.kill_server()
    wait_until(lambda: "does not answer" in outage.output(), 20)
    worker.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    assert worker.wait(20) == 0
    assert time.monotonic() - asked < 6


# --- stopped and stuck processes


def test_a_stopped_process_that_waits_takes_no_message_along(stage):
    """SIGSTOP to an idle process: what is pushed then runs elsewhere within 2 s, and was not counted there."""
    tasks = stage.tasks("@app.task\ndef one(): return current_message().attempt")
    worker = stage.worker("-p", 2)
    family = wait_until(lambda: len(children(worker.pid)) == 2 and children(worker.pid))
    assert tasks.one.delay().result(timeout=5) == 1
    with redis.Redis.from_url(stage.manager.settings()["url"]) as client:  # both are idle: they wait on the server
        wait_until(lambda: sum(one["cmd"] == "blpop" and "b" in one["flags"] for one in client.client_list()) >= 2)
    os.kill(family[0], signal.SIGSTOP)
    # A thread of it may go on for an instant, until another one has taken note of the signal.
    threads = [path / "stat" for path in Path(f"/proc/{family[0]}/task").iterdir()]
    wait_until(lambda: {path.read_text().rpartition(")")[2].split()[0] for path in threads} == {"T"})
    try:
        began = time.monotonic()
        assert [tasks.one.delay().result(timeout=5) for _ in range(4)] == [1] * 4
        assert time.monotonic() - began < 3
        assert stage.queue.info().leased == 0
    finally:
        os.kill(family[0], signal.SIGCONT)


def test_what_a_stuck_process_got_and_did_not_start_goes_to_others(stage):
    """A task that holds the GIL from its first moment on keeps nothing that its slot took along."""
    tasks = stage.tasks(
        """
        @app.task(result_ttl=0)
        def short(i): pass
        @app.task(result_ttl=0)
        def stuck(): note('stuck'); ctypes.PyDLL(None).usleep(4_000_000)
        @app.task
        def one(): return os.getpid()
        """
    )
    worker = stage.worker("-p", 2, "-t", 2)
    wait_until(lambda: len(children(worker.pid)) == 2)
    tasks.short.delay_many(tasks.short.call(i) for i in range(400))
    wait_until(lambda: stage.queue.info().counters["deleted"] == 400)
    calls = [tasks.stuck.call(), *(tasks.one.call() for _ in range(40))]
    handles = stage._app.send(calls)[1:]
    wait_until(stage.lines)
    began = time.monotonic()
    for handle in handles:
        handle.result(timeout=10)
    assert time.monotonic() - began < 3.5


# --- outages


def test_an_outage_ends_no_process_and_repeats_no_task(outage):
    """The server stands still for longer than a task's hard limit, and then is killed: what had ended stays ended."""
    tasks = outage.tasks(
        """
        @app.task(time_limit=2)
        def work(): note('start', os.getpid()); time.sleep(0.5); note('end'); return os.getpid()
        """
    )
    worker = outage.worker("-p", 1)
    (pid,) = children(worker.pid)
    handle = tasks.work.delay()
    wait_until(outage.lines)
    outage.freeze_server()
    wait_until(lambda: "end" in outage.lines())
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > 3)
    outage.kill_server()
    outage.start_server()
    assert handle.result(timeout=10) == pid
    assert len(outage.lines()) == 2
    again = tasks.work.delay()
    back = time.monotonic()
    assert again.result(timeout=10) == pid
    assert time.monotonic() - back < 3
    assert children(worker.pid) == [pid]


def test_a_server_killed_under_load_loses_nothing_and_is_mentioned_once(outage):
    """SIGKILL to the server while tasks run, a restart a little later: all run, and the log is short."""
    tasks = outage.tasks(
        """
        @app.task
        def one(i): time.sleep(0.002); note(i)
        """
    )
    worker = outage.worker("-p", 2, "-t", 4)
    tasks.one.delay_many(tasks.one.call(i) for i in range(1500))
    wait_until(lambda: len(outage.lines()) > 300, 20)
    outage.kill_server()
    wait_until(lambda: "does not answer" in outage.output(), 20)
    outage.start_server()
    wait_until(lambda: outage.queue.info().counters["deleted"] >= 1500, 30)
    assert outage.counts().keys() == {str(i) for i in range(1500)}
    assert max(outage.counts().values()) == 1, "finished work was not told twice, nor done twice"
    info = outage.queue.info()
    assert (info.ready, info.leased, info.dead) == (0, 0, 0)
    assert len(outage.output().splitlines()) < 20
    assert worker.poll() is None


def test_a_frozen_server_does_not_delay_limits_and_signals(outage):
    """The server accepts and says nothing: a hard limit still ends its process, and a second signal the worker."""
    tasks = outage.tasks(
        """
        @app.task(time_limit=1)
        def stuck(): note('start', os.getpid()); ctypes.PyDLL(None).usleep(60_000_000)
        @app.task
        def long(): note('start', os.getpid()); time.sleep(60)
        """,
        visibility_timeout=1,
    )
    worker = outage.worker("-p", 2, "-t", 1)
    tasks.stuck.delay()
    tasks.long.delay()
    wait_until(lambda: len(outage.lines()) == 2)
    began = time.monotonic()
    outage.freeze_server()
    wait_until(lambda: "ending process" in outage.output() or "ending child" in outage.output(), 20)
    assert time.monotonic() - began < 5
    worker.send_signal(signal.SIGTERM)
    worker.send_signal(signal.SIGINT)
    asked = time.monotonic()
    worker.wait(20)
    assert time.monotonic() - asked < 8


# --- suspects, queues, burst


def test_a_killer_in_the_first_of_two_queues_is_found(stage):
    """Suspects of one queue are not forgotten because the other has none."""
    tasks = stage.tasks(
        f"""
        @app.task(stop=stop_after_attempt(2))
        def killer(): note('killer'); os.kill(os.getpid(), signal.SIGKILL)
        @app.task(queue={stage.name!r} + '-other')
        def elsewhere(): pass
        """
    )
    try:
        stage.worker("-p", 1)
        with pytest.raises(WorkerLost):
            tasks.killer.delay().result(timeout=15)
    finally:
        stage.manager.delete_queue(f"{stage.name}-other")


def test_coroutines_that_are_suspects_run_one_at_a_time_too(stage):
    """Who ran beside a killer of the loop pays one attempt, not all of them."""
    tasks = stage.tasks(
        """
        @app.task(stop=stop_after_attempt(3))
        async def killer(): note('killer'); await asyncio.sleep(0.3); os.kill(os.getpid(), signal.SIGKILL)
        @app.task
        async def innocent(): note('innocent'); await asyncio.sleep(1); return current_message().attempt
        """
    )
    stage.worker("-p", 1)
    innocents = [tasks.innocent.delay() for _ in range(3)]
    wait_until(lambda: stage.counts()["innocent"] == 3)
    killer = tasks.killer.delay()
    assert {innocent.result(timeout=40) for innocent in innocents} == {2}
    with pytest.raises(WorkerLost):
        killer.result(timeout=40)
    assert stage.counts() == {"killer": 3, "innocent": 6}


def test_a_burst_leaves_paused_queues_and_deleted_ones(stage):
    """--burst ends though one of its queues is paused and another is deleted meanwhile."""
    tasks = stage.tasks(
        f"""
        @app.task
        def one(): note('one'); time.sleep(1)
        @app.task(queue={stage.name!r} + '-paused')
        def held(): note('held')
        @app.task(queue={stage.name!r} + '-gone')
        def gone(): pass
        """
    )
    paused = stage.manager.get_queue(f"{stage.name}-paused")
    stage.manager.get_queue(f"{stage.name}-gone")
    try:
        paused.pause()
        tasks.held.delay()
        tasks.one.delay()
        worker = stage.worker("--burst", "-p", 1, wait=False)
        wait_until(stage.lines, 20)
        stage.manager.delete_queue(f"{stage.name}-gone")
        assert worker.wait(15) == 0
        assert stage.lines() == ["one"]
        assert paused.info().ready == 1
    finally:
        stage.manager.delete_queue(paused.name)


def test_a_lease_is_kept_though_the_queue_s_timeout_was_shortened(stage):
    """A worker reckons with the timeout it began with; processes that it starts later with the new one."""
    tasks = stage.tasks(
        """
        @app.task
        def slow(): note('start', os.getpid()); time.sleep(3); return current_message().attempt
        """,
        visibility_timeout=30,
    )
    worker = stage.worker("-p", 1)
    stage.queue.configure(visibility_timeout=1)
    assert tasks.slow.delay().result(timeout=10) == 1
    (old,) = children(worker.pid)
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: children(worker.pid) not in ([], [old]))
    assert tasks.slow.delay().result(timeout=10) == 1
    assert len(stage.lines()) == 2


def test_a_thousand_unknown_messages_are_not_a_thousand_lines(stage):
    """What cannot be run here is said once in a while, with the reason."""
    tasks = stage.tasks("@app.task\ndef known(): return 1")
    stage.worker("-p", 1)
    from psmq import NewMessage, draw_randoms
    from psmq_tasks.payload import Keyring, dump_call, seal_call

    body, _ = dump_call(None, (), {})
    drawn = draw_randoms(300)
    for random in drawn:
        data = seal_call(
            Keyring([stage.secret.encode()]),
            namespace="psmq",
            queue=stage.name,
            random=random,
            task="nobody:knows",
            codec="pickle",
            by_value=False,
            headers={},
            body=body,
        )
        stage.queue.push_many([NewMessage(data, random=random)])
    wait_until(lambda: stage.queue.info().counters["uncounted"] >= 300)
    assert tasks.known.delay().result(timeout=5) == 1
    assert 1 <= stage.output().count("cannot be run here") <= 3
    assert "nobody:knows" in stage.output()


# --- what an idle worker costs


def test_an_idle_worker_costs_next_to_nothing(stage):
    """Fewer than two commands a second for each process, and some 0.3 % of a CPU; thrice that on a busy machine."""
    stage.tasks("@app.task\ndef one(): pass")
    worker = stage.worker("-p", 2)
    wait_until(lambda: len(children(worker.pid)) == 2)
    wait_until(lambda: stage.queue.info().consumers >= 2)  # of the slots of each, one waits
    url = stage.manager.settings()["url"]
    with redis.Redis.from_url(url) as client:

        def commands() -> int:
            # What clients send; the statistics count what functions do on the server, too.
            sent = {"cmdstat_fcall", "cmdstat_fcall_ro", "cmdstat_blpop"}
            return sum(entry["calls"] for name, entry in client.info("commandstats").items() if name in sent)

        family = [worker.pid, *children(worker.pid)]
        began, before, used = time.monotonic(), commands(), [_cpu_seconds(pid) for pid in family]
        wait_until(lambda: time.monotonic() - began > 4)
        passed = time.monotonic() - began
        assert (commands() - before) / passed / 2 < 2
        for pid, seconds in zip(family, used, strict=True):
            assert (_cpu_seconds(pid) - seconds) / passed < 0.015


def _cpu_seconds(pid: int) -> float:
    total = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
            total += int(re.match(r"\d+", file.read())[0])
    return total / 1e9
