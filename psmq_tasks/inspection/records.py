"""What is shown of a message, read from what the server sent; whatever bytes that is, nothing raises.

``as_dict()`` is what ``--json`` prints: plain values, times in ISO 8601, durations in seconds.
"""

from __future__ import annotations

import base64
import re
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from psmq_tasks.history import Failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from psmq import DeadLetter, MessageRecord

__all__ = [
    "DeadTask",
    "Filter",
    "Group",
    "Listing",
    "Mended",
    "QueuedMessage",
    "WaitingRetry",
]

T = TypeVar("T")
R = TypeVar("R")

#: how a worker writes a reason: the error's type, and what it says
_RAISED: Final = re.compile(r"(?:failed at attempt \d+: )?([A-Za-z_][\w.]*)(?::|$)")
_NUMBER: Final = re.compile(r"\d+")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What every message shows."""

    id: str
    queue: str
    #: the task's name; "" when it is no call of a task
    task: str
    #: repr of the arguments, cut by the sender
    args: str
    #: host:pid
    sender: str
    #: None: its id is none of ours
    sent: datetime | None
    #: deliveries so far
    attempts: int
    #: None: the queue's
    max_attempts: int | None
    priority: int
    expires: datetime | None
    metadata: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {field.name: plain(getattr(self, field.name)) for field in fields(self)}


@dataclass(frozen=True, slots=True)
class QueuedMessage(_Seen):
    """A message where it is now."""

    #: ready, delayed, leased or dead
    state: str
    #: delayed: becomes ready; leased: its lease ends; None otherwise, and where a get gave it
    due: datetime | None
    data: bytes

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``: ``data`` is its text, or null and ``data_base64`` where it is none."""
        values = super(QueuedMessage, self).as_dict()
        return values | data_as_dict(self.data)


@dataclass(frozen=True, slots=True)
class WaitingRetry(_Seen):
    """A message that waits for another attempt."""

    due: datetime
    #: since when no worker that got it has known its task; then none of its deliveries count
    unknown_since: datetime | None
    #: what went wrong so far, oldest first
    failures: tuple[Failure, ...]


@dataclass(frozen=True, slots=True)
class DeadTask(_Seen):
    """A dead letter."""

    buried: datetime
    reason: str
    #: its attempts, oldest first, as far as the server keeps them (64 KiB)
    failures: tuple[Failure, ...]
    #: bytes; None: not looked at
    size: int | None
    #: its data; None: not looked at
    data: bytes | None = None

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``, without the data."""
        values = super(DeadTask, self).as_dict()
        del values["data"]
        return values

    @property
    def error(self) -> str:
        """Its kind of error."""
        return kind_of(self.reason)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which dead letters are meant; None: any."""

    queue: str | None = None
    #: shell pattern; without ``:`` it is compared with the part behind it too: ``greet`` is ``hello:greet``
    task: str | None = None
    #: part of the reason, or of the last error's type or message; upper and lower case are the same
    error: str | None = None
    #: part of the reason alone, the same
    reason: str | None = None
    #: buried at this time or later; before this time
    since: datetime | None = None
    until: datetime | None = None

    @property
    def is_empty(self) -> bool:
        """Whether every letter of the queue (or of all) is meant."""
        return all(part is None for part in (self.task, self.error, self.reason, self.since, self.until))

    def fits(self, letter: DeadLetter) -> bool:
        """Whether this letter is meant. The cheap questions come first: there may be very many letters."""
        if self.queue is not None and letter.message.queue_name != self.queue:
            return False
        if self.since is not None or self.until is not None:
            buried = buried_of(letter)
            if (self.since is not None and buried < self.since) or self.is_past(buried):
                return False
        if self.reason is not None and self.reason.casefold() not in letter.reason.casefold():
            return False
        if self.task is not None:
            task = task_of(letter)
            if not (fnmatchcase(task, self.task) or fnmatchcase(task.rpartition(":")[2], self.task)):
                return False
        if self.error is not None:
            wanted = self.error.casefold()
            if wanted in letter.reason.casefold():
                return True
            attempts = (words for words in map(Failure.in_short, reversed(letter.failures)) if words[0] != "edited")
            _, last = next(attempts, ("", ""))
            return wanted in last.casefold()
        return True

    def is_past(self, buried: datetime) -> bool:
        """Whether what was buried then or later cannot fit."""
        return self.until is not None and buried >= self.until

    @property
    def first_ms(self) -> int | None:
        """Milliseconds since 1970 before which nothing fits; None: no such time."""
        return None if self.since is None else max(int(self.since.timestamp() * 1000) - 1, 0)


ANY: Final = Filter()


@dataclass(frozen=True, slots=True)
class Group:
    """Dead letters that have something in common."""

    key: str
    count: int
    newest: datetime
    #: the newest of them
    example: DeadTask

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "key": self.key,
            "count": self.count,
            "newest": plain(self.newest),
            "example": {"id": self.example.id, "queue": self.example.queue, "reason": self.example.reason},
        }


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """The newest that fit, oldest first."""

    items: list[T]
    #: how many fit in all
    total: int


@dataclass(frozen=True, slots=True)
class Mended:
    """What a redrive or purge did."""

    done: int
    #: ids that were gone when it came to them: someone was faster
    gone: tuple[str, ...] = ()
    #: where what was done can be seen
    queues: tuple[str, ...] = ()
    #: id → why it is dead as before
    stayed: dict[str, str] = field(default_factory=dict)


# --- from what the server sent


def queued_message(record: MessageRecord, state: str) -> QueuedMessage:
    """A record of a listing, or of a get, which does not tell when the lease ends."""
    due = _time(record.score) if record.score and state in ("delayed", "leased") else None
    return QueuedMessage(**_seen(record, ()), state=state, due=due, data=data_of(record))


def waiting_retry(record: MessageRecord, history: tuple[bytes, ...]) -> WaitingRetry:
    """A delayed record with its failure records."""
    failures = tuple(map(Failure.unpack, history))
    since = record.extras_dict.get("k", 0)
    due = _time(record.score) or _EPOCH
    unknown = _time(since) if since else None
    return WaitingRetry(**_seen(record, failures), due=due, unknown_since=unknown, failures=failures)


def dead_task(letter: DeadLetter, *, size: bool = False) -> DeadTask:
    """A dead letter. ``size``: it was fetched with its data."""
    failures = tuple(map(Failure.unpack, letter.failures))
    return DeadTask(
        **_seen(letter.message, failures),
        buried=buried_of(letter),
        reason=letter.reason,
        failures=failures,
        size=len(data_of(letter.message)) if size else None,
        data=data_of(letter.message) if size else None,
    )


def buried_of(letter: DeadLetter) -> datetime:
    """When it was buried, which is kept in milliseconds: within the one it was sent in, not before that."""
    return max(letter.buried, _or(lambda: letter.message.sent, letter.buried))


def task_of(letter: DeadLetter) -> str:
    """The task's name, as its sender noted it, or else as its worker did; "": neither."""
    named = _or(lambda: letter.message.metadata, {}).get("task")
    if named:
        return named
    failures = map(Failure.unpack, reversed(letter.failures))
    return next((failure.task for failure in failures if failure.task), "")


def _seen(record: MessageRecord, failures: tuple[Failure, ...]) -> dict[str, Any]:
    metadata = _or(lambda: record.metadata, {})
    named = next((failure.task for failure in reversed(failures) if failure.task), "")
    return {
        "id": record.message_id,
        "queue": record.queue_name,
        "task": metadata.get("task") or named,
        "args": metadata.get("args", ""),
        "sender": metadata.get("sender", ""),
        "sent": _or(lambda: record.sent, None),
        "attempts": record.retrieval_count,
        "max_attempts": _or(lambda: record.max_retrievals, None),
        "priority": _or(lambda: record.priority, 0),
        "expires": _or(lambda: record.expires, None),
        "metadata": metadata,
    }


def data_of(record: MessageRecord) -> bytes:
    """Its bytes; what is not stored as ours is, as a whole."""
    return _or(lambda: record.data, record.value)


def _or(read: Callable[[], T], otherwise: R) -> T | R:
    """What was stored by someone else may not be readable; it is shown as far as it is."""
    try:
        return read()
    except (ValueError, LookupError, OverflowError):
        return otherwise


def _time(milliseconds: int) -> datetime | None:
    return _or(lambda: _EPOCH + timedelta(milliseconds=milliseconds), None)


# --- to what people and programs read


def kind_of(reason: str) -> str:
    """The type of the error in a reason; where there is none, its words with numbers left out."""
    raised = _RAISED.match(reason)
    return raised[1] if raised else _NUMBER.sub("N", reason.partition(":")[0])


def text_of(data: bytes) -> str | None:
    """Data as text, if it is text."""
    text = _or(data.decode, None)
    return text if text is not None and all(c.isprintable() or c in "\n\r\t" for c in text) else None


def data_as_dict(data: bytes) -> dict[str, str | None]:
    """For ``--json``: ``data`` is its text, or null and ``data_base64`` where it is none."""
    text = text_of(data)
    return {"data": text, "data_base64": None if text is not None else base64.b64encode(data).decode()}


def plain(value: Any) -> Any:
    """For JSON: times in ISO 8601, failure records with times as times."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Failure):
        return {**asdict(value), "started": _moment(value.started), "ended": _moment(value.ended)}
    if isinstance(value, (tuple, list)):
        return [plain(one) for one in value]
    if isinstance(value, timedelta):
        return value.total_seconds()
    return value


def _moment(seconds: float) -> str | None:
    return _or(lambda: datetime.fromtimestamp(seconds, UTC).isoformat(), None) if seconds else None
