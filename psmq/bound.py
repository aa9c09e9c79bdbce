"""What both bound messages, of threads and of asyncio, show of their record; and what a verb takes as a message."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from psmq.errors import DeserializationError, InvalidOption, NotLeased
from psmq.message import MessageRecord

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["Held", "MessageFields", "lease_of"]


class Reader(Protocol):
    """What a message needs of its queue to show its data."""

    def _deserialized(self, record: MessageRecord) -> Any: ...


class MessageFields:
    """What both bound messages show of their record."""

    __slots__ = ("_data", "_queue", "record")
    _data: Any

    def __init__(self, record: MessageRecord, queue: Reader) -> None:
        self.record = record
        self._queue = queue

    @property
    def message_id(self) -> str:
        """Unique and sortable by the time of the push."""
        return self.record.message_id

    @property
    def receipt(self) -> str:
        """Token of this delivery; "" from peek, pop and listings."""
        return self.record.receipt

    @property
    def queue_name(self) -> str:
        """The queue it is in."""
        return self.record.queue_name

    @property
    def retrieval_count(self) -> int:
        """Deliveries so far; peek does not count."""
        return self.record.retrieval_count

    @property
    def data(self) -> Any:
        """The data, through the queue's deserializer; DeserializationError leaves the lease and receipt valid."""
        try:
            return self._data
        except AttributeError:
            self._data = self._queue._deserialized(self.record)
            return self._data

    @property
    def sent(self) -> datetime:
        """When it was pushed (server's clock, UTC)."""
        return self.record.sent

    @property
    def first_retrieved(self) -> datetime | None:
        """When it was first delivered; None: never."""
        return self.record.first_retrieved

    @property
    def metadata(self) -> dict[str, str]:
        """What the sender noted beside the data."""
        return self.record.metadata

    @property
    def priority(self) -> int:
        """-100 … 100, higher first."""
        return self.record.priority

    @property
    def expires(self) -> datetime | None:
        """When its ttl ends; None: never."""
        return self.record.expires

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self.record == other.record

    def __hash__(self) -> int:
        return hash(self.record.message_id)

    def __repr__(self) -> str:
        try:
            shown = repr(self.data)
        except DeserializationError:
            shown = "<cannot be deserialized>"
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        return (
            f"{type(self).__name__}({self.record.message_id!r}, data={shown}, queue_name={self.record.queue_name!r}, "
            f"retrieval_count={self.record.retrieval_count}, sent={self.sent.isoformat()!r})"
        )


Held = MessageFields | MessageRecord | tuple[str, str]


def lease_of(message: Held) -> tuple[str, str]:
    """(message_id, receipt) of what a verb was given; NotLeased when there is no receipt."""
    if isinstance(message, MessageFields):
        message = message.record
    if isinstance(message, MessageRecord):
        pair = (message.message_id, message.receipt)
    else:
        pair = message
        if not (isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
            raise InvalidOption("message", f"must be a message or (message_id, receipt), not {message!r:.60}")
    if not pair[1]:
        raise NotLeased(pair[0])
    return pair
