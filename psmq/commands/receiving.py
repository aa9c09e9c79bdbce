"""The way out: messages that are got, and what becomes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from psmq import errors
from psmq.commands.request import MOST, Address, Command, bounded_reason, optional_bytes, texts
from psmq.config import integer, milliseconds
from psmq.message import MessageRecord
from psmq.settlement import Bury, Delete, Release, Settlement

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

Mode = Literal["plain", "worker", "solo"]


class Popped(NamedTuple):
    """What a pop answers."""

    message: MessageRecord | None
    #: none was found yet, but more is due than one call moves: ask again at once
    more: bool


class Delivered(NamedTuple):
    """What an exchange answers: a word for each settlement, and the messages that were got."""

    words: list[str]
    #: seconds until something becomes ready by itself; None: nothing will
    wait: float | None
    #: more is due than one call moves: ask again at once
    more: bool
    #: messages that wait for a process of their own
    suspects: int
    messages: list[MessageRecord]


def exchange(
    address: Address,
    settlements: Sequence[tuple[str, str, Settlement]],
    limit: int,
    *,
    visibility_timeout: float | timedelta | None = None,
    mode: Mode = "plain",
) -> Command[Delivered]:
    """Settle (message_id, receipt, settlement)s, then get up to ``limit`` messages."""
    timeout = "" if visibility_timeout is None else milliseconds("visibility_timeout", visibility_timeout, least=1)
    args: list[bytes | str | int] = [integer("limit", limit, 0, MOST), timeout, mode]
    # What is just to be deleted, of one delivery: one settlement, with the ids in the place of the id.
    done: list[str] = []
    done_receipt = ""
    sizes: list[int] = []
    for message_id, receipt, settlement in settlements:
        plain = type(settlement) is Delete and settlement.result is None and message_id and " " not in message_id
        if done and not (plain and receipt == done_receipt):
            args += (" ".join(done), done_receipt, "D", "", "", "")
            sizes.append(len(done))
            done = []
        if plain:
            done_receipt = receipt
            done.append(message_id)
            continue
        args += (message_id, receipt)
        sizes.append(1)
        if type(settlement) is Delete:
            args += ("d", "", "", optional_bytes("result", settlement.result))
        elif type(settlement) is Release:
            args += (
                _release(settlement),
                bounded_reason(settlement.reason),
                optional_bytes("failure", settlement.failure),
                optional_bytes("result", settlement.result),
            )
        elif type(settlement) is Bury:
            if not settlement.reason:
                raise errors.InvalidOption("reason", "must say why the message is buried")
            reason = bounded_reason(settlement.reason)
            args += (
                "b",
                reason,
                optional_bytes("failure", settlement.failure),
                optional_bytes("result", settlement.result),
            )
        else:
            raise errors.InvalidOption("settlement", f"must be Delete, Release or Bury, not {settlement!r}")
    if done:
        args += (" ".join(done), done_receipt, "D", "", "", "")
        sizes.append(len(done))
    name = address.name

    def parse(reply: Any) -> Delivered:
        words = _words(reply[0], sizes)
        receipt = reply[4].decode()
        messages = [
            MessageRecord(
                reply[at].decode(), reply[at + 4], name, receipt, reply[at + 1], int(reply[at + 2]), reply[at + 3]
            )
            for at in range(5, len(reply), 5)
        ]
        return Delivered(words, None if reply[1] < 0 else reply[1] / 1000, reply[2] == 1, reply[3], messages)

    return Command("exchange", address, args, parse)


def _words(reply: Sequence[bytes], sizes: Sequence[int]) -> list[str]:
    """A word for each message: one answer stands for many when all of them are done, else a letter for each."""
    words: list[str] = []
    for answer, size in zip(reply, sizes, strict=True):
        if size == 1:
            words.append("stale" if answer == b"s" else answer.decode())
        elif answer == b"done":
            words += ["done"] * size
        else:
            words += ["done" if letter == b"d"[0] else "stale" for letter in answer]
    return words


def _release(settlement: Release) -> str:
    options = "r"
    if settlement.delay:
        options += f"d{milliseconds('delay', settlement.delay)}"
    if not settlement.count:
        options += "u1"
    if settlement.max_retrievals is not None:
        options += f"m{integer('max_retrievals', settlement.max_retrievals, 1, 1_000_000)}"
    if settlement.crashed:
        options += "c1"
    if settlement.unknown:
        options += "k1"
    return options


def pop(address: Address) -> Command[Popped]:
    """Take the next message and delete it."""

    def parse(reply: Any) -> Popped:
        if len(reply) < 5:
            return Popped(None, more=bool(reply))
        return Popped(
            MessageRecord(reply[0].decode(), reply[4], address.name, "", reply[1], int(reply[2]), reply[3]), more=False
        )

    return Command("pop", address, (), parse)


def extend(address: Address, leases: Sequence[tuple[str, str]], timeout: float | timedelta) -> Command[list[str]]:
    """Let leases (message_id, receipt) end ``timeout`` seconds from now. → done | stale for each"""
    args: list[bytes | str | int] = [milliseconds("timeout", timeout, least=1)]
    for message_id, receipt in leases:
        args += (message_id, receipt)
    return Command("extend", address, args, texts, numbered=False)


def abandon(
    address: Address, client_id: str, started: Sequence[str] = (), *, number: int | None = None
) -> Command[int]:
    """Hand back what a client's last get holds unstarted, and refuse its commands from now on.

    ``number``: only what this very command of it was given, and only this one is refused should it still be under way;
    an earlier get's messages are in somebody's hands, and the client lives on.
    """
    return Command("abandon", address, (client_id, "" if number is None else number, *started), int, numbered=False)
