"""How looking and mending ask: generators that say what is wanted of a queue, and are told.

``Inspector`` and ``AsyncInspector`` run the same steps; only the sending differs. No step asks for more than a page,
so that memory stays bounded and the server is never held up, however many letters there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from psmq_tasks.errors import IdAmbiguous

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

T = TypeVar("T")

#: letters in one page, ids in one redrive: a few ms of the server's time
PAGE: Final = 100
#: records without their bodies in one page
HEADS: Final = 500
#: digits of a message id
ID_LENGTH: Final = 22
#: candidates shown for an ambiguous id
MOST_CANDIDATES: Final = 8


class Ask(NamedTuple):
    """One verb of a queue, or of the manager where no queue is named."""

    queue: str
    verb: str
    arguments: dict[str, Any]


class Rest(NamedTuple):
    """Nothing to ask for so many seconds."""

    seconds: float


if TYPE_CHECKING:
    Steps = Generator[Ask | Rest, Any, T]


def ambiguous(ending: str, ids: Sequence[str]) -> IdAmbiguous:
    """What is said when several ids end like this."""
    return IdAmbiguous(ending, tuple(ids[:MOST_CANDIDATES]), max(len(ids) - MOST_CANDIDATES, 0))


def ask(queue: str, verb: str, **arguments: Any) -> Ask:
    return Ask(queue, verb, arguments)


def names(queue: str | None) -> Steps[list[str]]:
    """The one queue, which must exist, or all."""
    if queue is not None:
        yield ask("", "queue_info", name=queue)
        return [queue]
    found: list[str] = yield ask("", "list_queues")
    return found
