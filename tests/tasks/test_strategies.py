"""What a failure record says of the policy that decided."""

from __future__ import annotations

import pytest
import tenacity as t

from psmq_tasks.outcome import Raised
from psmq_tasks.retry import RetryPolicy, decide
from psmq_tasks.strategies import name_of


@pytest.mark.parametrize(
    ("strategy", "name"),
    [
        (t.stop_after_attempt(5), "stop_after_attempt(5)"),
        (t.stop_never, "stop_never()"),
        (t.stop_after_attempt(5) | t.stop_after_delay(60), "stop_after_attempt(5) | stop_after_delay(60)"),
        (t.wait_exponential_jitter(max=60), "wait_exponential_jitter(max=60)"),
        (t.wait_fixed(3), "wait_fixed(3)"),
        (t.wait_fixed(1) + t.wait_random(0, 2), "wait_fixed(1) + wait_random(max=2)"),
        (t.wait_chain(t.wait_fixed(1), t.wait_fixed(3)), "wait_fixed(1), then wait_fixed(3)"),
        (t.retry_if_exception_type((OSError, ValueError)), "retry_if_exception_type((OSError, ValueError))"),
        (t.retry_if_result(bool), "retry_if_result(bool)"),
        (lambda state: 3, "<lambda>"),
    ],
)
def test_a_strategy_is_named_as_it_was_written(strategy, name):
    """What was left at its default is left out."""
    assert name_of(strategy) == name


def test_a_strategy_of_any_kind_has_a_bounded_name():
    """It is the user's object: it may have no attributes, raise when it is looked at, or say very much."""

    class Odd:
        def __init__(self, words):
            self.words = words

        def __call__(self, state):
            return 1

    class Raising(Odd):
        @property
        def __dict__(self):
            raise ValueError

    assert name_of(Raising("x")) == "Raising"
    assert name_of(Odd("x")) == "Odd('x')"
    assert len(name_of(t.stop_any(*[t.stop_after_attempt(1000 + n) for n in range(100)]))) == 120


def why(policy, attempt=1, error=None, elapsed=0.0):
    error = ValueError("no") if error is None else error
    return decide(policy, Raised(error), attempt=attempt, first_started_at=0.0, now=elapsed).why


def test_a_decision_says_which_part_of_the_policy_made_it():
    """The wait and how far the stop is; of several stops the one that ended it; the predicate that did not want it."""
    policy = RetryPolicy(stop=t.stop_after_attempt(3) | t.stop_after_delay(60), wait=t.wait_fixed(4.2))
    assert why(policy) == "wait_fixed(4.2) → 4.2 s; stop_after_attempt(3): 1 of 3 | stop_after_delay(60): 0 s of 60 s"
    assert why(policy, 3) == "stop_after_attempt(3): 3 of 3"
    assert why(policy, 2, elapsed=70.0) == "stop_after_delay(60): 70 s of 60 s"
    both = RetryPolicy(stop=t.stop_after_attempt(3) & t.stop_after_delay(60), wait=t.wait_fixed(1))
    assert why(both, 3) == "wait_fixed(1) → 1 s; stop_after_delay(60): 0 s of 60 s"
    assert why(both, 3, elapsed=70.0) == "stop_after_attempt(3): 3 of 3 & stop_after_delay(60): 70 s of 60 s"
    picky = RetryPolicy(retry=t.retry_if_exception_type(OSError))
    assert why(picky) == "retry_if_exception_type(OSError) does not retry ValueError"
    assert why(RetryPolicy(wait=t.wait_fixed(10**6))).startswith("wait_fixed(1000000) → 1000000 s, at most 43200 s;")
