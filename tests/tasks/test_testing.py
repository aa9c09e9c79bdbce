"""The testing kit: real queues and payloads, no processes, and time that moves by freezegun."""

from __future__ import annotations

import uuid

import pytest
from freezegun import freeze_time
from tenacity import stop_after_attempt, stop_after_delay, wait_fixed

from psmq import Bury, Release
from psmq_tasks import TaskApp, TaskExpired, current_message
from psmq_tasks.outcome import Raised, Returned
from psmq_tasks.testing import run_pending


@pytest.fixture
def app():
    app = TaskApp(f"t{uuid.uuid4().hex[:12]}", url="memory:")
    app.manager.get_queue(app.name, clock="test")
    yield app
    app.manager.delete_queue(app.name)
    app.close()


def test_what_was_sent_runs_when_the_test_says_so(app):
    """Calls run here, in order, with what they send in turn; their results can be had."""

    @app.task
    def double(n):
        return 2 * n

    handles = [double.delay(n) for n in range(3)]
    assert run_pending(app) == [Returned(0), Returned(2), Returned(4)]
    assert [handle.result(timeout=1) for handle in handles] == [0, 2, 4]


def test_retries_wait_by_the_clock(app):
    """A retry's delay passes when freezegun moves, and not before; the last failure makes a dead letter."""
    with freeze_time("2030-01-01") as now:

        @app.task(stop=stop_after_attempt(3), wait=wait_fixed(60))
        def failing():
            raise ValueError(current_message().attempt)

        handle = failing.delay()
        assert len(run_pending(app)) == 1
        now.tick(59)
        assert run_pending(app) == []
        now.tick(1)
        assert len(run_pending(app)) == 1
        now.tick(60)
        (last,) = run_pending(app)
        assert isinstance(last, Raised)
        assert last.error.args == (3,)
        assert app.queue(app.name).info().dead == 1
        with pytest.raises(ValueError, match="3"):
            handle.result(timeout=1)


def test_a_policy_that_counts_time_counts_from_the_first_attempt(app):
    """stop_after_delay sees the time since the first delivery, whichever process asks."""
    with freeze_time("2030-01-01") as now:

        @app.task(stop=stop_after_delay(100), wait=wait_fixed(50))
        def failing():
            raise OSError

        failing.delay()
        run_pending(app)
        for _ in range(2):
            now.tick(50)
            run_pending(app)
        assert app.queue(app.name).info().dead == 1


def test_delay_and_ttl_move_by_the_clock(app):
    """A delayed call runs when it is due; one that outlives its ttl is dropped, and its waiter told."""
    with freeze_time("2030-01-01") as now:

        @app.task
        def one(word):
            return word

        late = one.using(delay=600).delay("late")
        gone = one.using(ttl=10, delay=5).delay("gone")
        now.tick(300)
        assert run_pending(app) == []
        with pytest.raises(TaskExpired):
            gone.result(timeout=1)
        now.tick(300)
        assert run_pending(app) == [Returned("late")]
        assert late.result(timeout=1) == "late"


def test_what_nobody_can_read_is_buried_after_a_day(app):
    """An unknown task goes back uncounted after 1, 2, 4 … 60 s, and is buried 24 h after the first time."""
    with freeze_time("2030-01-01") as now:

        @app.task(name="elsewhere:task")
        def unknown():
            pass

        unknown.function.__module__ = "json"  # importable elsewhere: it travels by name
        app._tasks.clear()
        from psmq_tasks.payload import seal_call

        body = b""
        from psmq import NewMessage, draw_randoms

        random = draw_randoms(1)[0]
        data = seal_call(
            app.keyring,
            namespace="psmq",
            queue=app.name,
            random=random,
            task="elsewhere:task",
            codec="pickle",
            by_value=False,
            headers={},
            body=body,
        )
        queue = app.queue(app.name)
        queue.push_many([NewMessage(data, random=random)])
        (first,) = run_pending(app)
        assert isinstance(first, Release)
        assert 0.8 < first.delay < 1.2
        for _ in range(30):
            now.tick(70)
            (back,) = run_pending(app)
        assert 50 < back.delay < 70
        assert queue.info().dead == 0
        now.tick(24 * 3600)
        (last,) = run_pending(app)
        assert isinstance(last, Bury)
        (letter,) = queue.dead_letters()
        assert "elsewhere:task" in letter.reason
