"""The sets of names that a namespace keeps beside its queues: which queues there are, and which workers.

They are hints: a queue's own hash and a worker's own note are the truth. So a set that a stranger overwrote is set
aside, and fills again: a queue is entered by whoever opens it, a worker says every few seconds that it lives.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

from psmq import commands
from psmq.commands import Address
from psmq.dialogue import StrangeKeyError
from psmq.errors import PsmqError

if TYPE_CHECKING:
    from collections.abc import Generator

    from psmq.commands import Plain

__all__ = ["all_notes", "enters", "forgets", "leaves", "names", "notes", "queues"]

T = TypeVar("T")


def enters(namespace: str, name: str) -> Generator[Any, Any, None]:
    """A queue is listed from now on."""
    yield from _with_set(namespace, commands.register(namespace, name))


def leaves(namespace: str, *gone: str) -> Generator[Any, Any, None]:
    """Queues are not listed any more."""
    yield from _with_set(namespace, commands.unregister(namespace, gone))


def names(namespace: str) -> Generator[Any, Any, list[str]]:
    """What is listed, sorted; some of it may have gone."""
    return (yield from _with_set(namespace, commands.registered(namespace)))


def queues(namespace: str, *, tidy: bool) -> Generator[Any, Any, list[str]]:
    """The names of the queues there are, sorted. ``tidy``: the others are taken off the list.

    Without it nothing is written; StrangeKeyError when what has the list's key is none.
    """
    listed: list[str] = (yield from names(namespace)) if tidy else (yield commands.registered(namespace))
    gone = []
    for name in listed:
        if not (yield commands.exists(Address.of(namespace, name))):
            gone.append(name)
    if gone and tidy:
        with contextlib.suppress(PsmqError):  # a replica, or no right to write: they stay listed
            yield from leaves(namespace, *gone)
    return [name for name in listed if name not in gone]


def notes(namespace: str, worker_id: str, note: bytes, seconds: float) -> Generator[Any, Any, None]:
    """Keep what a worker says of itself for so long."""
    yield commands.note_worker(namespace, worker_id, note, seconds)
    yield from _with_set(namespace, commands.list_worker(namespace, worker_id))


def all_notes(namespace: str) -> Generator[Any, Any, dict[str, bytes]]:
    """What living workers said of themselves last, by id."""
    found, gone = {}, []
    for worker_id in (yield from _with_set(namespace, commands.listed_workers(namespace))):
        note = yield commands.read_worker(namespace, worker_id)
        if note is None:
            gone.append(worker_id)
        else:
            found[worker_id] = note
    if gone:
        with contextlib.suppress(PsmqError):  # a replica, or no right to write: they stay listed
            yield commands.unlist_workers(namespace, gone)
    return found


def forgets(namespace: str, worker_id: str) -> Generator[Any, Any, None]:
    """A worker that ends takes its note along."""
    yield commands.forget_worker(namespace, worker_id)
    yield from _with_set(namespace, commands.unlist_workers(namespace, [worker_id]))


def _with_set(namespace: str, request: Plain[T]) -> Generator[Any, Any, T]:
    """Carry it out; a key that is no set is set aside first, and that is done in one step with looking at it."""
    try:
        answer: T = yield request
    except StrangeKeyError as strange:
        try:
            yield commands.set_aside(namespace, strange.key)
        except PsmqError:  # no right to: say what is to be done by hand
            raise strange from None
        answer = yield request
    return answer
