"""tenacity's strategies in words: what a failure record says of the policy that decided.

A strategy is the user's object and may be anything callable: naming it must neither raise nor grow.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tenacity import RetryCallState

__all__ = ["in_seconds", "name_of", "stopping"]

#: characters of a strategy's name
_LONGEST: Final = 120
#: where strategies keep those that ``|``, ``&``, ``+`` and chains put into them, and what stands between
_PARTS: Final = {
    "stop_any": ("stops", " | "),
    "stop_all": ("stops", " & "),
    "retry_any": ("retries", " | "),
    "retry_all": ("retries", " & "),
    "wait_combine": ("wait_funcs", " + "),
    "wait_chain": ("strategies", ", then "),
}


def in_seconds(seconds: float) -> str:
    """``0.25 s``, ``3.14 s``, ``86400 s``"""
    return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:.0f} s"


def name_of(strategy: Any) -> str:
    """``stop_after_attempt(5)``, ``wait_fixed(1) + wait_random(max=2)``; at most 120 characters."""
    try:
        name = _name(strategy)
    except Exception:  # its attributes are the user's code
        name = type(strategy).__name__
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"


def _name(strategy: Any) -> str:
    kind = type(strategy).__name__
    if kind in _PARTS:
        parts, between = _PARTS[kind]
        return between.join(map(_name, getattr(strategy, parts)))
    if inspect.isroutine(strategy):
        return strategy.__name__
    shown: list[str] = []
    skipped = False
    for parameter in inspect.signature(type(strategy).__init__).parameters.values():
        if parameter.name == "self" or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        # An attribute of its own name, or behind the class's: wait_fixed.wait_fixed, wait_random.wait_random_min
        for attribute in (parameter.name, f"{kind}_{parameter.name}", kind):
            if attribute in getattr(strategy, "__dict__", ()):
                value = getattr(strategy, attribute)
                if value != parameter.default:
                    shown.append(f"{parameter.name}={_value(value)}" if skipped else _value(value))
                    break
        else:
            skipped = True
    return f"{kind.lstrip('_')}({', '.join(shown)})"


def _value(value: Any) -> str:
    if isinstance(value, type):
        return value.__name__
    if isinstance(value, tuple):
        return f"({', '.join(map(_value, value))})"
    if isinstance(value, float):
        return f"{value:g}" if abs(value) < 1e6 else f"{value:.0f}"
    if inspect.isroutine(value):
        return value.__name__
    return repr(value)[:40]


def stopping(stop: Any, state: RetryCallState) -> tuple[bool, str]:
    """Ask a stop, those in it one by one. → whether it says so, and which did, or how far it is

    ``stop_after_attempt(5): 3 of 5``
    """
    import tenacity

    if isinstance(stop, tenacity.stop_any):
        words = []
        for part in stop.stops:
            says, word = stopping(part, state)
            if says:
                return True, word
            words.append(word)
        return False, " | ".join(words)
    if isinstance(stop, tenacity.stop_all):
        words = []
        for part in stop.stops:
            says, word = stopping(part, state)
            if not says:
                return False, word
            words.append(word)
        return True, " & ".join(words)
    name = name_of(stop)
    if isinstance(stop, tenacity.stop_after_attempt):
        name += f": {state.attempt_number} of {stop.max_attempt_number:g}"
    elif isinstance(stop, (tenacity.stop_after_delay, tenacity.stop_before_delay)):
        name += f": {in_seconds(state.seconds_since_start or 0)} of {in_seconds(stop.max_delay)}"
    return bool(stop(state)), name
