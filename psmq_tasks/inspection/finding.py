"""The one message that somebody means, from the end of its id."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from psmq_tasks.errors import IdNotFound
from psmq_tasks.inspection.records import DeadTask, dead_task
from psmq_tasks.inspection.steps import HEADS, ID_LENGTH, PAGE, ambiguous, ask, names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psmq import DeadLetter, Message, MessageRecord
    from psmq_tasks.inspection.steps import Steps

_NOUNS: Final = {"dead": "dead letter", "delayed": "message that waits"}


def dead_one(ending: str, queue: str | None) -> Steps[DeadTask]:
    """One dead letter with everything but its data; IdNotFound, IdAmbiguous."""
    ((name, message_id),) = yield from resolve([ending], queue)
    page: list[DeadLetter] = yield ask(name, "dead_letters", limit=1, ids=[message_id], data=True)
    if not page:
        raise IdNotFound(ending, "dead letter", f"queue {name!r}")
    return dead_task(page[0], size=True)


def resolve(endings: Sequence[str], queue: str | None, state: str = "dead") -> Steps[list[tuple[str, str]]]:
    """(queue, id) of the messages in this state whose ids end like these; each must fit one.

    Whole ids of dead letters cost no search.
    """
    what = _NOUNS.get(state, f"{state} message")
    searched = yield from names(queue)
    wanted = {ending: ending.lstrip("….") for ending in dict.fromkeys(endings)}
    found: dict[str, list[tuple[str, str]]] = {ending: [] for ending in wanted}
    longest = ID_LENGTH if state == "dead" else ID_LENGTH + 1
    whole = [digits for digits in wanted.values() if len(digits) >= longest]
    parts = {ending: digits for ending, digits in wanted.items() if digits and len(digits) < longest}
    for name in searched:
        if whole:
            letters: list[DeadLetter] = yield ask(name, "dead_letters", limit=PAGE, ids=whole, data=False)
            for letter in letters:
                for ending, digits in wanted.items():
                    if digits == letter.message.message_id:
                        found[ending].append((name, digits))
        after: MessageRecord | None = None
        while parts:
            page: list[Message] = yield ask(name, "messages", state=state, limit=HEADS, after=after, data=False)
            if not page:
                break
            after = page[-1].record
            for message in page:
                for ending, digits in parts.items():
                    if message.record.message_id.endswith(digits):
                        found[ending].append((name, message.record.message_id))
    where = f"queue {queue!r}" if queue is not None else "any queue"
    for ending, hits in found.items():
        if not hits:
            raise IdNotFound(ending, what, where)
        if len(hits) > 1:
            raise ambiguous(ending, [message_id for _, message_id in hits])
    return list(dict.fromkeys(hits[0] for hits in found.values()))
