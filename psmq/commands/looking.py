"""Looking: what a queue holds, counts and did; nothing is changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

from psmq import errors, stats
from psmq.commands.request import MOST, STATES, Address, Command, Plain, State, checked_ids, fields, keyed
from psmq.config import QueueConfig, integer
from psmq.message import DeadLetter, MessageRecord, QueueInfo, instant
from psmq.traces import Trace, read_events

if TYPE_CHECKING:
    from collections.abc import Sequence


def peek(address: Address) -> Command[MessageRecord | None]:
    """The message that the next get would give."""
    return Command("peek", address, (), lambda reply: _record(address, reply, 0) if reply else None, numbered=False)


def messages(
    address: Address, state: State, limit: int, after: MessageRecord | None, *, data: bool
) -> Command[list[MessageRecord]]:
    """A page of one state in its order, behind ``after``; short when the bodies are large."""
    if state not in STATES:
        raise errors.InvalidOption("state", f"must be one of {', '.join(STATES)}, not {state!r}")
    args = (state, integer("limit", limit, 1, MOST), _cursor(after), int(data))
    return Command(
        "messages",
        address,
        args,
        lambda reply: [_record(address, reply, at) for at in range(0, len(reply), 6)],
        numbered=False,
    )


_HISTORIES: Final[dict[bool | str, str]] = {False: "-", "short": "s"}


def dead_letters(
    address: Address,
    limit: int,
    after: DeadLetter | None,
    ids: Sequence[str],
    *,
    data: bool,
    history: bool | Literal["short"] = True,
) -> Command[list[DeadLetter]]:
    """A page of dead letters, oldest burial first, or those with the given ids. Without a whole history: no data."""
    cursor = _cursor(after.message if after else None)
    args: tuple[bytes | str | int, ...] = (
        integer("limit", limit, 1, MOST),
        cursor,
        _HISTORIES.get(history, int(data)),
        *checked_ids(ids),
    )

    def parse(reply: Any) -> list[DeadLetter]:
        return [
            DeadLetter(
                _record(address, reply, at),
                reply[at + 6].decode("utf-8", "replace"),
                instant(int(reply[at + 1])),
                _netstrings(reply[at + 7]),
            )
            for at in range(0, len(reply), 8)
        ]

    return Command("dead_letters", address, args, parse, numbered=False)


def failures(address: Address, ids: Sequence[str]) -> Plain[list[tuple[bytes, ...]]]:
    """The failure records of messages in any state, for each id; none where there are none."""
    return keyed(("HMGET", address.failures, *ids), lambda reply: [_netstrings(text or b"") for text in reply])


def info(address: Address) -> Command[QueueInfo]:
    """Counts, ages, counters and settings of a queue."""

    def parse(reply: Any) -> QueueInfo:
        stored = fields(reply[7:])
        return QueueInfo(
            name=address.name,
            ready=reply[0],
            delayed=reply[1],
            leased=reply[2],
            dead=reply[3],
            paused="paused" in stored,
            consumers=reply[4],
            oldest_ready=None if reply[5] < 0 else reply[5] / 1000,
            next_due=None if reply[6] < 0 else reply[6] / 1000,
            counters={name: _count(stored.get(name, "0")) for name in COUNTERS},
            config=QueueConfig.from_wire(stored),
            paused_since=instant(int(stored["paused"])) if stored.get("paused", "").isdigit() else None,
        )

    return Command("info", address, (), parse, numbered=False)


def stats_of(address: Address, minutes: int) -> Command[stats.QueueStats]:
    """What was done in the minute that runs and the whole ones before it."""
    wanted = integer("minutes", minutes, 1, stats.MOST_MINUTES)
    return Command("stats", address, (wanted,), lambda reply: stats.read(address.name, wanted, reply), numbered=False)


def trace(address: Address, message_id: str, after: int) -> Command[Trace]:
    """One message, wherever it is, and what the log says of it behind the event of this number."""
    if not isinstance(message_id, str) or not message_id:
        raise errors.InvalidOption("message_id", f"must be an id, or the end of one, not {message_id!r:.40}")

    def parse(reply: Any) -> Trace:
        state = reply[0].decode()
        record = MessageRecord(message_id, reply[5], address.name, "", reply[2], int(reply[3]), reply[4], int(reply[1]))
        happened = [
            event
            for at in range(13, len(reply), 2)
            for event in read_events(int(reply[at]), reply[at + 1].decode("utf-8", "replace"))
            if event.message_id.endswith(message_id)
        ]
        return Trace(
            state=state,
            record=record if state else None,
            reason=reply[6].decode("utf-8", "replace"),
            failures=_netstrings(reply[7]),
            result_kept=None if reply[8] < 0 else reply[8] / 1000,
            server_result=reply[9],
            event_log=reply[10],
            events=tuple(happened),
            after=int(reply[11]),
            more=reply[12] == 1,
        )

    args = (message_id, integer("after", after, 0, 2**53))
    return Command("trace", address, args, parse, numbered=False)


def audit(address: Address, part: str, cursor: str) -> Command[tuple[str, list[tuple[str, Any]]]]:
    """One page of a recount. → the next cursor, "0" at the end; (problem, id) …, or (name, number) … of the totals"""

    def parse(reply: Any) -> tuple[str, list[tuple[str, Any]]]:
        words = [word.decode("utf-8", "replace") if isinstance(word, bytes) else word for word in reply]
        return words[0], list(zip(words[1::2], words[2::2], strict=True))

    return Command("audit", address, (part, cursor), parse, numbered=False)


#: fields of the queue hash that count things
COUNTERS: Final = (
    "sent",
    "received",
    "deleted",
    "popped",
    "released",
    "uncounted",
    "buried",
    "redriven",
    "expired",
    "purged",
    "imported",
    "departed",
    "arrived",
    "outlived",
)


def _record(address: Address, reply: Sequence[Any], at: int) -> MessageRecord:
    return MessageRecord(
        reply[at].decode("utf-8", "replace"),  # a stranger may have written it
        reply[at + 5],
        address.name,
        "",
        reply[at + 2],
        int(reply[at + 3]),
        reply[at + 4],
        int(reply[at + 1]),
    )


def _cursor(after: MessageRecord | None) -> str:
    return "" if after is None else f"{after.score} {after.message_id}"


def _netstrings(text: bytes) -> tuple[bytes, ...]:
    """``b"3:abc,"`` … as the records; what is damaged ends the list."""
    records, at = [], 0
    while at < len(text):
        colon = text.find(b":", at, at + 10)
        if colon < 0 or not text[at:colon].isdigit():
            break
        end = colon + 1 + int(text[at:colon])
        records.append(text[colon + 1 : end])
        at = end + 1
    return tuple(records)


def _count(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0
