"""tenacity's objects as a decision: what they say is what their own loop would do, without its sleep."""

from __future__ import annotations

import pickle
import random
import threading
from datetime import timedelta

import pytest
import tenacity as t
from hypothesis import given
from hypothesis import strategies as st

from psmq.errors import InvalidOption
from psmq_tasks.errors import Reject, Retry, TimeLimitExceeded, WorkerLost
from psmq_tasks.outcome import Lost, Raised, Returned, TimedOut
from psmq_tasks.retry import LONGEST_WAIT, RetryDecision, RetryPolicy, attempt_limit, decide, lift

START = 1_700_000_000.0


def ask(policy, outcome, attempt=1, *, elapsed=0.0):
    return decide(policy, outcome, attempt=attempt, first_started_at=START, now=START + elapsed)


def failed(error=None):
    return Raised(ValueError("no") if error is None else error)


def test_by_default_a_task_runs_five_times_about_1_2_4_and_8_seconds_apart():
    """The numbers that the documentation gives."""
    delays = []
    for attempt in range(1, 5):
        decision = ask(RetryPolicy(), failed(), attempt)
        assert decision.retry
        delays.append(decision.delay)
    for delay, least in zip(delays, (1, 2, 4, 8), strict=True):
        assert least <= delay <= least + 1
    assert ask(RetryPolicy(), failed(), 5) == RetryDecision(
        retry=False, reason="gave up after 5 attempts", why="stop_after_attempt(5): 5 of 5"
    )


def test_no_default_wait_is_longer_than_a_minute():
    """Whatever the attempt."""
    policy = RetryPolicy(stop=t.stop_never)
    for attempt in (7, 50, 10_000):
        assert ask(policy, failed(), attempt).delay == 60.0


def test_a_returned_value_is_accepted():
    """There is nothing to retry."""
    assert ask(RetryPolicy(), Returned(None)) == RetryDecision(retry=False, accepted=True)


def test_exit_and_interrupt_are_not_retried_by_default():
    """They are no Exceptions: whoever raises them means an end."""
    for error in (SystemExit(1), KeyboardInterrupt(), GeneratorExit()):
        decision = ask(RetryPolicy(), failed(error))
        assert (decision.retry, decision.accepted) == (False, False)
        assert decision.reason == "not an error that its policy retries"


def test_an_error_of_another_kind_is_given_up_at_once():
    """Only the listed types are retried."""
    policy = RetryPolicy(retry=t.retry_if_exception_type((OSError, KeyError)))
    assert ask(policy, failed(KeyError())).retry
    assert not ask(policy, failed()).retry


def test_predicates_see_timeouts_and_lost_workers_as_errors():
    """``retry_if_exception_type(WorkerLost)`` is a policy like any other."""
    only_lost = RetryPolicy(retry=t.retry_if_exception_type(WorkerLost))
    assert ask(only_lost, Lost("killed by signal 9")).retry
    assert not ask(only_lost, TimedOut(5.0, hard=True)).retry
    hard = RetryPolicy(retry=t.retry_if_exception(lambda error: isinstance(error, TimeLimitExceeded) and error.hard))
    assert ask(hard, TimedOut(5.0, hard=True)).retry
    assert not ask(hard, TimedOut(5.0)).retry
    assert ask(RetryPolicy(), Lost()).retry
    assert ask(RetryPolicy(), TimedOut(5.0)).retry


def test_a_result_can_be_refused():
    """``retry_if_result`` works on what the task returned."""
    policy = RetryPolicy(retry=t.retry_if_result(lambda value: value is None), stop=t.stop_after_attempt(2))
    assert ask(policy, Returned(1)).accepted
    assert ask(policy, Returned(None)).retry
    assert not ask(policy, failed()).retry
    assert ask(policy, Returned(None), 2).reason == "gave up after 2 attempts"


def test_results_are_judged_only_where_a_policy_might():
    """For all others an accepted value costs a third of a microsecond."""
    assert not RetryPolicy().judges_results
    assert not RetryPolicy(retry=t.retry_if_exception_type(OSError)).judges_results
    assert not RetryPolicy(
        retry=t.retry_if_exception_type(OSError) | t.retry_if_exception_message(match="x")
    ).judges_results
    for judging in (
        t.retry_if_result(bool),
        t.retry_if_not_result(bool),
        t.retry_always,
        t.retry_unless_exception_type(OSError),
        t.retry_if_exception_type(OSError) | t.retry_if_result(bool),
        lambda state: False,
    ):
        assert RetryPolicy(retry=judging).judges_results


def test_time_is_counted_from_the_first_attempt_in_whatever_process():
    """``stop_after_delay(600)`` ends a task first started 700 s ago."""
    policy = RetryPolicy(stop=t.stop_after_delay(600))
    assert ask(policy, failed(), 2, elapsed=599).retry
    assert not ask(policy, failed(), 2, elapsed=600.1).retry


def test_a_stop_sees_the_wait_that_is_coming():
    """``stop_before_delay(100)`` at 80 s gives up if the next attempt would be at 113 s."""
    policy = RetryPolicy(stop=t.stop_before_delay(100), wait=t.wait_fixed(33))
    assert ask(policy, failed(), elapsed=60).retry
    assert not ask(policy, failed(), elapsed=80).retry


def test_clocks_of_two_hosts_may_differ():
    """A first start in the future is a start now."""
    assert ask(RetryPolicy(stop=t.stop_after_delay(10)), failed(), elapsed=-3600).retry


def test_a_wait_may_read_the_error():
    """Retry-After, by ``wait_exception``."""
    policy = RetryPolicy(wait=t.wait_exception(lambda error: float(error.args[0])))
    assert ask(policy, failed(ValueError("33"))).delay == 33.0


def test_no_wait_is_longer_than_twelve_hours():
    """tenacity's own bound is longer than the universe."""
    for wait in (t.wait_fixed(10**9), lambda state: float("inf")):
        assert ask(RetryPolicy(wait=wait), failed()).delay == LONGEST_WAIT
    assert ask(RetryPolicy(wait=lambda state: -5), failed()).delay == 0.0


def test_retry_sets_the_wait_and_bypasses_the_predicate_but_not_the_stop():
    """``raise Retry(after=30)``."""
    policy = RetryPolicy(retry=t.retry_never, stop=t.stop_after_attempt(3), wait=t.wait_fixed(7))
    assert ask(policy, failed(Retry(after=30, reason="busy"))) == RetryDecision(
        retry=True, delay=30.0, reason="busy", why="Retry(after=30); stop_after_attempt(3): 1 of 3"
    )
    assert ask(policy, failed(Retry(after=timedelta(minutes=1)))).delay == 60.0
    assert ask(policy, failed(Retry())).delay == 7.0
    assert ask(policy, failed(Retry(after=0))).delay == 0.0
    assert not ask(policy, failed(Retry(after=30)), 3).retry


def test_try_again_bypasses_the_predicate():
    """As in tenacity's own loop."""
    assert ask(RetryPolicy(retry=t.retry_never), failed(t.TryAgain())).retry


def test_reject_ends_it_at_once_with_its_reason():
    """Whatever the policy says."""
    policy = RetryPolicy(retry=t.retry_always, stop=t.stop_never)
    assert ask(policy, failed(Reject("no such user"))) == RetryDecision(
        retry=False, reason="rejected: no such user", why="the task raised Reject"
    )
    assert ask(policy, failed(Reject())).reason == "rejected"


@pytest.mark.parametrize("option", ["stop", "wait", "retry"])
@pytest.mark.parametrize("error", [ZeroDivisionError("x"), SystemExit(1)])
def test_a_policy_that_raises_ends_the_task_and_nothing_else(option, error):
    """With that as the reason, so that it can be mended and redriven."""

    def broken(state):
        raise error

    decision = ask(RetryPolicy(**{option: broken}), failed())
    assert (decision.retry, decision.accepted) == (False, False)
    assert decision.reason == f"its retry policy raised {type(error).__name__}: {error}"


def test_a_policy_that_answers_nonsense_ends_the_task():
    """A wait that is no number cannot be waited."""
    for wait in (lambda state: float("nan"), lambda state: None, lambda state: "soon"):
        decision = ask(RetryPolicy(wait=wait), failed())
        assert not decision.retry
        assert "retry policy raised" in decision.reason


@given(st.integers(1, 12), st.integers(1, 12), st.floats(0, 100), st.integers(0, 2**32))
def test_decisions_are_those_of_tenacitys_own_loop(attempt, limit, base, seed):
    """Same state in, same answer out: stop or the same wait."""
    stop = t.stop_after_attempt(limit) | t.stop_after_delay(500)
    policy = RetryPolicy(stop=stop, wait=t.wait_exponential_jitter(max=60) + t.wait_fixed(base))
    random.seed(seed)
    decision = ask(policy, failed(), attempt, elapsed=base)

    loop = t.Retrying(stop=policy.stop, wait=policy.wait, retry=t.retry_if_exception_type())
    loop.begin()
    state = t.RetryCallState(loop, None, (), {})
    state.attempt_number = attempt
    error = ValueError()
    state.set_exception((ValueError, error, None))
    state.start_time = state.outcome_timestamp - base
    random.seed(seed)
    try:
        answer = loop.iter(state)
    except t.RetryError:
        answer = None
    assert decision.retry == (answer is not None)
    if answer is not None:
        assert decision.delay == float(answer)


def test_the_attempts_that_a_stop_allows_are_read_from_it():
    """So that the server can end what no worker lives to end: the least of ``|``, the most of ``&``."""
    three, seven, late = t.stop_after_attempt(3), t.stop_after_attempt(7), t.stop_after_delay(60)
    assert RetryPolicy().attempts == 5
    assert attempt_limit(three) == 3
    assert attempt_limit(three | seven) == 3
    assert attempt_limit(three | late) == 3
    assert attempt_limit(three & seven) == 7
    assert attempt_limit(three & late) is None
    assert attempt_limit((three & late) | seven) == 7
    assert attempt_limit(late) is None
    assert attempt_limit(t.stop_never) is None
    assert attempt_limit(lambda state: False) is None
    assert attempt_limit(t.stop_after_attempt(0)) == 1


async def asynchronous(*_):
    return True


class AsyncStop:
    async def __call__(self, state):
        return True


@pytest.mark.parametrize(
    "given",
    [
        {"stop": asynchronous},
        {"stop": AsyncStop()},
        {"stop": t.stop_after_attempt(3) | AsyncStop()},
        {"wait": asynchronous},
        {"wait": t.wait_fixed(1) + asynchronous},
        {"retry": asynchronous},
        {"retry": t.retry_if_exception(asynchronous)},
        {"retry": t.retry_if_exception_type(OSError) | t.asyncio.retry_if_exception(asynchronous)},
    ],
)
def test_asynchronous_strategies_are_refused_where_they_are_written(given):
    """A coroutine is always true: it would retry for ever, without a word."""
    (option,) = given
    with pytest.raises(InvalidOption, match="asynchronous") as caught:
        RetryPolicy(**given)
    assert caught.value.option == option


def test_a_stop_that_waits_for_an_event_is_refused():
    """The event of this process is set in no worker."""
    with pytest.raises(InvalidOption, match="event"):
        RetryPolicy(stop=t.stop_after_attempt(3) | t.stop_when_event_set(threading.Event()))


@pytest.mark.parametrize("given", [{"stop": 5}, {"wait": 3.0}, {"retry": ValueError}, {"wait": t.wait_exponential}])
def test_what_is_no_strategy_is_refused_with_one_that_is(given):
    """``stop=5`` is a likely first guess."""
    (option,) = given
    with pytest.raises(InvalidOption, match="like [a-z_]+\\(") as caught:
        RetryPolicy(**given)
    assert caught.value.option == option


def test_a_policy_pickles():
    """It rides on calls by value."""
    policy = RetryPolicy(stop=t.stop_after_attempt(3), wait=t.wait_fixed(2))
    twin = pickle.loads(pickle.dumps(policy))
    assert ask(twin, failed()).delay == 2.0
    assert twin.attempts == 3


def test_a_function_under_tenacitys_retry_gives_its_policy():
    """``@app.task`` over ``@retry``: the loop becomes a policy, the plain function is what runs."""

    @t.retry(stop=t.stop_after_attempt(3), wait=t.wait_fixed(2), retry=t.retry_if_exception_type(OSError))
    def fetch():
        pass

    plain, policy = lift(fetch)
    assert plain is fetch.__wrapped__
    assert policy.attempts == 3
    assert ask(policy, failed(OSError())).delay == 2.0
    assert not ask(policy, failed()).retry


def test_what_retry_leaves_out_gets_our_defaults():
    """Bare ``@retry`` means for ever and without a wait to tenacity: a busy loop through the queue."""
    _, policy = lift(t.retry(lambda: None))
    assert policy.attempts == 5
    assert ask(policy, failed()).delay >= 1.0


def test_other_functions_are_not_lifted():
    """Having an attribute called retry is not enough."""

    def function():
        pass

    function.retry = 5
    function.__wrapped__ = None
    assert lift(function) is None
    assert lift(len) is None
