"""Processes that are killed, stopped and replaced under load: nothing is lost, nothing is made up."""

from __future__ import annotations

import re
import signal
import time

import pytest
from support import ROOT, wait_until

from psmq_tasks.torture import percentile
from psmq_tasks.torture.jobs import KILLER_ATTEMPTS

#: named points of a child: where its process dies the first time it comes by, and once more a little later
IN_CHILDREN = (
    "slot.asking",
    "slot.got",
    "slot.held",
    "slot.started",
    "slot.ended",
    "slot.marked",
    "slot.ahead",
    "slot.waiting",
    "teller.told",
    "settler.telling",
    "settler.told",
    "loop.handed",
    "loop.ended",
)
IN_SUPERVISORS = ("supervisor.forked", "supervisor.estate", "supervisor.paid", "supervisor.extended")


def test_every_named_point_is_one_where_a_test_kills():
    """A new one needs its kill."""
    sources = [path.read_text() for room in ("psmq", "psmq_tasks") for path in (ROOT / room).rglob("*.py")]
    named = {name for source in sources for name in re.findall(r'passing\("([a-z.]+)"\)', source)}
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 15
    assert {name for name in named if not re.search(rf'"{re.escape(name)}[:"]', tests)} == set()


def test_without_faults_each_job_runs_once(arena):
    """Nothing lost, nothing twice, no two runs at a time; the books add up."""
    arena.worker()
    arena.push(1500)
    arena.push(100, task="coroutine")
    arena.push(50, task="flaky")
    arena.drain()
    found = arena.verdict()
    assert found.holds
    assert (found.pushed, found.done, found.twice, found.overlapping, found.dead) == (1650, 1650, 0, 0, 0)


@pytest.mark.parametrize("point", IN_CHILDREN)
def test_a_child_killed_at_a_named_point_loses_nothing(arena, point):
    """It dies right there; every job is done, and the books add up."""
    token = arena.folder / "token"
    token.touch()
    seldom = point.startswith(("settler", "slot.waiting", "slot.ahead"))
    arena.worker("-p", 2, "-t", 2, kill_at=f"{point}:{2 if seldom else 20}:{token}")
    task = "coroutine" if point.startswith(("loop", "settler")) else "job"
    arena.push(300, 0.001, task=task)
    wait_until(lambda: not token.exists(), 20)
    arena.push(50, 0.001, task=task)
    arena.drain(30)
    found = arena.verdict()
    assert found.holds
    assert (found.done, found.dead) == (350, 0)


@pytest.mark.parametrize("point", IN_SUPERVISORS)
def test_a_supervisor_killed_at_a_named_point_loses_nothing(arena, point):
    """With it go its children; another worker has everything back when the leases end."""
    times = 4 if point == "supervisor.forked" else 1
    first = arena.worker("-p", 2, "-t", 2, kill_at=f"{point}:{times}")
    arena.push(300, 0.02)
    if point != "supervisor.extended":
        first.kill_a_child(arena.dice)
        if point == "supervisor.forked":
            wait_until(lambda: len(first.children()) == 2 or not first.alive)
            first.kill_a_child(arena.dice)
    wait_until(lambda: not first.alive, 20)
    arena.worker("-p", 2, "-t", 4)
    arena.drain(30)
    found = arena.verdict()
    assert found.holds
    assert (found.done, found.dead) == (300, 0)


def test_a_supervisor_killed_while_it_revokes_loses_nothing(arena):
    """It has told a slot not to start what is behind a long job, and dies before it has given that to others."""
    arena.push(2000)
    first = arena.worker("-p", 2, "-t", 2, kill_at="supervisor.revoked:3")
    for _ in range(10):
        arena.push(150)
        arena.push(2, 0.3)
    wait_until(lambda: not first.alive, 20)
    arena.worker("-p", 2, "-t", 4)
    arena.drain(30)
    found = arena.verdict()
    assert found.holds
    assert (found.done, found.dead) == (3520, 0)


def test_a_supervisor_killed_while_it_ends_a_stuck_process_loses_nothing(arena):
    """It has seen that a job passed its hard limit, and dies before the process does: the process dies with it, and
    what ran there, the stuck one and its neighbours, starts again elsewhere."""
    first = arena.worker("-p", 2, "-t", 2, kill_at="supervisor.limit:1")
    arena.push(1, task="stuck")
    arena.push(60, 0.1)
    wait_until(lambda: not first.alive, 20)
    arena.worker("-p", 2, "-t", 4)
    arena.drain(30)
    found = arena.verdict()
    assert found.holds
    assert (found.done, found.dead) == (61, 0)
    starts = [
        record.attempt for record in arena.history.read() if record.key.startswith("stuck") and record.kind == "start"
    ]
    assert starts == [1, 2]


def test_children_killed_again_and_again_lose_nothing(arena):
    """Twenty SIGKILLs at random moments: what they interrupted starts again soon, at most once in parallel."""
    worker = arena.worker("-p", 2, "-t", 4)
    feeding = arena.feed(6.0, 150, 0.02)
    kills = 0
    while feeding.is_alive():
        time.sleep(arena.dice.uniform(0.1, 0.5))
        kills += worker.kill_a_child(arena.dice)
    arena.drain(40)
    found = arena.verdict()
    assert kills > 8
    assert found.holds
    assert (found.done, found.overlapping) == (found.pushed, 0)


def test_supervisors_killed_again_and_again_lose_nothing(arena):
    """What died with a whole worker runs again when its leases end: within the timeout + 1 s and the time to start."""
    kills = 0
    arena.keep_workers(count=2)
    feeding = arena.feed(5.0, 100, 0.02)
    while feeding.is_alive():
        time.sleep(0.8)
        arena.keep_workers(count=2)[0].kill()
        kills += 1
    arena.keep_workers(count=2)
    arena.drain(40)
    found = arena.verdict()
    assert kills >= 3
    assert found.holds
    assert (found.done, found.overlapping) == (found.pushed, 0)


def test_stopped_workers_cannot_settle_what_has_passed_on(arena):
    """SIGSTOP for longer than the leases, SIGCONT: the others had the jobs, and late words change nothing."""
    arena.keep_workers(count=2)
    feeding = arena.feed(6.0, 60, 0.1)
    while feeding.is_alive():
        stopped = arena.dice.choice(arena.workers)
        stopped.signal_all(signal.SIGSTOP)
        time.sleep(2.6)
        stopped.signal_all(signal.SIGCONT)
        time.sleep(0.3)
    arena.drain(40)
    found = arena.verdict()
    assert found.holds
    assert found.done == found.pushed
    assert arena.queue.info().counters["deleted"] == found.pushed


def test_a_rolling_restart_loses_and_repeats_nothing(arena):
    """TERM to one worker after the other under load: what was not started goes back, what runs ends; each job once."""
    arena.keep_workers("-p", 1, "-t", 4, count=2)
    feeding = arena.feed(6.0, 150, 0.03)
    restarts = 0
    while feeding.is_alive():
        oldest = next(worker for worker in arena.workers if worker.alive)
        arena.worker("-p", 1, "-t", 4)
        assert oldest.end() == 0
        restarts += 1
    arena.drain(40)
    found = arena.verdict()
    assert restarts >= 3
    assert found.holds
    assert (found.done, found.twice, found.overlapping) == (found.pushed, 0, 0)


def test_the_dead_are_exactly_the_killers(arena):
    """One job in ten kills its process: it starts three times; the others finish, for one count each at most."""
    arena.worker("-p", 2, "-t", 4)
    for _ in range(5):
        arena.push(1, task="killer")
        arena.push(19, 0.01)
    arena.drain(60)
    found = arena.verdict()
    assert found.holds
    assert (found.dead, found.done) == (5, 95)
    starts = [record for record in arena.history.read() if record.kind == "start"]
    killers = [record.key for record in starts if record.key.startswith("killer")]
    assert len(killers) == 5 * KILLER_ATTEMPTS
    assert max(record.attempt for record in starts) <= KILLER_ATTEMPTS


def test_a_killed_server_s_work_resumes(arena):
    """SIGKILL to the server under load, three times: what was acknowledged is there, and work goes on within 2 s."""
    arena.worker("-p", 2, "-t", 4)
    feeding = arena.feed(6.0, 150, 0.005)
    resumed = []
    for _ in range(3):
        time.sleep(1.2)
        arena.kill_server()
        time.sleep(0.3)
        arena.start_server()
        back = time.monotonic()
        wait_until(lambda back=back: any(r.kind == "start" and r.time > back for r in arena.history.read()[-500:]))
        starts = [r.time for r in arena.history.read() if r.kind == "start" and r.time > back]
        resumed.append(min(starts) - back)
    feeding.join()
    arena.drain(40)
    found = arena.verdict()
    print("resumed after", resumed)
    assert found.holds
    assert found.done == found.pushed
    assert percentile(resumed, 100) < 2.5
