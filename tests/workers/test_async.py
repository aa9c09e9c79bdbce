"""Coroutines: one event loop in each child, many at a time, settled like the others."""

from __future__ import annotations

import time

from support import wait_until


def test_coroutines_run_side_by_side_in_one_child(stage):
    """A hundred naps of 0.3 s in one process with one slot take less than two seconds."""
    tasks = stage.tasks(
        """
        @app.task
        async def nap(i): await asyncio.sleep(0.3); note(i, current_message().attempt); return i
        """
    )
    stage.worker("-p", 1, "-t", 1)
    began = time.monotonic()
    handles = tasks.nap.delay_many(tasks.nap.call(i) for i in range(100))
    assert [handle.result(timeout=10) for handle in handles] == list(range(100))
    assert time.monotonic() - began < 5
    assert stage.counts() == {f"{i} 1": 1 for i in range(100)}


def test_more_coroutines_than_fit_wait_their_turn(stage):
    """async-concurrency bounds them; nothing is lost or run twice."""
    tasks = stage.tasks(
        """
        running = most = 0
        @app.task(result_ttl=0)
        async def nap(i):
            global running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.02)
            running -= 1
            note(i)
        @app.task
        async def peak(): return most
        """
    )
    stage.worker("-p", 1, "-t", 2, "--async-concurrency", 10)
    tasks.nap.delay_many(tasks.nap.call(i) for i in range(200))
    wait_until(lambda: stage.queue.info().counters["deleted"] == 200, 20)
    assert stage.counts() == {str(i): 1 for i in range(200)}
    assert 2 <= tasks.peak.delay().result(timeout=5) <= 10


def test_sync_and_async_tasks_share_a_worker_and_several_queues(stage):
    """A worker of two queues takes from both; the one named first goes first."""
    tasks = stage.tasks(
        f"""
        other = {stage.name!r} + '-other'
        @app.task
        def plain(i): note('plain', i); return i
        @app.task(queue=other)
        async def elsewhere(i): note('elsewhere', i); return i
        """
    )
    try:
        stage.worker("-p", 1)
        for i in range(20):
            assert tasks.plain.delay(i).result(timeout=10) == i
            assert tasks.elsewhere.delay(i).result(timeout=10) == i
        began = time.monotonic()
        for i in range(20, 30):
            assert tasks.elsewhere.delay(i).result(timeout=10) == i
        assert time.monotonic() - began < 5, "an idle worker of two queues is woken, it does not poll"
    finally:
        stage.manager.delete_queue(f"{stage.name}-other")
