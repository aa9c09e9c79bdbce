"""A slot asks for its next batch while it works, and for one message while it waits: what it was given and has not read
is nobody's loss."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from support import wait_until

TASKS = """
@app.task
def quick(name):
    note(name, current_message().attempt)

@app.task
def nap(name, seconds):
    note(name, current_message().attempt)
    time.sleep(seconds)

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
    """Others run it a moment later, none of it twice; and the slot goes on when it is through."""
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
        wait_until(lambda: sum(line.startswith(f"c{number}-") for line in stage.lines()) == 3)  # noqa: B023
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


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no question lies behind a wait")
def test_a_worker_that_is_frozen_as_a_whole_keeps_what_it_was_given_for_seconds_only(stage):
    """Nobody is left there who could hand it back: such a message is leased for five seconds, whatever its queue says."""
    tasks = stage.tasks(TASKS, visibility_timeout=600)
    frozen = stage.worker("-p", 1)
    wait_until(lambda: stage.queue_info().consumers > 0)
    stage.worker("-p", 1)
    child = child_of(frozen)
    for pid in (frozen.pid, child):
        os.kill(pid, signal.SIGSTOP)
    tasks.quick.delay_many(tasks.quick.call(f"e{number}") for number in range(3))
    try:
        wait_until(lambda: len(stage.lines()) == 3, 12)
    finally:
        for pid in (child, frozen.pid):
            os.kill(pid, signal.SIGCONT)
    wait_until(lambda: stage.queue_info().leased == 0)
    assert {line.split()[0] for line in stage.lines()} == {"e0", "e1", "e2"}
    assert len(stage.lines()) == 3


def test_what_was_given_behind_a_wait_runs_for_longer_than_its_first_lease(stage):
    """Its supervisor extends that in time: nobody else gets it."""
    tasks = stage.tasks(TASKS, visibility_timeout=600)
    stage.worker("-p", 1)
    wait_until(lambda: stage.queue_info().consumers > 0)
    time.sleep(0.2)  # it waits
    tasks.deaf.delay(6.5)
    wait_until(lambda: "deaf 1" in stage.lines())
    stage.worker("-p", 1)
    wait_until(lambda: "deaf over" in stage.lines())
    wait_until(lambda: stage.queue_info().leased == 0)
    assert stage.lines() == ["deaf 1", "deaf over"]


#: as psmq-worker, but between an answer with a deaf task and its note in the table there is time for another slot
SLOW_TO_NOTE = """
import sys, time
from psmq_tasks import asking, cli
read = asking.Asker._read
def slowly(self, number, served, messages):
    if any("deaf" in str(message.metadata) for message in messages):
        time.sleep(0.1)
    return read(self, number, served, messages)
asking.Asker._read = slowly
sys.exit(cli.worker())
"""


@pytest.mark.parametrize("before", [12, 13])
def test_who_waits_while_another_slot_is_about_to_keep_the_gil_is_seen_by_the_supervisor(stage, before):
    """The table was empty when it began to wait. What it is given then, and cannot read, goes to others."""
    tasks = stage.tasks(TASKS, visibility_timeout=60)
    stage.worker("-p", 1, "-t", 2, run=SLOW_TO_NOTE)
    stage.queue.pause()
    tasks.nap.delay_many(tasks.nap.call("n", 0.02) for _ in range(before))
    tasks.deaf.delay(6.0)
    stage.queue.resume()
    wait_until(lambda: "deaf 1" in stage.lines())
    stage.worker("-p", 1, "-t", 1)
    for number in range(2):
        tasks.quick.delay(f"f{number}")
    wait_until(lambda: {"f0 1", "f1 1"} <= set(stage.lines()), 4)
    assert "deaf over" not in stage.lines()


#: as psmq-worker, but the server stops listening when a slot asks ahead of a batch with a long task
UNHEARD = """
import os, signal, sys
from psmq_tasks import asking, cli, slot
serve, ask_ahead = slot.Slot._serve, asking.Asker.ask_ahead
long = []
def served(self, batch):
    long[:] = [held for held in batch if "long" in str(held.record.metadata)]
    return serve(self, batch)
def unheard(self, *what):
    if long and self._decisions.any and not os.path.exists("frozen"):
        os.kill(int(open("server").read()), signal.SIGSTOP)
        os.mkdir("frozen")
    return ask_ahead(self, *what)
slot.Slot._serve, asking.Asker.ask_ahead = served, unheard
sys.exit(cli.worker())
"""


def test_what_was_decided_does_not_wait_for_a_long_task_with_a_question_that_was_lost(outage):
    """The server dies before it has read that; the slot works on and notices nothing. The settler tells it once more."""
    tasks = outage.tasks(TASKS)
    (outage.folder / "server").write_text(str(outage.server.pid))
    outage.queue.pause()
    tasks.quick.delay_many(tasks.quick.call(f"a{number}") for number in range(600))
    for number in range(40):
        tasks.long.delay()
        tasks.quick.delay_many(tasks.quick.call(f"b{number}-{which}") for which in range(15))
    outage.worker("-p", 1, "-t", 1, run=UNHEARD)
    outage.queue.resume()
    wait_until((outage.folder / "frozen").exists)
    wait_until(lambda: "long 1" in outage.lines())
    done = sum(line != "long 1" for line in outage.lines())
    outage.kill_server()
    outage.start_server()
    wait_until(lambda: outage.queue_info().counters["deleted"] == done, 6)
    (outage.folder / "enough").touch()
    wait_until(lambda: outage.queue_info().counters["deleted"] == 1240, 20)
    assert max(number for line, number in outage.counts().items() if line != "long 1") == 1
    assert "had passed on" not in outage.output()


def test_what_is_behind_many_short_ones_goes_to_others_too(stage):
    """None of them takes long, all together do: what was asked for when they were quick is not kept for that time, or
    the leases of what nobody has read would end."""
    tasks = stage.tasks(TASKS, visibility_timeout=1)
    tasks.quick.delay_many(tasks.quick.call(f"a{number}") for number in range(1500))
    tasks.nap.delay_many(tasks.nap.call(f"n{number}", 0.03) for number in range(200))
    for _ in range(2):
        stage.worker("-p", 1, "-t", 1)
    wait_until(lambda: (found := stage.queue_info()).leased + found.ready == 0, 15)
    assert set(stage.counts().values()) == {1}
    assert {line.split()[1] for line in stage.lines()} == {"1"}, "no lease has ended"


def test_what_goes_back_does_not_go_back_again_and_again(stage):
    """A slot that found its batch too large asks for less: the returns that do not count are not used up, and nothing
    is buried that was never run."""
    tasks = stage.tasks(TASKS, visibility_timeout=60)
    tasks.quick.delay_many(tasks.quick.call(f"a{number}") for number in range(1500))
    tasks.nap.delay_many(tasks.nap.call(f"n{number}", 0.2) for number in range(60))
    stage.worker("-p", 1, "-t", 1)
    wait_until(lambda: sum(line.startswith("n") for line in stage.lines()) >= 30, 15)
    info = stage.queue_info()
    assert info.dead == 0
    assert info.counters["uncounted"] <= 400  # a few batches
    assert {line.split()[1] for line in stage.lines()} == {"1"}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a stopped process is not seen")
def test_a_process_stopped_at_any_moment_keeps_only_what_it_has_begun(stage):
    """Also of the answer that it was about to wait for, or to read."""
    tasks = stage.tasks(TASKS, visibility_timeout=60)
    for _ in range(2):
        stage.worker("-p", 1, "-t", 1)
    children = [child_of(worker) for worker in stage.workers]
    for number in range(4):
        begun = number * 5000
        stopped = children[number % 2]
        stop = threading.Timer(0.12 + 0.03 * number, os.kill, (stopped, signal.SIGSTOP))
        stop.start()
        tasks.quick.delay_many(tasks.quick.call(f"e{number}-{which}") for which in range(5000))
        stop.join()
        wait_until(lambda: len(stage.lines()) >= begun + 4999, 5)  # noqa: B023  # one may have started just then
        os.kill(stopped, signal.SIGCONT)
        wait_until(lambda: (found := stage.queue_info()).leased + found.ready == 0)
    assert set(stage.counts().values()) == {1}
    assert {line.split()[1] for line in stage.lines()} == {"1"}
