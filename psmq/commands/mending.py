"""Mending: dead letters and waiting messages are sent again, changed, brought back or removed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, Literal

from psmq import errors
from psmq.commands.request import (
    STATES,
    Address,
    Command,
    State,
    as_bytes,
    bounded_reason,
    checked_ids,
    optional_bytes,
    text,
    texts,
)
from psmq.message import DeadLetter, MessageRecord, pack_metadata

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
        args += (message.message_id, message.score, message.retrieval_count, message.value)
        args += (bounded_reason(letter.reason), _packed(letter.failures))
    return Command("adopt", address, args, int)


#: '<token> <queue>'
_NOTE: Final = re.compile(r"([0-9]+-[A-Za-z0-9]+) ([A-Za-z0-9._-]{1,160})")

# --- transfers, in the order of lua/transferring.lua; ids: 1 … 100


def depart(address: Address, target: str, ids: Sequence[str]) -> Command[str]:
    """Mark dead letters for a transfer. → its token; MessageNotFound if one is not dead, and nothing was done"""
    return Command("depart", address, (target, *checked_ids(ids)), bytes.decode)


def arrive(
    address: Address,
    token: str,
    source: str,
    letters: Sequence[tuple[MessageRecord, bytes, Sequence[bytes]]],
    *,
    keep_count: bool,
) -> Command[list[str]]:
    """Store hidden copies: of each a record, its new stored value, its history. → a word for each"""
    args: list[bytes | str | int] = [token, source, "1" if keep_count else ""]
    for message, value, failures in letters:
        args += (message.message_id, message.retrieval_count, message.first_ms, value, _packed(failures))
    return Command("arrive", address, args, texts)


def leave(address: Address, token: str, target: str, ids: Sequence[str]) -> Command[list[str]]:
    """Give up the letters that are still marked with this token. → their ids"""
    return Command("leave", address, (token, target, *checked_ids(ids)), texts)


def admit(address: Address, source: str, verdicts: Sequence[tuple[str, str, bool]]) -> Command[int]:
    """Make copies ready, or drop them: of each its id, its token, whether it left. → how many became ready"""
    args = [word for message_id, token, left in verdicts for word in (message_id, token, "1" if left else "")]
    return Command("admit", address, (source, *args), int, numbered=False)


def recall(address: Address, marks: Sequence[tuple[str, str]]) -> Command[list[str]]:
    """End attempts, by id and token, that did not leave yet. → left or back for each"""
    return Command("recall", address, [word for mark in marks for word in mark], texts, numbered=False)


def forget_departed(address: Address, marks: Sequence[tuple[str, str]]) -> Command[int]:
    """Drop the notes, by id and token, of letters that were admitted. → how many"""
    return Command("forget_departed", address, [word for mark in marks for word in mark], int, numbered=False)


def transfers(
    address: Address, part: Literal["departing", "departed", "arriving"], cursor: str
) -> Command[tuple[str, list[tuple[str, str, str]]]]:
    """A page of what is on its way. → the next cursor, "0" at the end; id, token, the other queue …

    What a stranger wrote there is left out.
    """

    def parse(reply: Any) -> tuple[str, list[tuple[str, str, str]]]:
        cursor, *words = map(text, reply)
        notes = zip(words[::2], map(_NOTE.fullmatch, words[1::2]), strict=True)
        return cursor, [(message_id, note[1], note[2]) for message_id, note in notes if note]

    return Command("transfers", address, (part, cursor), parse, numbered=False)


def _packed(failures: Sequence[bytes]) -> bytes:
    return b"".join(b"%d:%b," % (len(record), record) for record in failures)
