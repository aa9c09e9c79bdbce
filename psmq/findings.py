"""What an examination found, as plain data, and the second count of a queue's books."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from psmq import commands

if TYPE_CHECKING:
    from collections.abc import Generator

    from psmq.commands import Address

__all__ = ["Finding", "audit", "counted"]

Level = Literal["fine", "advice", "problem"]
Move = Literal["departing", "departed", "arriving"]

#: ids that a finding names
_NAMED: Final = 3
_PLACES: Final = ("ready", "suspects", "delayed", "leased", "dead")
_PARTS: Final = ("messages", "state", "reasons", "failures", "expiring", "departing", "arriving", *_PLACES)
#: part → what it says of so many letters and another queue
_MOVES: Final[dict[Move, str]] = {
    "departing": "were to go to queue {other!r}, and are dead here as before",
    "departed": "went to queue {other!r}, and are not to be had there yet",
    "arriving": "came from queue {other!r}, and are not to be had yet",
}
_BUG: Final = "tell us, with this line: it should not be possible"
#: problem of a message → what it means, what to do
_MESSAGES: Final = {
    "nowhere": ("are stored and in no state: nobody will get them", _BUG),
    "twice": ("are in two states at once", _BUG),
    "damaged": ("hold bytes that no psmq wrote", "the next get makes them dead letters: psmq dead list"),
    "state": ("have a state that cannot be read", "the next get makes them dead letters: psmq dead list"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``fix``: the exact thing to do; "" where nothing is to be done."""

    level: Level
    subject: str
    message: str
    fix: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


def counted(number: int, one: str, many: str = "") -> str:
    """``1 queue``, ``2 queues``; ``many`` where an s does not make it."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def audit(address: Address) -> Generator[Any, Any, list[Finding]]:
    """Recount a queue's books, page by page; each page is one moment, so traffic disturbs nothing."""
    totals = yield from totals_of(address)
    subject = f"queue {address.name}"
    found = []
    wrong: dict[tuple[str, str], set[str]] = {}
    for part in _PARTS:
        cursor = "0"
        while True:
            cursor, pairs = yield commands.audit(address, part, cursor)
            for problem, message_id in pairs:
                wrong.setdefault((part, problem), set()).add(message_id)
            if cursor == "0":
                break
    for (part, problem), ids in sorted(wrong.items()):
        named = ", ".join(sorted(ids)[:_NAMED]) + (" …" if len(ids) > _NAMED else "")
        if part == "messages":
            meaning, fix = _MESSAGES[problem]
            found.append(Finding("problem", subject, f"{len(ids)} messages {meaning} ({named})", fix))
        elif part in _PLACES:
            fix = "psmq dead purge ID" if part == "dead" else "the next get makes them dead letters: psmq dead list"
            found.append(Finding("problem", subject, f"{len(ids)} {part} messages have no bytes ({named})", fix))
        else:
            message = f"{part} of {len(ids)} messages that are not there ({named})"
            found.append(Finding("problem", subject, message, _BUG))
    found += yield from moving(address, totals)
    held = sum(totals[place] for place in _PLACES)
    came = sum(totals[counter] for counter in ("sent", "imported", "arrived"))
    went = sum(totals[counter] for counter in ("deleted", "popped", "expired", "purged", "departed", "outlived"))
    if came != went + held:
        message = f"{came} came in, but {went} left and {held} are there: {came - went - held:+d} are not accounted for"
        found.append(Finding("problem", subject, message, "was the server's data restored from a backup, or edited?"))
    if not found:
        message = f"the books are right: {came} came in, {went} left, {held} are there"
        found.append(Finding("fine", subject, message))
    return found


def totals_of(address: Address) -> Generator[Any, Any, dict[str, int]]:
    """How many are where, and came and went, at one moment."""
    _, pairs = yield commands.audit(address, "totals", "0")
    return {name: int(number) for name, number in pairs}


def moving(address: Address, totals: dict[str, int]) -> Generator[Any, Any, list[Finding]]:
    """What is on its way from or to other queues: for a moment, or because a redrive was broken off."""
    found = []
    for move in _MOVES:
        if totals[move]:
            found += yield from _moving(address, move)
    return found


def _moving(address: Address, move: Move) -> Generator[Any, Any, list[Finding]]:
    ids: dict[str, set[str]] = {}
    cursor = ""
    while cursor != "0":
        cursor, rows = yield commands.transfers(address, move, cursor or "0")
        for message_id, _, other in rows:
            ids.setdefault(other, set()).add(message_id)
    fix = f"if no redrive is under way: psmq dead redrive --unfinished -q {address.name}"
    subject = f"queue {address.name}"
    return [
        Finding("advice", subject, f"{len(found)} dead letters {_MOVES[move].format(other=other)}", fix)
        for other, found in sorted(ids.items())
    ]
