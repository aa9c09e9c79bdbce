"""Mending: dead letters and waiting messages are sent again, changed, brought back or removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psmq import errors
from psmq.commands.request import STATES, Address, Command, State, as_bytes, bounded_reason, checked_ids, optional_bytes
from psmq.message import DeadLetter, pack_metadata

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def redrive(address: Address, ids: Sequence[str], *, keep_count: bool) -> Command[int]:
    """Make dead letters ready again; MessageNotFound if one of them is not dead, and nothing was done."""
    return Command("redrive", address, ("1" if keep_count else "", *checked_ids(ids)), int)


def purge(address: Address, state: State, ids: Sequence[str] = ()) -> Command[int]:
    """Delete up to 200 messages of one state, or the dead letters with these ids."""
    if state not in STATES:
        raise errors.InvalidOption("states", f"must be among {', '.join(STATES)}, not {state!r}")
    return Command("purge", address, (state, *checked_ids(ids)), int)


def hasten(address: Address, ids: Sequence[str]) -> Command[int]:
    """Make delayed messages ready now; MessageNotFound if one of them does not wait, and nothing was done."""
    return Command("hasten", address, checked_ids(ids), int)


def bury_waiting(address: Address, ids: Sequence[str], reason: str) -> Command[int]:
    """Make delayed messages dead letters; MessageNotFound if one of them does not wait, and nothing was done."""
    if not reason:
        raise errors.InvalidOption("reason", "must say why the message is buried")
    return Command("bury_waiting", address, (bounded_reason(reason), *checked_ids(ids)), int)


def amend(
    address: Address,
    message_id: str,
    data: bytes,
    *,
    metadata: Mapping[str, str],
    note: bytes,
    redrive: bool,
) -> Command[int]:
    """Give a dead letter other bytes, add ``note`` to its history and, if told so, redrive it; all in one step."""
    packed = pack_metadata(metadata)
    body = packed + as_bytes(data)
    args = (*checked_ids([message_id]), len(packed), body, optional_bytes("note", note), "1" if redrive else "")
    return Command("amend", address, args, int)


def adopt(address: Address, letters: Sequence[DeadLetter]) -> Command[int]:
    """Store 1 … 100 dead letters under the ids they have; those whose ids are there already stay as they are."""
    args: list[bytes | str | int] = []
    for letter in letters:
        message = letter.message
        history = b"".join(b"%d:%b," % (len(record), record) for record in letter.failures)
        args += (message.message_id, message.score, message.retrieval_count, message.value)
        args += (bounded_reason(letter.reason), history)
    return Command("adopt", address, args, int)
