"""When to run a failed task again: tenacity's ``stop``, ``wait`` and ``retry`` objects as a pure decision.

tenacity would sleep between attempts and forget them with the process. Here the attempts are counted by the queue and
the wait happens in it: the objects are only asked, with the state that the next attempt of their own loop would have
(all but ``idle_for``: nobody adds the waits up).

By default a task runs at most 5 times: again about 1 s after its first failure, then 2, 4, 8 s (up to 1 s more each,
at random; never more than 60 s), whatever Exception it raised. SystemExit and KeyboardInterrupt are not retried.
"""

from __future__ import annotations

import inspect
import math
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from psmq.errors import InvalidOption
from psmq_tasks.errors import Reject, Retry
from psmq_tasks.outcome import Outcome, Returned, error_of, type_name
from psmq_tasks.strategies import in_seconds, name_of, stopping

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tenacity import BaseRetrying, RetryCallState
    from tenacity.retry import RetryBaseT
    from tenacity.stop import StopBaseT
    from tenacity.wait import WaitBaseT

__all__ = ["DEFAULT_ATTEMPTS", "RetryDecision", "RetryPolicy", "attempt_limit", "decide", "lift"]

DEFAULT_ATTEMPTS: Final = 5
#: seconds; no default wait is longer
DEFAULT_LONGEST_WAIT: Final = 60.0
#: seconds; no wait of any policy is longer: tenacity's own bound is 10^11 years
LONGEST_WAIT: Final = 12 * 3600.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """tenacity's objects, checked where they are written; None: the default."""

    stop: StopBaseT | None = None
    wait: WaitBaseT | None = None
    retry: RetryBaseT | None = None
    #: False: a returned value is always accepted, without asking ``retry``
    judges_results: bool = field(init=False, repr=False, compare=False, default=False)

    def __post_init__(self) -> None:
        _check("stop", self.stop, "stop_after_attempt(5)")
        _check("wait", self.wait, "wait_exponential_jitter(max=60)")
        _check("retry", self.retry, "retry_if_exception_type(OSError)")
        if self.retry is not None:
            object.__setattr__(self, "judges_results", _judges_results(self.retry))

    @property
    def attempts(self) -> int | None:
        """The most attempts that ``stop`` allows; None: it does not count them."""
        return DEFAULT_ATTEMPTS if self.stop is None else attempt_limit(self.stop)


class RetryDecision(NamedTuple):
    """``retry`` after ``delay`` seconds; or give up, for ``reason``; or ``accepted``: there is nothing to retry."""

    retry: bool
    delay: float = 0.0
    reason: str = ""
    accepted: bool = False
    #: which part of the policy said what: "wait_fixed(3) → 3 s; stop_after_attempt(5): 1 of 5"
    why: str = ""


_ACCEPTED: Final = RetryDecision(retry=False, accepted=True)


def decide(
    policy: RetryPolicy, outcome: Outcome, *, attempt: int, first_started_at: float, now: float
) -> RetryDecision:
    """What the policy says to the outcome of this attempt (1 = first).

    ``first_started_at`` and ``now`` in seconds since 1970.
    A policy that raises itself ends the task, with that as the reason.
    """
    if type(outcome) is Returned and not policy.judges_results:
        return _ACCEPTED
    error = error_of(outcome)
    if isinstance(error, Reject):
        reason = f"rejected: {error.reason}" if error.reason else "rejected"
        return RetryDecision(retry=False, reason=reason, why="the task raised Reject")
    try:
        retrying = _retrying(policy)
        state = _state(retrying, outcome, attempt=attempt, elapsed=max(0.0, now - first_started_at))
        return _ask(retrying, state, error)
    except BaseException as broken:  # a policy is the user's code; a worker must outlive it
        reason = f"its retry policy raised {type_name(broken)}: {broken}"
        return RetryDecision(retry=False, reason=reason, why="the policy failed")


def attempt_limit(stop: object) -> int | None:
    """The most attempts this stop allows: of ``a | b`` the least, of ``a & b`` the most; None if it does not count."""
    import tenacity

    if isinstance(stop, tenacity.stop_after_attempt):
        return max(1, math.ceil(stop.max_attempt_number))
    if isinstance(stop, tenacity.stop_any):
        limits = [limit for limit in map(attempt_limit, stop.stops) if limit is not None]
        return min(limits, default=None)
    if isinstance(stop, tenacity.stop_all):
        all_limits = [attempt_limit(one) for one in stop.stops]
        counted = [limit for limit in all_limits if limit is not None]
        # One that does not count can hold the others back for ever.
        return max(counted) if counted and len(counted) == len(all_limits) else None
    return None


def lift(function: Callable[..., Any]) -> tuple[Callable[..., Any], RetryPolicy] | None:
    """A function under tenacity's ``@retry``: the plain function and the policy; None if it is under no such thing.

    What ``@retry`` leaves out means "for ever, without a wait" to tenacity; in a queue that would be a busy loop, so
    it means our defaults. Its ``sleep``, ``before``, ``after``, ``reraise`` and the like have no meaning in a queue.
    """
    tenacity = sys.modules.get("tenacity")
    if tenacity is None:
        return None
    retrying = getattr(function, "retry", None)
    plain = getattr(function, "__wrapped__", None)
    if plain is None or not isinstance(retrying, tenacity.BaseRetrying):
        return None
    policy = RetryPolicy(
        stop=None if retrying.stop is tenacity.stop_never else retrying.stop,
        wait=None if isinstance(retrying.wait, tenacity.wait_none) else retrying.wait,
        retry=retrying.retry,
    )
    return plain, policy


def _ask(retrying: BaseRetrying, state: RetryCallState, error: BaseException | None) -> RetryDecision:
    """In tenacity's order: retry, then wait, then stop (``stop_before_delay`` reads the wait)."""
    import tenacity

    asked = isinstance(error, (Retry, tenacity.TryAgain))
    if not asked and not retrying.retry(state):
        if error is None:
            return _ACCEPTED
        why = f"{name_of(retrying.retry)} does not retry {type_name(error)}"
        return RetryDecision(retry=False, reason="not an error that its policy retries", why=why)
    after = error.after if isinstance(error, Retry) else None
    asked_delay = float(retrying.wait(state) if after is None else after)
    if math.isnan(asked_delay):
        raise ValueError("its wait is not a number")
    state.upcoming_sleep = delay = min(max(0.0, asked_delay), LONGEST_WAIT)
    stops, stop_words = stopping(retrying.stop, state)
    if stops:
        attempts = state.attempt_number
        reason = f"gave up after {attempts} attempt{'s' if attempts > 1 else ''}"
        return RetryDecision(retry=False, reason=reason, why=stop_words)
    wait_words = f"{name_of(retrying.wait)} → {in_seconds(asked_delay)}" if after is None else f"Retry(after={after:g})"
    if delay < asked_delay:
        wait_words += f", at most {in_seconds(LONGEST_WAIT)}"
    reason = str(error) if isinstance(error, Retry) else ""
    return RetryDecision(retry=True, delay=delay, reason=reason, why=f"{wait_words}; {stop_words}")


def _retrying(policy: RetryPolicy) -> BaseRetrying:
    import tenacity

    return tenacity.Retrying(
        stop=tenacity.stop_after_attempt(DEFAULT_ATTEMPTS) if policy.stop is None else policy.stop,
        wait=tenacity.wait_exponential_jitter(max=DEFAULT_LONGEST_WAIT) if policy.wait is None else policy.wait,
        retry=tenacity.retry_if_exception_type() if policy.retry is None else policy.retry,
    )


def _state(retrying: BaseRetrying, outcome: Outcome, *, attempt: int, elapsed: float) -> RetryCallState:
    import tenacity

    state = tenacity.RetryCallState(retrying, fn=None, args=(), kwargs={})
    state.attempt_number = attempt
    if isinstance(outcome, Returned):
        state.set_result(outcome.value)
    else:
        error = error_of(outcome)
        assert error is not None
        state.set_exception((type(error), error, error.__traceback__))
    assert state.outcome_timestamp is not None
    # As if this process had made all the attempts: what stop_after_delay measures is end minus start.
    state.start_time = state.outcome_timestamp - elapsed
    return state


def _check(option: str, strategy: Any, example: str) -> None:
    if strategy is None:
        return
    if isinstance(strategy, type) or not callable(strategy):
        raise InvalidOption(option, f"must be one of tenacity's {option} objects, like {example}, not {strategy!r:.80}")
    for part in _walk(strategy):
        predicate = getattr(part, "predicate", None)
        if any(map(inspect.iscoroutinefunction, (part, type(part).__call__, predicate))):
            raise InvalidOption(option, f"must not be asynchronous: {part!r:.100} would have to be awaited to decide")
        if hasattr(part, "event") and type(part).__name__ == "stop_when_event_set":
            raise InvalidOption(option, "must not wait for an event: the worker that decides never sees it set")


def _walk(strategy: Any) -> Iterator[Any]:
    """The strategy and those that ``|``, ``&`` and ``+`` put into it."""
    yield strategy
    for name in ("stops", "retries", "wait_funcs", "strategies"):
        for part in getattr(strategy, name, ()):
            yield from _walk(part)


def _judges_results(retry: Any) -> bool:
    """Whether it might refuse a returned value. Only tenacity's own, that look at exceptions alone, surely do not."""
    import tenacity

    if isinstance(retry, (tenacity.retry_any, tenacity.retry_all)):
        return any(map(_judges_results, retry.retries))
    return type(retry) not in (
        tenacity.retry_if_exception,
        tenacity.retry_if_exception_type,
        tenacity.retry_if_not_exception_type,
        tenacity.retry_if_exception_cause_type,
        tenacity.retry_if_exception_message,
        type(tenacity.retry_never),
    )
