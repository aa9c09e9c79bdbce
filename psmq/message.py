"""What a queue holds, as plain data: the message record, the dead letter, the state of a queue.

A record keeps what the server sent and reads its parts when asked: a worker that takes thousands of messages
a second pays for what it looks at.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from psmq.config import QueueConfig  # noqa: TC001  # typing.get_type_hints() looks here
from psmq.durability import Durability  # noqa: TC001  # typing.get_type_hints() looks here
from psmq.errors import InvalidOption

__all__ = ["DeadLetter", "MessageRecord", "QueueInfo", "id_random", "id_time", "is_id"]

#: digits of message ids: sorted like their values, and none that is misread for another
ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
#: an id is 11 digits of microseconds, then 11 digits that the sender drew
ID_TIME_LENGTH: Final = 11
ID_LENGTH: Final = 22

_DIGITS: Final = {digit: value for value, digit in enumerate(ALPHABET)}
_FIELDS: Final = re.compile(rb"([a-z])(-?\d+)")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
#: ms: the end of the year 9999, which is as far as datetime goes
_LATEST: Final = 253_402_300_799_999
#: a place in the ready order is -priority * 2^42 + the millisecond of becoming ready
_PLACE: Final = 2**42


def id_time(message_id: str) -> datetime:
    """When the message with this id was pushed (server's clock, to the microsecond)."""
    microseconds = 0
    for digit in message_id[:ID_TIME_LENGTH]:
        microseconds = microseconds * 32 + _DIGITS.get(digit, 0)
    return _EPOCH + timedelta(microseconds=microseconds)


def id_random(message_id: str) -> str:
    """The part of an id that the sender drew; signatures cover it."""
    return message_id[ID_TIME_LENGTH:]


def instant(milliseconds: int) -> datetime:
    """A server time as an aware datetime."""
    return _EPOCH + timedelta(milliseconds=min(max(milliseconds, 0), _LATEST))


def fields_of(text: bytes) -> dict[str, int]:
    """``b"p5x170"`` as ``{"p": 5, "x": 170}``: the compact options of heads and states."""
    return {key.decode(): int(number) for key, number in _FIELDS.findall(text)}


def is_id(text: str) -> bool:
    """Whether it may be an id of ours: what a stranger wrote among them is never delivered."""
    return len(text) == ID_LENGTH and text.isascii() and text.isalnum()


class MessageRecord(NamedTuple):
    """One message as one call saw it.

    ``value`` is the stored value: ``<options>;<metadata><data>``; ``extras`` the compact options of its state.
    """

    message_id: str
    value: bytes
    queue_name: str
    #: token of this delivery; "" when it was not delivered to the caller (peek, pop, listings)
    receipt: str = ""
    #: deliveries so far, this one included
    retrieval_count: int = 0
    first_ms: int = 0
    extras: bytes = b""
    #: place in its order: ready place, due time, end of the lease or time of burial, by the state it was read in
    score: int = 0

    @property
    def head(self) -> dict[str, int]:
        """The message's own options: p priority, m max_retrievals, x expires, r result_ttl (ms), n metadata length."""
        end = self.value.find(b";")
        return fields_of(self.value[:end]) if end > 0 else {}

    @property
    def data(self) -> bytes:
        """The message's bytes."""
        value = self.value
        if value[:1] == b";":
            return value[1:]
        end = value.index(b";")
        mark = value.find(b"n", 0, end)
        if mark < 0:
            return value[end + 1 :]
        try:
            metadata = int(value[mark + 1 : end])  # the last of the options, where we wrote them
        except ValueError:
            metadata = fields_of(value[:end]).get("n", 0)
        return value[end + 1 + metadata :]

    @property
    def metadata(self) -> dict[str, str]:
        """What the sender noted beside the data."""
        length = self.head.get("n", 0)
        if not length:
            return {}
        start = self.value.index(b";") + 1
        return unpack_metadata(self.value[start : start + length])

    @property
    def sent(self) -> datetime:
        """When it was pushed."""
        return id_time(self.message_id)

    @property
    def first_retrieved(self) -> datetime | None:
        """When it was first delivered; None: never."""
        # Kept in milliseconds: within the one it was sent in, not before that.
        return max(instant(self.first_ms), self.sent) if self.first_ms else None

    @property
    def priority(self) -> int:
        """-100 … 100, higher first."""
        return self.head.get("p", 0)

    @property
    def expires(self) -> datetime | None:
        """When its ttl ends; None: never."""
        # Not the head's: a redriven message has lost its expiry. Who has a ttl has a state entry that says so.
        expires = fields_of(self.extras).get("x")
        return None if expires is None else instant(expires)

    @property
    def extras_dict(self) -> dict[str, int]:
        """Its state: o later limit, u uncounted returns in a row, c crashes in a row, k unknown since (ms) …"""
        return fields_of(self.extras)

    @property
    def max_retrievals(self) -> int | None:
        """Its own limit of deliveries; None: the queue's."""
        extras = fields_of(self.extras)
        return extras.get("o") or extras.get("m") or self.head.get("m")


def pack_metadata(metadata: Mapping[str, str]) -> bytes:
    """``key NUL value NUL …`` in UTF-8; InvalidOption for what is not str, holds NUL or is no text."""
    if type(metadata) is dict or isinstance(metadata, Mapping):  # the first is told in a tenth of the time
        words = [word for pair in metadata.items() for word in pair]
        try:
            text = "\0".join([*words, ""])
            if text.count("\0") == len(words):
                return text.encode()
        except (TypeError, UnicodeEncodeError):
            pass  # it says below what is wrong
    raise InvalidOption("metadata", "must map str to str, without NUL characters and lone surrogates")


def unpack_metadata(packed: bytes) -> dict[str, str]:
    """The inverse of pack_metadata; what is not UTF-8 shows as replacement characters."""
    words = packed.decode("utf-8", "replace").split("\0")
    return dict(zip(words[0:-1:2], words[1::2], strict=False))


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message out of circulation: why, since when, and what went wrong before."""

    message: MessageRecord
    reason: str
    buried: datetime
    #: the failure records of its attempts, oldest first, as they were handed in (bounded by the server)
    failures: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """A queue at one moment; counts are those that the next get would see."""

    name: str
    ready: int
    delayed: int
    leased: int
    dead: int
    paused: bool
    #: clients that asked for messages in the last minute
    consumers: int
    #: seconds the oldest ready message has been ready; None: there is none
    oldest_ready: float | None
    #: seconds until something becomes ready by itself; None: nothing will
    next_due: float | None
    #: since creation: sent received deleted popped released buried redriven expired purged …
    counters: dict[str, int]
    config: QueueConfig
    #: what its server gives; None: nobody asked
    durability: Durability | None = None
    #: by the server's clock; None: it is not paused
    paused_since: datetime | None = None

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``: the same with plain values."""
        return {
            "name": self.name,
            "ready": self.ready,
            "delayed": self.delayed,
            "leased": self.leased,
            "dead": self.dead,
            "paused": self.paused,
            "paused_since": self.paused_since and self.paused_since.isoformat(),
            "consumers": self.consumers,
            "oldest_ready": self.oldest_ready,
            "next_due": self.next_due,
            "counters": dict(self.counters),
            "config": self.config.as_dict(),
            "durability": self.durability and self.durability.as_dict(),
        }
