"""What is asked for many at once goes in several trips, none of which keeps the server busy for long."""

from __future__ import annotations

import threading
import time

import pytest
from support import raw_client, wait_until

from psmq import Bury, Delete, QueueManager, Release
from psmq.errors import InvalidOption, MessageNotFound, QueueFull, ServerUnreachable

#: messages, and settlements, in one trip
BATCH, SETTLED = 200, 100


@pytest.fixture
def alone(quiet_server):
    """A queue on a server that nobody else uses."""
    with QueueManager(url=quiet_server) as manager:
        queue = manager.get_queue("trips")
        yield queue
        manager.delete_queue("trips")


@pytest.fixture
def trips(quiet_server):
    """How many calls a deed takes: trips(deed) → (calls, its answer)."""

    def count(deed):
        with raw_client(quiet_server) as raw:
            raw.config_resetstat()
            answer = deed()
            found = raw.info("commandstats")
        return found["cmdstat_fcall"]["calls"], answer

    return count


def numbered(count):
    return [b"%d" % number for number in range(count)]


def test_a_thousand_go_and_come_in_trips_of_two_hundred(alone, trips):
    """Pushed, listed, got and settled, all in order."""
    calls, ids = trips(lambda: alone.push_many(numbered(1000)))
    assert (calls, len(set(ids)), sorted(ids)) == (5, 1000, ids)
    calls, listed = trips(lambda: alone.messages("ready", limit=1000))
    assert (calls, [message.message_id for message in listed]) == (5, ids)
    calls, got = trips(lambda: alone.get_many(1000))
    assert (calls, [message.data for message in got]) == (5, numbered(1000))
    calls, (words, _) = trips(lambda: alone.exchange([(message, Bury("no")) for message in got]))
    assert (calls, words) == (10, ["done"] * 1000)
    calls, letters = trips(lambda: alone.dead_letters(limit=1000))
    assert (calls, [letter.message.message_id for letter in letters]) == (5, ids)
    assert trips(lambda: alone.redrive(ids)) == (5, 1000)
    assert trips(lambda: len(alone.get_many(150))) == (1, 150)


def test_what_fits_into_one_trip_is_one(alone, trips):
    """A hundred settled, and what is got beside them up to two hundred of both together."""
    alone.push_many(numbered(600))
    held = alone.get_many(100)
    calls, (words, got) = trips(lambda: alone.exchange([(message, Delete()) for message in held], 100))
    assert (calls, len(words), len(got)) == (1, 100, 100)
    calls, (words, more) = trips(lambda: alone.exchange([(message, Release()) for message in got], 300))
    assert (calls, len(words), len(more)) == (2, 100, 300)
    assert [message.data for message in more[:200]] == numbered(600)[200:400]


def test_a_get_that_finds_less_than_it_asked_for_asks_no_more(alone, trips):
    """Also when it finds exactly what goes into one trip it learns of the end by an empty answer, and no later."""
    assert trips(lambda: alone.get_many(1000)) == (1, [])
    alone.push_many(numbered(BATCH))
    calls, got = trips(lambda: alone.get_many(1000))
    assert (calls, len(got)) == (2, BATCH)


def test_a_push_of_many_that_is_refused_has_stored_whole_trips(new_queue):
    """All or nothing of each two hundred."""
    queue = new_queue(max_length=BATCH + 50)
    with pytest.raises(QueueFull):
        queue.push_many(numbered(BATCH * 2))
    assert [message.data for message in queue.messages("ready", limit=1000)] == numbered(BATCH)


def test_a_redrive_of_many_that_is_refused_has_done_whole_trips(queue):
    """The trip of the one that is not dead did nothing."""
    queue.push_many(numbered(300))
    got = queue.get_many(300)
    queue.exchange([(message, Bury("no")) for message in got[:299]])
    with pytest.raises(MessageNotFound):
        queue.redrive([message.message_id for message in got])
    assert (queue.info().ready, queue.info().dead) == (BATCH, 99)


@pytest.mark.parametrize("limit", [0, 1001, -1, "5", None])
def test_limits_are_checked_before_anything_is_sent(queue, limit):
    """1 … 1000, of every verb that has one."""
    queue.push(b"x")
    for verb in (queue.get_many, lambda n: queue.messages("ready", limit=n), lambda n: queue.dead_letters(limit=n)):
        with pytest.raises(InvalidOption, match="limit"):
            verb(limit)
    if limit != 0:
        with pytest.raises(InvalidOption, match="limit"):
            queue.exchange([(queue.get(), Delete())], limit)
        assert queue.info().leased == 1


def test_a_wait_that_meets_garbage_first_gives_no_more_than_was_asked_for(queue, raw_server):
    """The one behind the token, and the rest behind it, are two together: also when the first look finds only garbage."""
    got = []
    thread = threading.Thread(target=lambda: got.extend(queue.get_many(2, wait=10)))
    thread.start()
    wait_until(lambda: queue.info().consumers > 0)
    time.sleep(0.2)  # it waits now
    raw_server.zadd(f"{queue._address.base}:ready", {f"garbage {number}": number for number in range(10)})
    queue.push_many(numbered(5))
    thread.join(20)
    assert [message.data for message in got] == numbered(2)
    assert queue.info().ready == 3


def test_what_is_given_after_a_trip_that_failed_late_is_still_held(queue, monkeypatch):
    """The second trip of a get gave up when the leases of the first had ended: what others have got is not given."""
    queue.push_many(numbered(201))
    others = []
    run = queue._link.run

    def cut_off(command, **how):
        if command.function == "exchange" and command.args[0] == 100:
            wait_until(lambda: others.extend(queue.get_many(50)) or len(others) >= 50)
            raise ServerUnreachable("cut off")
        return run(command, **how)

    monkeypatch.setattr(queue._link, "run", cut_off)
    got = queue.get_many(300, visibility_timeout=0.4)
    ids = {message.message_id for message in others}
    assert len(ids) >= 50
    assert ids.isdisjoint(message.message_id for message in got)
