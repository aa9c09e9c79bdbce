"""Calls that died in one queue run in another, by the workers of that one."""

from __future__ import annotations

from support import wait_until

from psmq_tasks.inspection import Calls, Filter, Inspector


def test_calls_of_a_dead_queue_run_in_another(stage):
    """Each once, whatever is carried by value or by name; their results are asked of the other queue."""
    module = stage.tasks("""
        from pathlib import Path

        @app.task(stop=stop_after_attempt(1))
        def order(item):
            if not Path(FLAG).exists():
                raise KeyError(item)
            note("done", item)
            return item * 2
    """.replace("FLAG", repr(str(stage.folder / "flag"))))  # fmt: skip
    other = stage.manager.get_queue(f"{stage.name}-other")
    try:
        handles = [module.order.delay(item) for item in range(20)]
        stage.worker("-p", 1)
        wait_until(lambda: stage.queue.info().dead == 20, 20)
        (stage.folder / "flag").touch()
        calls = Calls(module.app.keyring, module.app.namespace)
        mended = Inspector(stage.manager).redrive_all(Filter(error="KeyError"), to=other.name, calls=calls)
        assert (mended.done, mended.stayed) == (20, {})
        stage.worker("-p", 1, "-q", other.name)
        wait_until(lambda: len(stage.lines()) == 20, 20)
        assert sorted(stage.counts().values()) == [1] * 20
        wait_until(lambda: other.info().leased + other.info().ready == 0)
        assert all(other.result(handle.id, wait=5) for handle in handles)
        assert (other.info().dead, stage.queue.info().dead) == (0, 0)
    finally:
        stage.kill_everything()
        stage.manager.delete_queue(other.name)
