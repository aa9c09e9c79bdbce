"""A task without a limit that never seems to end: its lease is kept for twelve hours, here for a second, and not longer."""

from __future__ import annotations

from support import wait_until

TASKS = """
@app.events.subscribe("lease_lost")
def lost(*, message, **_):
    note('told of', message.attempt)

def watch(attempt, seconds):
    ends = time.monotonic() + seconds
    while time.monotonic() < ends and not current_message().lease_lost:
        time.sleep(0.02)
    note('lost' if current_message().lease_lost else 'kept', attempt)

@app.task(result_ttl=60)
def endless():
    attempt = current_message().attempt
    note('start', attempt)
    if attempt == 1:
        watch(attempt, 15)
        time.sleep(3)  # the lease ends, and the other one has it
    return attempt

@app.task(time_limit=60)
def limited():
    note('start', 'limited')
    watch('limited', 3)
"""
#: as psmq-worker, with another constant
RUN = "import sys; from psmq_tasks import cli, leases; leases.MAX_LEASE = 1.0; sys.exit(cli.worker())"


def test_after_the_longest_lease_others_may_have_it_and_the_log_says_so(stage):
    """Else a task that hangs would never run again. It is told to whoever asks, and what it says later is refused."""
    tasks = stage.tasks(TASKS, visibility_timeout=0.9)
    stage.worker("-p", 1, "-t", 1, run=RUN)
    handle = tasks.endless.delay()
    wait_until(lambda: "start 1" in stage.lines())
    stage.worker("-p", 1, "-t", 1, run=RUN)
    assert handle.result(timeout=20) == 2
    wait_until(lambda: "lost 1" in stage.lines())
    wait_until(lambda: (found := stage.queue_info()).ready + found.leased + found.delayed == 0)
    assert stage.lines() == ["start 1", "lost 1", "start 2"]
    assert stage.output(0).count("runs for more than") == 1
    assert "a time_limit would end it" in stage.output(0)
    stage.workers[0].terminate()
    assert stage.workers[0].wait(20) == 0, "it ends its task and says so"
    assert stage.lines()[3:] == ["told of 1"]
    assert (stage.queue_info().counters["deleted"], stage.queue_info().dead) == (1, 0)
    assert handle.result(timeout=5) == 2, "the late one has changed nothing"


def test_what_has_a_limit_keeps_its_lease_until_that(stage):
    """The limit ends it."""
    tasks = stage.tasks(TASKS, visibility_timeout=0.9)
    stage.worker("-p", 1, "-t", 1, run=RUN)
    stage.worker("-p", 1, "-t", 1, run=RUN)
    tasks.limited.delay().result(timeout=20)
    assert stage.lines() == ["start limited", "kept limited"]
    assert "runs for more than" not in stage.output(0) + stage.output(1)
