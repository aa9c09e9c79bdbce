"""How a task is sent and run, as one frozen value that checks itself where it is written."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Final, TypedDict

from psmq.config import check_name, integer, milliseconds
from psmq.errors import InvalidOption
from psmq_tasks.errors import MissingCode
from psmq_tasks.retry import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    from tenacity.retry import RetryBaseT
    from tenacity.stop import StopBaseT
    from tenacity.wait import WaitBaseT

    from psmq_tasks.payload import Codec

__all__ = ["SendOptions", "TaskOptions", "TaskSettings"]


class TaskSettings(TypedDict, total=False):
    """What ``@app.task(…)`` takes, besides ``name``."""

    queue: str | None
    stop: StopBaseT | None
    wait: WaitBaseT | None
    retry: RetryBaseT | None
    soft_time_limit: float | timedelta | None
    time_limit: float | timedelta | None
    result_ttl: float | timedelta
    priority: int
    delay: float | timedelta | None
    ttl: float | timedelta | None
    codec: Codec
    unsigned: bool
    show_arguments: bool


class SendOptions(TypedDict, total=False):
    """What ``task.using(…)`` takes."""

    queue: str | None
    soft_time_limit: float | timedelta | None
    time_limit: float | timedelta | None
    result_ttl: float | timedelta
    priority: int
    delay: float | timedelta | None
    ttl: float | timedelta | None
    deduplication_id: str | None


_NO_POLICY: Final = RetryPolicy()


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """Durations in seconds (timedelta is taken too)."""

    #: None: the app's queue
    queue: str | None = None
    policy: RetryPolicy = _NO_POLICY
    #: SoftTimeLimitExceeded is raised in the task
    soft_time_limit: float | None = None
    #: the task's process is ended
    time_limit: float | None = None
    #: how long the result can be had after the task ended; 0: it is not kept
    result_ttl: float = 3600.0
    #: -100 … 100, higher first
    priority: int = 0
    #: None: the queue's
    delay: float | None = None
    #: a call that no worker took by then is dropped (or buried: the queue's on_expiry); None: the queue's
    ttl: float | None = None
    codec: Codec = "pickle"
    #: takes calls in JSON that nobody signed: anyone who reaches the queue may run it, with arguments of their choice
    unsigned: bool = False
    #: a bounded repr of the arguments goes into the message's metadata, for people to see
    show_arguments: bool = True
    #: of one call: the queue drops another with the same id within its deduplication_window
    deduplication_id: str | None = None
    #: deliveries after which the server itself buries the message: what ``stop`` allows; None: the queue's
    max_retrievals: int | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.queue is not None:
            check_name(self.queue)
        for name, least in _DURATIONS.items():
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, milliseconds(name, value, least=least) / 1000)
        if self.soft_time_limit is not None and self.time_limit is not None and self.soft_time_limit >= self.time_limit:
            raise InvalidOption(
                "soft_time_limit", f"({self.soft_time_limit:g} s) must be below time_limit ({self.time_limit:g} s)"
            )
        integer("priority", self.priority, -100, 100)
        if self.codec not in {"pickle", "json"}:
            raise InvalidOption("codec", f"must be 'pickle' or 'json', not {self.codec!r}")
        for name in ("unsigned", "show_arguments"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidOption(name, f"must be True or False, not {getattr(self, name)!r}")
        object.__setattr__(self, "max_retrievals", self.policy.attempts)

    def __reduce__(self) -> tuple[Any, ...]:
        # Only what differs from the defaults: it rides on every call by value, and an option added later is missed
        # by an older worker only where it is used.
        mine = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        return _restore, ({name: value for name, value in mine.items() if value != getattr(_DEFAULTS, name)},)

    @classmethod
    def of(cls, given: Mapping[str, Any], base: TaskOptions | None = None) -> TaskOptions:
        """The base changed by what ``@app.task`` was given; an unknown name says which was meant."""
        refuse_unknown(given, TaskSettings, "a task")
        options = dict(given)
        base = base or _DEFAULTS
        policy = {name: options.pop(name) for name in ("stop", "wait", "retry") if name in options}
        if policy:
            options["policy"] = replace(base.policy, **policy)
        return replace(base, **options)

    def using(self, changes: Mapping[str, Any]) -> TaskOptions:
        """Changed for some calls; an unknown name says which was meant."""
        refuse_unknown(changes, SendOptions, "using()")
        return replace(self, **changes)

    def headers(self, changes: Mapping[str, Any]) -> dict[str, str]:
        """Those changes that the worker has to know, because it would go by its own task otherwise."""
        return {
            header: "" if getattr(self, name) is None else repr(getattr(self, name))
            for name, header in _HEADERS.items()
            if name in changes
        }

    def limits(self, headers: Mapping[str, str]) -> tuple[float | None, float | None]:
        """Soft and hard limit of a call with these headers."""
        if not headers:
            return self.soft_time_limit, self.time_limit
        soft, hard = (
            (float(headers[header]) if headers[header] else None) if header in headers else getattr(self, name)
            for name, header in _HEADERS.items()
        )
        return soft, hard


_DURATIONS: Final = {"soft_time_limit": 1, "time_limit": 1, "result_ttl": 0, "delay": 0, "ttl": 1}
_HEADERS: Final = {"soft_time_limit": "soft", "time_limit": "hard"}
_DEFAULTS: Final = TaskOptions()


def _restore(given: dict[str, Any]) -> TaskOptions:
    known = {f.name for f in fields(TaskOptions) if f.init}
    if given.keys() - known:
        raise MissingCode(f"the task has options that this psmq does not know: {', '.join(given.keys() - known)}")
    return TaskOptions(**given)


def refuse_unknown(given: Mapping[str, Any], known: type, whose: str) -> None:
    """InvalidOption for the first name that the TypedDict ``known`` does not have."""
    names = list(known.__annotations__)
    for name in given:
        if name not in names:
            import difflib

            close = difflib.get_close_matches(name, names, 1)
            meant = f"did you mean {close[0]!r}? " if close else ""
            raise InvalidOption(name, f"is no option of {whose}: {meant}They are {', '.join(names)}")
