"""How an execution ended, in data and in words."""

from __future__ import annotations

import pytest

from psmq_tasks.errors import TimeLimitExceeded, WorkerLost
from psmq_tasks.outcome import Lost, Raised, Returned, TimedOut, describe_error, error_of


def boom():
    raise ValueError("bad input")


def caught(function):
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def test_an_outcome_reads_as_the_error_that_predicates_see():
    """Timeouts and lost workers are errors like any other to a retry policy."""
    error = ValueError()
    assert error_of(Returned(1)) is None
    assert error_of(Raised(error)) is error
    limit = error_of(TimedOut(5.0, hard=True))
    assert isinstance(limit, TimeLimitExceeded)
    assert (limit.limit, limit.hard) == (5.0, True)
    assert str(limit) == "the task passed its hard time limit of 5 s"
    lost = error_of(Lost("killed by signal 9"))
    assert isinstance(lost, WorkerLost)
    assert lost.reason == "killed by signal 9"


def test_an_error_in_words_has_its_type_its_message_and_the_lines_of_the_task():
    """What a person reads in the dead letters."""
    name, message, text = describe_error(caught(boom))
    assert (name, message) == ("ValueError", "bad input")
    assert 'raise ValueError("bad input")' in text
    assert text.endswith("ValueError: bad input\n")


def test_the_frames_of_psmq_tasks_are_left_out():
    """The traceback starts in the task's own code."""
    from psmq_tasks.executor import CurrentMessage, run

    outcome = run(boom, (), {}, CurrentMessage("id", "m:boom", "q", 1))
    text = describe_error(outcome.error).traceback
    assert "executor.py" not in text
    assert "boom" in text


def test_a_cause_is_told_too():
    """``raise … from …`` keeps its story."""

    def chained():
        try:
            boom()
        except ValueError as error:
            raise KeyError("k") from error

    text = describe_error(caught(chained)).traceback
    assert "direct cause" in text
    assert "ValueError: bad input" in text


@pytest.mark.parametrize("how", [ValueError("inner"), SystemExit(1), RecursionError()])
def test_an_error_whose_str_raises_is_still_told(how):
    """The words must come out whatever the task's own classes do."""

    class Nasty(Exception):
        def __str__(self):
            raise how

    name, message, text = describe_error(Nasty())
    assert name.endswith("Nasty")
    assert type(how).__name__ in message
    assert "Nasty" in text


def test_words_are_bounded():
    """A message of a megabyte does not become a dead letter of a megabyte."""

    def deep(n):
        if n:
            deep(n - 1)
        raise ValueError("x" * 1_000_000)

    name, message, text = describe_error(caught(lambda: deep(50)))
    assert len(name) < 600
    assert len(message) <= 2_000
    assert len(text) < 17_000
    assert "characters in all" in text


def test_outcomes_are_values():
    """They compare by what they hold and cannot be changed."""
    assert Returned(1) == Returned(1)
    assert TimedOut(5.0) != TimedOut(5.0, hard=True)
    with pytest.raises(AttributeError):
        Lost("a").reason = "b"
