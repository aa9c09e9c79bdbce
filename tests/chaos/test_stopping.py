"""Stopping under load: nobody gets anything any more, and what was got goes back."""

from __future__ import annotations

import signal
import time

from support import wait_until


def test_no_message_is_got_a_tenth_of_a_second_after_term(arena):
    """The count of deliveries stands still from then on, though thousands are ready and the rest still runs."""
    worker = arena.worker("-p", 2, "-t", 4, "--shutdown-timeout", 10)
    arena.push(4000, 0.005, batch=1000)
    wait_until(lambda: arena.queue.info().counters["received"] > 200)
    worker.process.terminate()
    time.sleep(0.3)  # 100 ms, and as many again for a machine that is shared
    first = arena.queue.info().counters["received"]
    time.sleep(0.3)
    assert arena.queue.info().counters["received"] == first
    assert worker.process.wait(20) == 0
    info = arena.queue.info()
    assert info.leased == 0
    assert {message.retrieval_count for message in arena.queue.messages("ready", limit=1000)} == {0}
    arena.worker("-p", 2, "-t", 8)
    arena.drain(60)
    found = arena.verdict()
    assert found.holds
    assert (found.done, found.twice) == (4000, 0)


def test_two_signals_give_everything_back_at_once(arena):
    """What ran is interrupted, and not counted: it runs once more elsewhere, from its first attempt."""
    worker = arena.worker("-p", 2, "-t", 4)
    arena.push(20, 1.0)
    wait_until(lambda: sum(record.kind == "start" for record in arena.history.read()) == 8)
    worker.process.send_signal(signal.SIGTERM)
    worker.process.send_signal(signal.SIGINT)
    asked = time.monotonic()
    assert worker.process.wait(10) == 1
    assert time.monotonic() - asked < 3
    assert arena.queue.info().ready == 20
    arena.worker("-p", 2, "-t", 8)
    arena.drain(30)
    found = arena.verdict()
    assert found.holds
    assert (found.done, found.twice, found.overlapping) == (20, 0, 0)
    assert {record.attempt for record in arena.history.read() if record.kind == "start"} == {1}
