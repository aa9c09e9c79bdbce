"""Where one message is and what happened to it, as plain data: the server's answer (``lua/tracing.lua``), read."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime  # noqa: TC003  # typing.get_type_hints() looks here
from typing import Any

from psmq.message import MessageRecord, instant, unpack_metadata

__all__ = ["Event", "Trace", "read_events"]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a message, as the queue's log tells it."""

    #: of the last event of the same call; it grows
    number: int
    time: datetime
    #: pushed delivered extended released ended deleted popped buried redriven hastened amended adopted expired purged
    #: departed arrived outlived
    verb: str
    message_id: str
    #: who asked for it, ``host:pid``; "" for what has no sender of its own
    client: str
    #: pushed: its delay; released: until it is ready; extended: until the lease ends; None otherwise (seconds)
    seconds: float | None = None
    #: delivered, popped: which delivery it is; 0 otherwise
    attempt: int = 0
    #: released: counted, uncounted or lost (with its worker), and why; buried: why; departed, arrived: the other queue
    how: str = ""
    reason: str = ""
    #: pushed: the beginning of its metadata
    metadata: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Trace:
    """One message as one look saw it."""

    #: ready, delayed, leased or dead; "" : in none of them, finished or never there
    state: str
    #: as in listings, without its data; what is finished has none
    record: MessageRecord | None
    #: dead: why
    reason: str
    #: what its holders noted of attempts that failed
    failures: tuple[bytes, ...]
    #: seconds for which a result is still kept; None: there is none
    result_kept: float | None
    #: the result where the server itself wrote it: ``b"!lost …"``; b"" otherwise
    server_result: bytes
    #: how many events the queue keeps; 0: it has no log
    event_log: int
    events: tuple[Event, ...]
    #: number of the event behind which the next look may go on; ``more``: and must, to see all there is
    after: int
    more: bool


def read_events(number: int, text: str) -> list[Event]:
    """An entry of the log; what is not as we write it is left out."""
    head, *lines = text.split("\n")
    milliseconds, _, client = head.partition(" ")
    if not _is_number(milliseconds):
        return []
    found = []
    for line in lines:
        verb, _, rest = line.partition(" ")
        ids, _, details = rest.partition(" ")
        told = _details(verb, details)
        when, who = instant(int(milliseconds)), client.rpartition(":")[0] or client
        found += [Event(number, when, verb, message_id, who, **told) for message_id in ids.split(",")]
    return found


def _details(verb: str, details: str) -> dict[str, Any]:
    first, _, rest = details.partition(" ")
    if verb in ("buried", "departed", "arrived"):
        return {"reason": details}
    if not _is_number(first):
        return {}
    if verb == "pushed":
        return {"seconds": int(first) / 1000, "metadata": unpack_metadata(rest.encode())}
    if verb == "extended":
        return {"seconds": int(first) / 1000}
    if verb == "released":
        how, _, reason = rest.partition(" ")
        return {"seconds": int(first) / 1000, "how": how, "reason": reason}
    return {"attempt": int(first)} if verb in ("delivered", "popped") else {}


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 17
