"""The bus: it tells, and nothing that a listener does is felt by what it tells about."""

from __future__ import annotations

import logging

import pytest

from psmq.errors import InvalidOption
from psmq_tasks.events import EVENTS, Events


def test_a_subscriber_gets_the_fields_by_name():
    """``emit(name, **fields)`` calls every subscriber of that name, in order of subscription."""
    events, seen = Events(), []

    @events.subscribe("retry")
    def first(**fields):
        seen.append(("first", fields))

    events.subscribe("retry")(lambda **fields: seen.append(("second", fields)))
    events.subscribe("dead")(lambda **fields: seen.append("dead"))
    events.emit("retry", delay=2.0)
    assert seen == [("first", {"delay": 2.0}), ("second", {"delay": 2.0})]


@pytest.mark.parametrize("error", [RuntimeError("no"), SystemExit(3)])
def test_a_failing_subscriber_is_logged_and_hurts_nobody(error, caplog):
    """The others are still called, and emit returns."""
    events, seen = Events(), []

    @events.subscribe("dead")
    def fails(**fields):
        raise error

    events.subscribe("dead")(lambda **fields: seen.append(fields))
    with caplog.at_level(logging.ERROR, "psmq_tasks"):
        events.emit("dead", reason="x")
    assert seen == [{"reason": "x"}]
    assert "a subscriber of dead failed" in caplog.text


def test_an_unknown_event_is_refused_where_it_is_written():
    """A typo would otherwise wait for ever."""
    with pytest.raises(InvalidOption, match="after_task"):
        Events().subscribe("aftertask")


def test_nobody_listening_is_told_apart():
    """So that fields nobody wants need not be made."""
    events = Events()
    assert not events.wanted("retry")
    listener = events.subscribe("retry")(lambda **fields: None)
    assert events.wanted("retry")
    events.unsubscribe("retry", listener)
    assert not events.wanted("retry")


def test_unsubscribing_while_told_does_not_skip_the_next():
    """A subscriber may remove itself."""
    events, seen = Events(), []

    def once(**fields):
        seen.append("once")
        events.unsubscribe("retry", once)

    events.subscribe("retry")(once)
    events.subscribe("retry")(lambda **fields: seen.append("second"))
    events.emit("retry")
    events.emit("retry")
    assert seen == ["once", "second", "second"]


def test_the_events_are_a_fixed_set():
    """They are documented by name and fields."""
    assert {"before_send", "after_send", "before_task", "after_task", "retry", "dead", "lease_lost"} <= set(EVENTS)
    assert {"worker_start", "worker_stop"} <= set(EVENTS)
