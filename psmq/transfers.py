"""Dead letters that go to another queue, step by step. ``lua/transferring.lua`` says what each step promises.

Whoever carries them may be killed anywhere, and two may carry the same at once: a letter is never lost, and of its
copies never two can be had.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from psmq import commands
from psmq.commands import LETTERS, Address, Command
from psmq.errors import InvalidOption, MessageNotFound, PsmqError, QueueNotFound
from psmq.kill_points import passing
from psmq.message import is_id

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from psmq.message import DeadLetter, QueueInfo

__all__ = ["At", "Transfer", "finish", "transfer"]

#: how often a letter is tried whose mark somebody else takes away: by an edit, or by carrying it, too
_TRIES: Final = 3

_WHY: Final = {
    "there": "queue {to!r} has a message with its id",
    "busy": "somebody else carries it at this moment",
    "damaged": "its bytes are not a message",
    "large": "it is larger than the max_size of queue {to!r}",
    "full": "queue {to!r} holds its max_length",
    "strange": "its id is none of ours",
}


class At(NamedTuple):
    """A command for another queue than the one that runs it. ``test``: that one was made with clock="test"."""

    command: Command[Any]
    test: bool


class Transfer(NamedTuple):
    """What became of letters that should go to another queue; their ids."""

    #: ready there
    done: tuple[str, ...]
    #: still dead, and why
    stayed: dict[str, str]
    #: not dead any more when it came to them
    gone: tuple[str, ...]
    #: why some stayed: the other queue holds its max_length
    full: bool


class _End(NamedTuple):
    """A queue that letters leave or enter."""

    address: Address
    test: bool

    def at(self, command: Command[Any]) -> At:
        return At(command, self.test)


def _end(address: Address) -> Generator[At, Any, _End]:
    """QueueNotFound when there is none."""
    info: QueueInfo = yield At(commands.info(address), test=False)
    return _End(address, info.config.clock == "test")


def _beside(address: Address, name: str) -> Address:
    """Another queue of the same namespace."""
    return Address.of(address.base[: -len(address.name) - 3], name)


def transfer(
    here: Address,
    to: str,
    ids: Sequence[str],
    *,
    keep_count: bool,
    rewrite: Callable[[DeadLetter], bytes] | None,
) -> Generator[At, Any, Transfer]:
    """Carry these dead letters, any number, to another queue."""
    if to == here.name:
        raise InvalidOption("to", "must be another queue: without it, letters go back to their own")
    target = yield from _end(_beside(here, to))
    source = yield from _end(here)
    done: list[str] = []
    # Errors do not name what a stranger wrote so that it could be told from others: it is not asked about.
    stayed = {message_id: _WHY["strange"] for message_id in ids if not is_id(message_id)}
    gone: list[str] = []
    full = _WHY["full"].format(to=to)
    waiting = [(message_id, _TRIES) for message_id in ids if message_id not in stayed]
    while waiting and full not in stayed.values():
        batch, waiting = dict(waiting[:LETTERS]), waiting[LETTERS:]
        try:
            token: str = yield source.at(commands.depart(here, to, list(batch)))
        except MessageNotFound as error:
            if batch.pop(error.message_id, None) is None:
                raise
            gone.append(error.message_id)
            waiting = [*batch.items(), *waiting]
            continue
        passing("transfer.departed")
        while batch and full not in stayed.values():
            # Large bodies end a page early: the next one has the others.
            page: list[DeadLetter] = yield source.at(commands.dead_letters(here, LETTERS, None, list(batch), data=True))
            left, words = yield from _carry(source, target, token, page, keep_count=keep_count, rewrite=rewrite)
            done += left
            stayed |= words
            if not page:
                gone += batch
                batch = {}
            for message_id in (letter.message.message_id for letter in page):
                tries = batch.pop(message_id) - 1
                if message_id not in left and message_id not in words:
                    if tries:
                        waiting.append((message_id, tries))
                    else:
                        stayed[message_id] = _WHY["busy"]
        if batch:
            # There is no room for them: what is larger than a page has marked more than it carried.
            yield source.at(commands.recall(here, [(message_id, token) for message_id in batch]))
        waiting += batch.items()
    stayed |= dict.fromkeys((message_id for message_id, _ in waiting), full)
    return Transfer(tuple(done), stayed, tuple(gone), full in stayed.values())


def _carry(
    source: _End,
    target: _End,
    token: str,
    letters: Sequence[DeadLetter],
    *,
    keep_count: bool,
    rewrite: Callable[[DeadLetter], bytes] | None,
) -> Generator[At, Any, tuple[list[str], dict[str, str]]]:
    """Letters of one attempt, which are marked. → ids that went, and why others cannot"""
    stayed: dict[str, str] = {}
    ready = []
    for letter in letters:
        message = letter.message
        try:
            value = message.value
            if rewrite is not None:
                value = value[: len(value) - len(message.data)] + rewrite(letter)
            ready.append((message, value, letter.failures))
        except PsmqError as error:
            stayed[message.message_id] = str(error)
        except ValueError:
            stayed[message.message_id] = _WHY["damaged"]
    here, there = source.address, target.address
    left: list[str] = []
    came: list[str] = []
    marks = [(letter.message.message_id, token) for letter in letters]
    try:
        words: list[str] = []
        if ready:
            words = yield target.at(commands.arrive(there, token, here.name, ready, keep_count=keep_count))
    except PsmqError:
        yield source.at(commands.recall(here, marks))
        raise
    passing("transfer.arrived")
    for (message, *_), word in zip(ready, words, strict=True):
        if word == "done":
            came.append(message.message_id)
        elif word != "busy":
            stayed[message.message_id] = _WHY[word].format(to=there.name)
    if came:
        left = yield source.at(commands.leave(here, token, there.name, came))
        passing("transfer.left")
        yield target.at(commands.admit(there, here.name, [(one, token, one in left) for one in came]))
        passing("transfer.admitted")
    if left:
        yield source.at(commands.forget_departed(here, [(one, token) for one in left]))
    if len(left) < len(marks):
        # Their marks mean nothing any more, but an audit would show them.
        yield source.at(commands.recall(here, [mark for mark in marks if mark[0] not in left]))
    return left, stayed


def finish(here: Address, only: str | None) -> Generator[At, Any, list[str]]:
    """Complete what was broken off on its way from or to this queue. → ids that are ready where they should be now

    ``only``: the other queue; None: any. What did not leave yet is dead in its queue, as before; whoever carries it at
    this moment begins anew with it.
    """
    this = yield from _end(here)
    done = []
    for part in ("departing", "departed", "arriving"):
        for other, marks in (yield from _listed(this, part)).items():
            if only not in (None, other):
                continue
            that = yield from _end_or_none(_beside(here, other))
            for start in range(0, len(marks), LETTERS):
                page = marks[start : start + LETTERS]
                if part == "arriving":
                    done += yield from _decide(that, other, this, page)
                else:
                    done += yield from _decide(this, here.name, that, page)
    return done


def _end_or_none(address: Address) -> Generator[At, Any, _End | None]:
    """None: it was deleted, with what was in it."""
    try:
        return (yield from _end(address))
    except QueueNotFound:
        return None


def _listed(
    end: _End, part: Literal["departing", "departed", "arriving"]
) -> Generator[At, Any, dict[str, list[tuple[str, str]]]]:
    """(id, token) by the other queue's name."""
    found: dict[str, list[tuple[str, str]]] = {}
    cursor = ""
    while cursor != "0":
        cursor, rows = yield end.at(commands.transfers(end.address, part, cursor or "0"))
        for message_id, token, other in rows:
            found.setdefault(other, []).append((message_id, token))
    return {other: list(dict.fromkeys(marks)) for other, marks in found.items()}


def _decide(
    source: _End | None, name: str, target: _End | None, marks: list[tuple[str, str]]
) -> Generator[At, Any, list[str]]:
    """The source's word on these attempts, carried out at both. → ids that left, and are ready at the target

    ``name``: the source's. Where it was deleted, the copies are what is left of it.
    """
    words = ["left"] * len(marks)
    if source is not None:
        words = yield source.at(commands.recall(source.address, marks))
    left = [mark for mark, word in zip(marks, words, strict=True) if word == "left"]
    if target is not None:
        yield target.at(commands.admit(target.address, name, [(*mark, mark in left) for mark in marks]))
    if source is not None and left:
        yield source.at(commands.forget_departed(source.address, left))
    return [message_id for message_id, _ in left] if target is not None else []
