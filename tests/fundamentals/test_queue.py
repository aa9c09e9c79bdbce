"""The queue in the order in which the README tells it, one idea each; time moves by the clock, nobody sleeps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import get_type_hints

import pytest

from psmq import Bury, Delete, NewMessage, QueueConfig, QueueSettings, Release, config, errors
from psmq.errors import (
    InvalidOption,
    MessageTooLarge,
    NotLeased,
    QueueConfigConflict,
    QueueFull,
    QueueNotFound,
    ReceiptExpired,
)


def test_what_is_pushed_can_be_got(queue):
    """One push, one message: with its id, its data and when it was sent."""
    message_id = queue.push(b"hello")
    message = queue.get()
    assert (message.message_id, message.data, message.queue_name) == (message_id, b"hello", queue.name)
    assert message.sent <= message.first_retrieved
    assert message.sent.tzinfo is UTC


def test_ids_sort_like_the_pushes(queue):
    """An id begins with the time of the push."""
    ids = [queue.push(b"x") for _ in range(50)] + queue.push_many([b"y"] * 50)
    assert ids == sorted(set(ids))


def test_the_oldest_comes_first(queue):
    """First in, first out."""
    for data in (b"1", b"2", b"3"):
        queue.push(data)
    assert [message.data for message in queue.get_many(3)] == [b"1", b"2", b"3"]


def test_the_highest_priority_comes_before_the_oldest(queue):
    """The highest score: priority first, then age."""
    for data, priority in ((b"low", -5), (b"old", 0), (b"new", 0), (b"urgent", 100)):
        queue.push(data, priority=priority)
    assert [message.data for message in queue.get_many(4)] == [b"urgent", b"old", b"new", b"low"]


def test_a_leased_message_is_hidden_until_its_timeout(test_queue, clock):
    """Nobody else sees it for thirty seconds; then it is there again, counted."""
    test_queue.push(b"x")
    test_queue.get()
    clock.tick(29.999)
    assert test_queue.get() is None
    clock.tick(0.001)
    assert test_queue.get().retrieval_count == 2


def test_a_late_delete_is_refused(test_queue, clock):
    """Only the latest receipt settles a message: who comes back too late changes nothing."""
    test_queue.push(b"x")
    first = test_queue.get()
    clock.tick(30)
    second = test_queue.get()
    with pytest.raises(ReceiptExpired):
        first.delete()
    assert test_queue.info().leased == 1
    second.delete()
    assert test_queue.info().counters["deleted"] == 1


def test_a_lease_that_ended_can_be_settled_until_somebody_else_has_the_message(test_queue, clock):
    """Work that took too long is not thrown away without need."""
    test_queue.push(b"x")
    message = test_queue.get()
    clock.tick(31)
    message.delete()
    assert test_queue.get() is None


def test_extend_moves_the_end_of_a_lease(test_queue, clock):
    """Seconds from now, as often as need be."""
    test_queue.push(b"x")
    message = test_queue.get()
    clock.tick(20)
    message.extend(60)
    clock.tick(59)
    assert test_queue.get() is None
    clock.tick(1)
    assert test_queue.get() is not None


def test_a_delayed_message_waits_for_its_time(test_queue, clock):
    """Not a millisecond early, and with the very next get when it is due."""
    test_queue.push(b"later", delay=3600)
    clock.tick(3599.999)
    assert test_queue.get() is None
    clock.tick(0.001)
    assert test_queue.get().data == b"later"


def test_release_gives_a_message_back(test_queue, clock):
    """At once or after a delay; the delivery counts unless it says that it was none."""
    test_queue.push(b"x")
    test_queue.get().release()
    test_queue.get().release(delay=5)
    assert test_queue.get() is None
    clock.tick(5)
    message = test_queue.get()
    assert message.retrieval_count == 3
    message.release(count=False)
    assert test_queue.get().retrieval_count == 3


def test_what_is_never_deleted_becomes_a_dead_letter(test_queue, clock):
    """After max_retrievals deliveries, decided by the server, whatever became of those who got it."""
    message_id = test_queue.push(b"poison", max_retrievals=3)
    for count in (1, 2, 3):
        assert test_queue.get().retrieval_count == count
        clock.tick(30)
    assert test_queue.get() is None
    (letter,) = test_queue.dead_letters()
    assert (letter.message.message_id, letter.message.retrieval_count) == (message_id, 3)


def test_bury_and_redrive_are_opposites(queue):
    """A dead letter keeps its reason; redriven it has its id and data, and counts anew."""
    message_id = queue.push(b"x")
    queue.get().bury("no such address")
    (letter,) = queue.dead_letters()
    assert (letter.message.message_id, letter.reason) == (message_id, "no such address")
    assert queue.redrive([message_id]) == 1
    message = queue.get()
    assert (message.message_id, message.data, message.retrieval_count) == (message_id, b"x", 1)


def test_peek_changes_nothing_and_pop_takes_the_message(queue):
    """Neither gives a receipt, so neither can be settled."""
    queue.push(b"x")
    assert queue.peek().retrieval_count == 0
    with pytest.raises(NotLeased):
        queue.peek().delete()
    assert queue.pop().data == b"x"
    assert queue.get() is None


def test_exchange_settles_what_is_finished_and_gets_what_is_next(queue):
    """One trip for three settlements and two gets."""
    queue.push_many([b"1", b"2", b"3", b"4"])
    done, again, failed = queue.get_many(3)
    words, got = queue.exchange([(done, Delete()), (again, Release(60)), (failed, Bury("bad"))], 2)
    assert words == ["done"] * 3
    assert [message.data for message in got] == [b"4"]
    info = queue.info()
    assert (info.ready, info.delayed, info.leased, info.dead) == (0, 1, 1, 1)


def test_a_message_expires_when_nobody_takes_it(test_queue, clock):
    """ttl: dropped, or buried where the queue is set so; a leased one does not expire."""
    test_queue.push(b"short", ttl=10)
    clock.tick(10)
    assert test_queue.get() is None
    assert test_queue.info().counters["expired"] == 1


def test_a_second_push_with_one_deduplication_id_is_the_first(test_queue, clock):
    """Within its window, five minutes by default."""
    first = test_queue.push(b"x", deduplication_id="order 7")
    assert test_queue.push(b"x", deduplication_id="order 7") == first
    assert test_queue.info().ready == 1
    clock.tick(301)
    assert test_queue.push(b"x", deduplication_id="order 7") != first


def test_metadata_travels_with_a_message(queue):
    """Words beside the data, to look at without reading it."""
    queue.push_many([NewMessage(b"x", metadata={"from": "ada"})])
    assert queue.get().metadata == {"from": "ada"}


def test_limits_are_errors_and_store_nothing(new_queue):
    """Too large and too many, each with an error of its own."""
    queue = new_queue(max_size=10, max_length=1)
    with pytest.raises(MessageTooLarge):
        queue.push(b"12345678901")
    queue.push(b"x")
    with pytest.raises(QueueFull):
        queue.push(b"y")
    assert queue.info().ready == 1


def test_settings_are_kept_on_the_server_and_a_differing_one_is_refused(manager, new_queue):
    """Everybody works by the same ones; configure() changes them."""
    queue = new_queue(max_retrievals=3)
    assert manager.get_queue(queue.name).config.max_retrievals == 3
    with pytest.raises(QueueConfigConflict, match="configure"):
        manager.get_queue(queue.name, max_retrievals=4)
    queue.configure(max_retrievals=4)
    assert manager.get_queue(queue.name, max_retrievals=4).name == queue.name
    with pytest.raises(QueueConfigConflict, match=r"has visibility_timeout=30 s, not 40\.5 s; ") as conflict:
        manager.get_queue(queue.name, visibility_timeout=40.5)
    assert (conflict.value.stored, conflict.value.asked) == ("30", "40.5")
    with pytest.raises(QueueConfigConflict, match=r"has ttl=none, not 7 s; "):
        manager.get_queue(queue.name, ttl=timedelta(seconds=7))
    queue.configure(visibility_timeout=timedelta(seconds=40.5), ttl=7)
    assert manager.get_queue(queue.name, visibility_timeout=40.5).info().as_dict()["config"]["ttl"] == 7


def test_settings_are_named_for_type_checkers_as_they_are():
    """QueueSettings is what get_queue() takes, QueueConfig what the server keeps: the same fields and types."""
    assert get_type_hints(QueueSettings) == get_type_hints(QueueConfig)
    for name in config._DURATIONS:
        assert name in errors._DURATIONS
    assert len(errors._DURATIONS) == len(config._DURATIONS)


def test_ids_of_dead_letters_go_with_nothing_that_chooses_others(queue):
    """What would be ignored is refused."""
    id_ = queue.push(b"x")
    with pytest.raises(InvalidOption, match="leave states out"):
        queue.purge(states=["ready"], ids=[id_])
    queue.bury(queue.get(), "for a test")
    (letter,) = queue.dead_letters()
    with pytest.raises(InvalidOption, match="leave it out where ids are given"):
        queue.dead_letters(after=letter, ids=[id_])
    assert queue.purge(states=[]) == 0
    assert queue.purge(ids=[id_]) == 1


def test_a_paused_queue_delivers_nothing_until_it_is_resumed(queue):
    """Pushes go on."""
    queue.pause()
    queue.push(b"x")
    assert queue.get() is None
    queue.resume()
    assert queue.get().data == b"x"


def test_a_deleted_queue_is_an_error_and_not_an_empty_one(manager, new_queue):
    """Its messages are gone, and whoever still uses it is told."""
    queue = new_queue()
    queue.push(b"x")
    manager.delete_queue(queue.name)
    with pytest.raises(QueueNotFound):
        queue.get()
    assert queue.name not in manager.list_queues()


def test_times_are_aware_datetimes(test_queue):
    """In UTC, of the server's clock."""
    test_queue.push(b"x")
    assert test_queue.peek().sent == datetime(2030, 1, 1, 12, tzinfo=UTC)
