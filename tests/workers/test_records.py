"""Failure records as workers write them: who ran it, for how long it held the lease, and which policy decided what."""

from __future__ import annotations

from support import wait_until

from psmq_tasks.history import Failure


def history(stage):
    """The records of the one dead letter."""
    wait_until(lambda: stage.queue_info().dead == 1, 20)
    (letter,) = stage.queue.dead_letters()
    return [Failure.unpack(record) for record in letter.failures]


def test_a_record_says_who_ran_it_and_which_policy_decided(stage):
    """First the task asks for a delay of its own, then the wait decides, then the stop ends it."""
    tasks = stage.tasks("""
        @app.task(stop=stop_after_attempt(3), wait=wait_fixed(0.05))
        def fails():
            if current_message().attempt == 1:
                raise Retry(after=0.01)
            raise ValueError("no")
    """)
    tasks.fails.delay()
    worker = stage.worker("-p", 1, "-t", 1)
    first, second, third = history(stage)
    assert [one.why for one in (first, second, third)] == [
        "Retry(after=0.01); stop_after_attempt(3): 1 of 3",
        "wait_fixed(0.05) → 0.05 s; stop_after_attempt(3): 2 of 3",
        "stop_after_attempt(3): 3 of 3",
    ]
    assert [one.delay for one in (first, second, third)] == [0.01, 0.05, None]
    assert {one.worker for one in (first, second, third)} == {f"{first.host}:{worker.pid}"}
    assert first.pid != worker.pid
    assert first.started <= first.ended <= second.started


def test_a_record_counts_the_lease_extensions_of_its_delivery(stage):
    """Of each delivery for itself; also where the process is killed, and its supervisor writes the record."""
    tasks = stage.tasks(
        """
        @app.task(stop=stop_after_attempt(2), wait=wait_none())
        def long():
            time.sleep(1.5)
            if current_message().attempt == 2:
                os.kill(os.getpid(), 9)
            raise ValueError("no")

        @app.task(stop=stop_after_attempt(1))
        def short():
            raise ValueError("no")
    """,
        visibility_timeout=1.0,
    )
    tasks.long.delay()
    worker = stage.worker("-p", 1, "-t", 1)
    first, second = history(stage)
    assert (first.outcome, second.outcome) == ("raised", "lost")
    # a third of a second apart, as often as the machine let it
    assert 1 <= first.extensions <= 5
    assert 1 <= second.extensions <= 5
    assert second.worker == f"{second.host}:{worker.pid}" != f"{second.host}:{second.pid}"
    assert "attempt 2 counts" in second.why
    stage.queue.purge(states=("dead",))
    tasks.short.delay()
    assert history(stage)[0].extensions == 0


def test_a_record_written_by_an_older_version_still_reads():
    """What it did not know is empty, and shown so."""
    older = (
        b'{"attempt":1,"outcome":"raised","type":"ValueError","message":"no","traceback":"","started":1.0,'
        b'"ended":2.0,"host":"h","pid":7,"task":"t","decision":"gave up"}'
    )
    found = Failure.unpack(older)
    assert (found.type, found.why, found.delay, found.worker, found.extensions) == ("ValueError", "", None, "", 0)


def test_a_record_with_fields_of_other_types_shows_as_its_own_text():
    """Anybody may hand in bytes with a settlement; listings must not stumble over them."""
    for record in (
        b'{"attempt":1}',
        b"[" * 100_000,
        b"[]",
        b"7",
        Failure.unpack(b"x").pack().replace(b'"why":""', b'"why":5'),
    ):
        found = Failure.unpack(record)
        assert found.message == record.decode()
        assert (found.why, found.type) == ("", "")
