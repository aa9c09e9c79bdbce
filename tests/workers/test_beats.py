"""What workers say of themselves."""

from __future__ import annotations

import signal

from support import wait_until

from psmq_tasks.inspection import Inspector


def test_a_worker_says_who_it_is_and_what_it_runs(stage):
    """Within a beat; its note goes with it."""
    module = stage.tasks(
        """
        @app.task
        def quick(): pass

        @app.task
        def bad(): raise Reject("no")

        @app.task
        def long(): time.sleep(60)
        """
    )
    inspector = Inspector(stage.manager)

    def mine():
        return next((one for one in inspector.workers() if stage.name in one.queues), None)

    worker = stage.worker("-p", 2, "-t", 3)
    wait_until(mine)
    for _ in range(5):
        module.quick.delay()
    module.bad.delay()
    handle = module.long.delay()
    found = wait_until(lambda: (one := mine()) and one.running and one.done == 5 and one)
    assert (found.pid, found.processes, found.slots) == (worker.pid, 2, 6)
    assert (found.done, found.failed, found.running) == (5, 1, 1)
    (running,) = found.tasks
    assert (running.id, running.queue, running.attempt) == (handle.id, stage.name, 1)
    assert running.task == handle.task
    assert found.started < running.since <= found.beat
    assert found.memory is None or found.memory > 2**20
    worker.send_signal(signal.SIGQUIT)
    worker.wait(20)
    assert mine() is None


def test_what_a_dead_child_did_still_counts(stage):
    """Its supervisor remembers."""
    module = stage.tasks(
        """
        @app.task
        def quick(): pass

        @app.task
        def die(): os._exit(9)
        """
    )
    stage.worker("-p", 1)
    for _ in range(3):
        module.quick.delay()
    wait_until(lambda: stage.queue_info().counters["deleted"] == 3)
    module.die.delay()
    inspector = Inspector(stage.manager)
    wait_until(lambda: [one.done for one in inspector.workers() if stage.name in one.queues] == [3], 20)
    assert stage.workers[0].poll() is None
