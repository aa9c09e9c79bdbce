"""How a queue is set up, and the ranges that every duration and number must keep.

The same ranges are checked again in ``lua/errors.lua``: whoever calls the server by hand meets them too.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict, cast

from psmq.errors import InvalidOption, InvalidQueueName

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["QueueConfig", "QueueSettings", "check_name", "integer", "milliseconds"]

#: longest duration that is taken for meant: ten years, in milliseconds
MAX_MILLISECONDS: Final = 10 * 365 * 86_400_000

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,160}\Z")


def check_name(name: object, what: str = "queue name") -> str:
    """The name of a queue or namespace, or InvalidQueueName."""
    if not isinstance(name, str) or not _NAME.match(name):
        raise InvalidQueueName(name, what)
    return name


def milliseconds(option: str, value: float | timedelta, *, least: int = 0) -> int:
    """Seconds or a timedelta as whole milliseconds, rounded up, ``least`` … ten years; else InvalidOption."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidOption(option, f"must be seconds or a timedelta, not {type(value).__name__}")
    if value != value or value in (math.inf, -math.inf):  # noqa: PLR0124  # isfinite() chokes on an int of 400 digits
        raise InvalidOption(option, f"must be a finite number of seconds, not {value}")
    # Rounded up, and first to the microsecond so that 0.3 does not become 301 ms: never early.
    result = math.ceil(round(value * 1000, 3)) if abs(value) < MAX_MILLISECONDS else math.inf
    if not least <= result <= MAX_MILLISECONDS:
        raise InvalidOption(option, f"must be between {least / 1000:g} s and ten years, not {value!r:.40}")
    return int(result)


def integer(option: str, value: object, least: int, most: int) -> int:
    """A whole number in a range, or InvalidOption."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidOption(option, f"must be a whole number, not {type(value).__name__}")
    if not least <= value <= most:
        raise InvalidOption(option, f"must be between {least} and {most}, not {value!r:.40}")
    return value


class QueueSettings(TypedDict, total=False):
    """What get_queue(), create_queue() and configure() take: fields of QueueConfig, for type checkers and editors."""

    visibility_timeout: float | timedelta
    delay: float | timedelta
    max_size: int
    max_length: int | None
    max_retrievals: int
    ttl: float | timedelta | None
    on_expiry: Literal["drop", "bury"]
    dead_retention: float | timedelta | None
    deduplication_window: float | timedelta
    event_log: int
    clock: Literal["server", "test"]


@dataclass(frozen=True, slots=True)
class QueueConfig:
    """The settings that the server keeps for a queue; durations in seconds (or timedelta).

    Checks itself: a value out of range raises InvalidOption here, before anything is sent.
    """

    #: a message that was got stays hidden this long
    visibility_timeout: float | timedelta = 30.0
    #: pushes without a delay of their own become ready after this
    delay: float | timedelta = 0.0
    #: bytes of data and metadata together
    max_size: int = 1024 * 1024
    #: messages that are not dead; None: as many as the server holds
    max_length: int | None = None
    #: deliveries before a message that is never deleted becomes a dead letter
    max_retrievals: int = 5
    #: life of messages pushed without a ttl of their own; None: no end
    ttl: float | timedelta | None = None
    #: what happens to a message that outlives its ttl
    on_expiry: Literal["drop", "bury"] = "drop"
    #: how long dead letters are kept; None: until somebody deletes them
    dead_retention: float | timedelta | None = None
    #: how long a deduplication_id is remembered
    deduplication_window: float | timedelta = 300.0
    #: events that are kept of what happened to messages (``queue.trace``, ``psmq trace``); 0: there is no log
    event_log: int = 0
    #: "test" lets each caller's own clock decide (see psmq_tasks.testing); fixed when the queue is created
    clock: Literal["server", "test"] = "server"

    def __post_init__(self) -> None:
        self.wire()

    def wire(self, only: frozenset[str] | None = None) -> dict[str, str]:
        """As the server stores it: integer milliseconds, "" for none; ``only`` some fields."""
        return {f.name: _wire(f.name, getattr(self, f.name)) for f in fields(self) if only is None or f.name in only}

    @classmethod
    def from_wire(cls, stored: dict[str, str]) -> QueueConfig:
        """The config in what ``psmq_v1_create_queue`` or ``psmq_v1_info`` answers."""
        values: dict[str, Any] = {}
        for field in fields(cls):
            text = stored.get(field.name)
            if text is None:
                continue
            try:
                value: Any = text
                if field.name in _DURATIONS:
                    value = None if text == "" else int(text) / 1000
                elif field.name in _INTEGERS:
                    value = None if text == "" else int(text)
                _wire(field.name, value)
            except ValueError:  # a stranger wrote it: the server goes by the default, too
                continue
            values[field.name] = value
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``: durations in seconds."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: one.total_seconds() if isinstance(one, timedelta) else one for name, one in values.items()}

    @classmethod
    def check_fields(cls, options: Mapping[str, Any]) -> QueueConfig:
        """A config of these options and the defaults; an unknown option names the known ones."""
        known = [f.name for f in fields(cls)]
        for name in options:
            if name not in known:
                raise InvalidOption(name, f"is no setting of a queue: they are {', '.join(known)}")
        return cls(**options)


_DURATIONS: Final = {"visibility_timeout": 1, "delay": 0, "ttl": 1, "dead_retention": 1, "deduplication_window": 0}
_INTEGERS: Final = {
    "max_size": (1, 512 * 1024 * 1024),
    "max_length": (1, 2**53),
    "max_retrievals": (1, 1_000_000),
    "event_log": (0, 100_000),
}
_OPTIONAL: Final = {"max_length", "ttl", "dead_retention"}
_WORDS: Final = {"on_expiry": ("drop", "bury"), "clock": ("server", "test")}


def _wire(name: str, value: object) -> str:
    if value is None and name in _OPTIONAL:
        return ""
    if name in _DURATIONS:
        return str(milliseconds(name, cast("float", value), least=_DURATIONS[name]))
    if name in _INTEGERS:
        return str(integer(name, value, *_INTEGERS[name]))
    if value not in _WORDS[name]:
        raise InvalidOption(name, f"must be {' or '.join(_WORDS[name])}, not {value!r}")
    return str(value)
