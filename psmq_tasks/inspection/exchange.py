"""Dead letters outside of the server: one JSON document a line, in which nothing is lost, and back again."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from psmq import DeadLetter, MessageRecord
from psmq_tasks.errors import TasksError
from psmq_tasks.inspection.records import dead_task

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["letter_of", "letters_of", "line_of"]

#: of the format; a reader refuses a higher one
VERSION: Final = 1


def line_of(letter: DeadLetter) -> str:
    """A letter that was read with its data, as one line. What people read in it is in ``queue task args reason``."""
    shown = dead_task(letter)
    message = letter.message
    return json.dumps(
        {
            "psmq_dead_letter": VERSION,
            "id": message.message_id,
            "queue": message.queue_name,
            "task": shown.task,
            "args": shown.args,
            "reason": letter.reason,
            "buried_ms": message.score,
            "attempts": message.retrieval_count,
            "value": base64.b64encode(message.value).decode(),
            "history": [base64.b64encode(record).decode() for record in letter.failures],
        }
    )


def letter_of(line: str) -> DeadLetter:
    """The inverse; ValueError for what ``line_of`` did not write."""
    found: Any = json.loads(line)
    if not isinstance(found, dict) or found.get("psmq_dead_letter") != VERSION:
        raise ValueError("it is no dead letter of psmq")
    try:
        words = [found[name] for name in ("id", "queue", "value", "reason")]
        numbers = [found[name] for name in ("buried_ms", "attempts")]
        if not all(isinstance(word, str) for word in words) or not all(type(number) is int for number in numbers):
            raise TypeError("a field has another type")
        value = base64.b64decode(found["value"], validate=True)
        history = tuple(base64.b64decode(record, validate=True) for record in found["history"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"a field is missing or of another type: {error}") from None
    record = MessageRecord(
        found["id"], value, found["queue"], retrieval_count=found["attempts"], score=found["buried_ms"]
    )
    return DeadLetter(record, found["reason"], datetime.fromtimestamp(0, UTC), history)


def letters_of(lines: Iterable[str]) -> Iterator[DeadLetter]:
    """The letters in these lines; TasksError names the line that is none. Empty lines are nothing."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield letter_of(line)
            except ValueError as error:
                raise TasksError(f"line {number} was not written by psmq dead export: {error}") from None
