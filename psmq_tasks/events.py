"""A bus for those who watch: metrics, logging, tests. Watching never changes what happens."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, TypeVar

from psmq.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["EVENTS", "Events"]

#: every event and the fields its subscribers are called with
EVENTS: Final[dict[str, tuple[str, ...]]] = {
    "before_send": ("app", "calls"),  # in the sender, before the calls are serialized
    "after_send": ("app", "handles"),  # the server has them
    "before_task": ("app", "message"),  # message: what current_message() gives in the task
    "after_task": ("app", "message", "outcome", "seconds"),
    "retry": ("app", "message", "outcome", "delay"),  # it will run again
    "dead": ("app", "message", "outcome", "reason"),  # it went to the dead letters
    "lease_lost": ("app", "message"),  # it ends, and another worker may have run it: what became of it here is refused
    "worker_start": ("app", "worker"),  # in each child process, before its first task
    "worker_stop": ("app", "worker"),
}

_F = TypeVar("_F", bound="Callable[..., object]")
_log = logging.getLogger("psmq_tasks")


class Events:
    """Subscribers by event name. A subscriber that raises is logged, and the rest are still called."""

    __slots__ = ("_subscribers",)

    def __init__(self) -> None:
        self._subscribers: dict[str, tuple[Callable[..., object], ...]] = {}

    def subscribe(self, name: str) -> Callable[[_F], _F]:
        """``@events.subscribe("after_task")``: the function is called with the event's fields by keyword."""
        if name not in EVENTS:
            raise InvalidOption("event", f"{name!r} is unknown: there are {', '.join(EVENTS)}")

        def add(function: _F) -> _F:
            # A new tuple: emit() in another thread goes on with the one it has.
            self._subscribers[name] = (*self._subscribers.get(name, ()), function)
            return function

        return add

    def unsubscribe(self, name: str, function: Callable[..., object]) -> None:
        """No more calls of this function; unknown ones are ignored."""
        self._subscribers[name] = tuple(known for known in self._subscribers.get(name, ()) if known is not function)

    def wanted(self, name: str) -> bool:
        """Whether anyone listens: spares the sender the making of the fields."""
        return bool(self._subscribers.get(name))

    def emit(self, name: str, **fields: Any) -> None:
        """Calls every subscriber in turn, in the caller's thread."""
        for function in self._subscribers.get(name, ()):
            try:
                function(**fields)
            except (Exception, SystemExit):
                _log.exception("a subscriber of %s failed: %r", name, function)
