"""A slot asks for its next batch while it works, and for one message while it waits: what it was given and has not read
is nobody's loss."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from support import wait_until

TASKS = """
@app.task
def quick(name):
    note(name, current_message().attempt)

@app.task
def long():
    note('long', current_message().attempt)
    while not os.path.exists('enough'):
        time.sleep(0.01)

@app.task
def deaf(seconds):
    note('deaf', current_message().attempt)
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))  # and keeps the GIL: no other thread of its process runs
    note('deaf', 'over')
"""
#: as psmq-worker, but what is held is taken back later
PATIENT = """
import sys
from psmq_tasks import cli, leases
leases._LONG = leases._BEHIND_LONG = 1.5
sys.exit(cli.worker())
"""


def sends(tasks, first, *rest):
    """A few hundred quick ones, then another, then as many again: batches are full when it comes."""
    tasks.quick.delay_many(tasks.quick.call(f"a{number}") for number in range(600))
    first.delay(*rest)
    tasks.quick.delay_many(tasks.quick.call(f"b{number}") for number in range(600))


def expected():
    """Each once, at its first attempt: to be given and not read does not count."""
    return {f"{letter}{number} 1" for letter in "ab" for number in range(600)}


def test_what_a_slot_has_not_read_is_given_to_others_while_it_works_for_long(stage):
    """Others run it a moment later, none of it twice; and the slot goes on under another name when it is through."""
    tasks = stage.tasks(TASKS)
    sends(tasks, tasks.long)
    stage.worker("-p", 1, "-t", 1, run=PATIENT)
    wait_until(lambda: "long 1" in stage.lines())
    wait_until(lambda: stage.queue_info().leased > 100)  # more than one batch: the next one, too
    second = stage.worker("-p", 1, "-t", 1)
    wait_until(lambda: expected() <= set(stage.lines()))
    wait_until(lambda: stage.queue_info().leased == 1)
    (stage.folder / "enough").touch()
    wait_until(lambda: stage.queue_info().leased == 0)
    assert set(stage.counts().values()) == {1}
    second.terminate()
    assert second.wait(20) == 0
    tasks.quick.delay("after")
    wait_until(lambda: "after 1" in stage.lines())
    assert stage.queue_info().counters["deleted"] == 1202


def test_that_needs_nothing_of_the_process(stage):
    """The task keeps the GIL: the supervisor sees what its child cannot say."""
    tasks = stage.tasks(TASKS, visibility_timeout=60)
    sends(tasks, tasks.deaf, 4.0)
    stage.worker("-p", 1, "-t", 1)
    wait_until(lambda: "deaf 1" in stage.lines())
    stage.worker("-p", 1, "-t", 1)
    wait_until(lambda: expected() <= set(stage.lines()))
    assert "deaf over" not in stage.lines()
    wait_until(lambda: "deaf over" in stage.lines())
    wait_until(lambda: (found := stage.queue_info()).leased + found.ready == 0)
    assert set(stage.counts().values()) == {1}


def test_a_worker_that_stops_leaves_nothing_unread(stage):
    """It lets its task end, and what it had asked for is ready for others at once."""
    tasks = stage.tasks(TASKS, visibility_timeout=60)
    sends(tasks, tasks.long)
    worker = stage.worker("-p", 1, "-t", 1, run=PATIENT)
    wait_until(lambda: "long 1" in stage.lines())
    wait_until(lambda: stage.queue_info().leased > 100)
    worker.terminate()
    wait_until(lambda: stage.queue_info().leased == 1, 1.0)
    (stage.folder / "enough").touch()
    assert worker.wait(20) == 0
    assert stage.queue_info().leased == 0
    stage.worker("-p", 1, "-t", 1)
    wait_until(lambda: (found := stage.queue_info()).leased + found.ready == 0)
    assert stage.counts() == dict.fromkeys({*expected(), "long 1"}, 1)


def test_of_several_queues_only_the_first_is_asked_ahead(stage):
    """What is asked ahead of a less urgent one would pass by what is urgent."""
    tasks = stage.tasks(TASKS)
    sends(tasks, tasks.long)
    urgent = f"{stage.name}-urgent"
    stage.manager.get_queue(urgent)
    try:
        stage.worker("-p", 1, "-t", 1, "--queue", f"{urgent},{stage.name}", run=PATIENT)
        wait_until(lambda: "long 1" in stage.lines())
        assert 0 < stage.queue_info().leased <= 100  # what is in hand
        (stage.folder / "enough").touch()
        wait_until(lambda: expected() <= set(stage.lines()))
    finally:
        stage.workers[0].terminate()
        stage.workers[0].wait(20)
        stage.manager.delete_queue(urgent)


def child_of(worker):
    """The process that runs its tasks."""
    return int(Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()[0])


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere a stopped process is not seen, and waits for a token only"
)
def test_what_a_stopped_process_was_given_while_it_waited_goes_to_others(stage):
    """The question for one message lies behind its wait, so it is answered: the supervisor sees that nobody reads."""
    tasks = stage.tasks(TASKS, visibility_timeout=60)
    stage.worker("-p", 1)
    stage.worker("-p", 1)
    children = [child_of(worker) for worker in stage.workers]
    for number in range(10):
        stopped = children[number % 2]
        time.sleep(0.1 * (number % 3))
        os.kill(stopped, signal.SIGSTOP)
        tasks.quick.delay_many(tasks.quick.call(f"c{number}-{which}") for which in range(3))
        wait_until(lambda: sum(line.startswith(f"c{number}-") for line in stage.lines()) == 3, 5)  # noqa: B023
        os.kill(stopped, signal.SIGCONT)
    wait_until(lambda: stage.queue_info().leased == 0)
    assert set(stage.counts().values()) == {1}
    assert {line.split()[1] for line in stage.lines()} == {"1"}, "to be given and not read does not count"
    assert [child_of(worker) for worker in stage.workers] == children


def test_an_idle_worker_that_stops_gives_back_what_came_in_that_moment(stage):
    """Stopped while the answer is on its way: whoever comes next has it at once."""
    tasks = stage.tasks(TASKS, visibility_timeout=60)
    for number in range(5):
        worker = stage.worker("-p", 2)
        worker.terminate()
        tasks.quick.delay_many(tasks.quick.call(f"d{number}-{which}") for which in range(3))
        assert worker.wait(20) == 0
        assert stage.queue_info().leased == 0
    stage.worker("-p", 1)
    wait_until(lambda: len(stage.lines()) == 15)
    assert set(stage.counts().values()) == {1}
