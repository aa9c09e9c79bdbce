"""Dead letters, read page by page: listed, counted, grouped."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal

from psmq import DeadLetter, MessageRecord
from psmq_tasks.inspection.records import DeadTask, Filter, Group, Listing, dead_task, kind_of, task_of
from psmq_tasks.inspection.steps import HEADS, PAGE, ask, names

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from psmq import Message, QueueInfo
    from psmq_tasks.inspection.steps import Steps

#: letters without their histories in one page
_LIGHT: Final = 200

History = bool | Literal["short"]
#: kinds that are told apart when letters are counted by kind
_MOST_GROUPS: Final = 1000

Key = Literal["error", "task", "queue", "reason"]


def dead_page(queue: str, after: DeadLetter | None, *, history: History = True) -> Steps[list[DeadLetter]]:
    """The next dead letters, oldest first; none at the end."""
    page: list[DeadLetter] = yield ask(
        queue, "dead_letters", limit=_LIGHT if history is not True else PAGE, after=after, data=False, history=history
    )
    return page


def letters_page(
    queue: str, wanted: Filter, after: DeadLetter | None, *, data: bool = False, history: History = True
) -> Steps[tuple[list[DeadLetter], DeadLetter | None]]:
    """Those of the next page that fit, and where to go on; None: nothing that fits is left.

    Histories are many times the rest: without ``history`` only what the filter looks into is read of them.
    """
    if after is None and wanted.first_ms is not None:
        after = place(queue, wanted.first_ms)
    if not data and history is False and wanted.error is not None:
        history = "short"
    page: list[DeadLetter] = yield ask(
        queue, "dead_letters", limit=_LIGHT if history is not True else PAGE, after=after, data=data, history=history
    )
    past = not page or wanted.is_past(page[-1].buried)
    return list(filter(fitting(wanted), page)), None if past else page[-1]


def fitting(wanted: Filter) -> Callable[[DeadLetter], bool]:
    """Whether a letter fits; those of one queue are not looked into when all of it is meant."""
    return (lambda _: True) if wanted.is_empty else wanted.fits


def fitting_page(
    queue: str, wanted: Filter, after: DeadLetter | None
) -> Steps[tuple[list[DeadTask], DeadLetter | None]]:
    """The same, read."""
    page, after = yield from letters_page(queue, wanted, after)
    return list(map(dead_task, page)), after


def newest_dead(wanted: Filter, limit: int) -> Steps[Listing[DeadTask]]:
    """The last that fit, oldest first, and how many there are."""
    found: list[DeadTask] = []
    total = 0
    for name in (yield from names(wanted.queue)):
        latest: deque[DeadLetter] = deque(maxlen=limit)
        count = 0
        after: DeadLetter | None = None
        if wanted.is_empty:
            after = yield from _before_the_last(name, limit)
        more = True
        while more:
            page, after = yield from letters_page(name, wanted, after, history=False)
            latest.extend(page)
            count += len(page)
            more = after is not None
        if wanted.is_empty:
            info: QueueInfo = yield ask("", "queue_info", name=name)
            count = max(info.dead, count)
        total += count
        # Only those that are shown are read in full; one that went meanwhile is none any more.
        ids = [letter.message.message_id for letter in latest]
        for start in range(0, len(ids), PAGE):
            chosen = ids[start : start + PAGE]
            found += map(dead_task, (yield ask(name, "dead_letters", limit=PAGE, ids=chosen, data=False)))
    found.sort(key=lambda one: (one.buried, one.id))
    return Listing(found[-limit:] if limit else [], total)


def _before_the_last(queue: str, count: int) -> Steps[DeadLetter | None]:
    """A place (not a letter) with at least ``count`` letters behind it and hardly more; None: the beginning.

    Letters are kept by time of burial: the time is found by halving, some thirty small questions for any number.
    """
    first: list[Message] = yield ask(queue, "messages", state="dead", limit=1, data=False)
    if not first:
        return None
    low = first[0].record.score
    high = int(datetime.now(UTC).timestamp() * 1000) + 86_400_000  # our clock may be a day behind the server's
    if not (yield from _has_behind(queue, low, count)):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if (yield from _has_behind(queue, middle, count)):
            low = middle
        else:
            high = middle
    return place(queue, low)


def _has_behind(queue: str, milliseconds: int, count: int) -> Steps[bool]:
    after = place(queue, milliseconds).message
    seen = 0
    while seen < count:
        page: list[Message] = yield ask(
            queue, "messages", state="dead", limit=min(count - seen, HEADS), after=after, data=False
        )
        if not page:
            return False
        seen += len(page)
        after = page[-1].record
    return True


def place(queue: str, milliseconds: int) -> DeadLetter:
    """A cursor in front of what was buried at this time or later; no letter is there."""
    return DeadLetter(MessageRecord("-", b"", queue, score=milliseconds), "", datetime.min.replace(tzinfo=UTC), ())


def count_dead(wanted: Filter) -> Steps[int]:
    """How many fit."""
    total = 0
    for name in (yield from names(wanted.queue)):
        if wanted.is_empty:
            info: QueueInfo = yield ask("", "queue_info", name=name)
            total += info.dead
            continue
        after: DeadLetter | None = None
        more = True
        while more:
            page, after = yield from letters_page(name, wanted, after, history=False)
            total += len(page)
            more = after is not None
    return total


def group_dead(wanted: Filter, by: Key) -> Steps[list[Group]]:
    """How many fit of each error, task, queue or reason, the most first; beyond a thousand kinds: one "(others)"."""
    counts: dict[str, int] = {}
    newest: dict[str, DeadLetter] = {}
    for name in (yield from names(wanted.queue)):
        after: DeadLetter | None = None
        more = True
        while more:
            page, after = yield from letters_page(name, wanted, after, history=False)
            for letter in page:
                key = _key(letter, by)
                if key not in counts and len(counts) >= _MOST_GROUPS:
                    key = "(others)"
                counts[key] = counts.get(key, 0) + 1
                if key not in newest or letter.buried >= newest[key].buried:
                    newest[key] = letter
            more = after is not None
    examples = {key: dead_task(letter) for key, letter in newest.items()}
    groups = [Group(key, count, examples[key].buried, examples[key]) for key, count in counts.items()]
    return sorted(groups, key=lambda group: (-group.count, group.key))


def _key(letter: DeadLetter, by: Key) -> str:
    if by == "error":
        return kind_of(letter.reason)
    if by == "reason":
        return letter.reason
    return letter.message.queue_name if by == "queue" else task_of(letter)


def whole_letters(chosen: Sequence[tuple[str, str]]) -> Steps[list[DeadLetter]]:
    """These (queue, id)s with their data; those that are gone are left out."""
    found: list[DeadLetter] = []
    for name in dict.fromkeys(name for name, _ in chosen):
        ids = [message_id for queue, message_id in chosen if queue == name]
        found += yield ask(name, "dead_letters", limit=PAGE, ids=ids, data=True)
    return found
