"""The queue as programs with threads see it: thin verbs over commands.

``async_queue.py`` has the same verbs with the same parameters and words; a test holds the two equal.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from psmq import commands
from psmq.bound import Held, MessageFields
from psmq.commands import BATCH, Address, Delivered, NewMessage, State, push_size
from psmq.config import QueueConfig, milliseconds
from psmq.driving import drive
from psmq.errors import PsmqError
from psmq.flows import Interrupted, Pause, QueueFlows, Request, Waiting, clock_override
from psmq.gathering import Ahead
from psmq.settlement import Bury, Delete, Release, Settlement
from psmq.transfers import At

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
    from datetime import timedelta
    from typing import Unpack

    from psmq.config import QueueSettings
    from psmq.connection import Channel, Link
    from psmq.message import DeadLetter, MessageRecord, QueueInfo
    from psmq.stats import QueueStats
    from psmq.traces import Trace
    from psmq.transfers import Transfer

__all__ = ["Message", "Queue"]

T = TypeVar("T")


class Message(MessageFields):
    """A message bound to the queue it came from. Always true."""

    __slots__ = ()
    _queue: Queue

    def delete(self) -> None:
        """Done with it. ReceiptExpired when it was delivered again meanwhile."""
        self._queue.delete(self)

    def extend(self, timeout: float | timedelta) -> None:
        """Keep it hidden for ``timeout`` seconds from now."""
        self._queue.extend(self, timeout)

    def release(self, delay: float | timedelta = 0, *, count: bool = True, max_retrievals: int | None = None) -> None:
        """Give it back, ready after ``delay`` seconds."""
        self._queue.release(self, delay, count=count, max_retrievals=max_retrievals)

    def bury(self, reason: str) -> None:
        """Make it a dead letter."""
        self._queue.bury(self, reason)


class Queue(QueueFlows):
    """A queue on the server; safe to use from any thread."""

    def __init__(
        self,
        address: Address,
        config: QueueConfig,
        link: Link | Channel,
        serializer: Callable[[Any], bytes] | None = None,
        deserializer: Callable[[bytes], Any] | None = None,
    ) -> None:
        super().__init__(address, config, serializer, deserializer)
        self._link = link

    def _run(self, request: Request) -> Any:
        if isinstance(request, Waiting):
            return self._link.run(request.command, clock=self._clock(), wake=request.seconds)
        if isinstance(request, Pause):
            return time.sleep(request.seconds)
        if isinstance(request, At):
            return self._link.run(request.command, clock=clock_override() if request.test else "")
        return self._link.run(request, clock=self._clock())

    def _drive(self, steps: Generator[Request, Any, T]) -> T:
        try:
            return drive(steps, self._run)
        except PsmqError:
            raise
        except BaseException:
            self._let_go(steps)
            raise

    def _let_go(self, steps: Generator[Request, Any, Any]) -> None:
        with contextlib.suppress(PsmqError, Interrupted, StopIteration):
            request = steps.throw(Interrupted())
            while True:
                request = steps.send(self._run(request))

    def push(
        self,
        data: Any,
        *,
        delay: float | timedelta | None = None,
        priority: int = 0,
        ttl: float | timedelta | None = None,
        deduplication_id: str | None = None,
        max_retrievals: int | None = None,
        metadata: Mapping[str, str] | None = None,
        result_ttl: float | timedelta | None = None,
    ) -> str:
        """Store a message; None stands for the queue's setting. A NewMessage has its own options. → its id

        Raises NotSerializable, MessageTooLarge, QueueFull, ServerFull, InvalidOption; then nothing was stored.
        """
        options = NewMessage(b"", delay, priority, ttl, deduplication_id, max_retrievals, metadata, result_ttl)
        ids: list[str] = self._run(commands.push(self._address, [self._new(data, options)]))
        return ids[0]

    def push_many(
        self,
        items: Iterable[Any],
        *,
        delay: float | timedelta | None = None,
        priority: int = 0,
        ttl: float | timedelta | None = None,
        max_retrievals: int | None = None,
        metadata: Mapping[str, str] | None = None,
        result_ttl: float | timedelta | None = None,
        progress: Callable[[list[str]], object] | None = None,
    ) -> list[str]:
        """Store many messages, 200 in one trip; each 200 are stored whole or not at all. → their ids

        Items are data, or NewMessage with options of their own. An iterable is read as it is sent, 200 ahead at
        most. ``progress`` is called with the ids of each 200 as soon as they are stored.
        """
        options = NewMessage(b"", delay, priority, ttl, None, max_retrievals, metadata, result_ttl)
        ids: list[str] = []
        ahead = Ahead(self._pushes(items, options))
        for command in ahead:
            # Behind a full one there may be more: it is made while the server stores this one.
            meanwhile = ahead.look if push_size(command)[0] == BATCH else None
            stored = self._link.run(command, clock=self._clock(), meanwhile=meanwhile)
            ids += stored
            if progress is not None:
                progress(stored)
        return ids

    def get(
        self, *, wait: float | timedelta = 0, visibility_timeout: float | timedelta | None = None
    ) -> Message | None:
        """The next message, hidden from others for its visibility timeout; None when there is none after ``wait`` s.

        Delete it when done: otherwise it is delivered again, and is dead after max_retrievals deliveries.
        """
        found: Delivered = self._drive(self._gets(1, wait, visibility_timeout))
        return Message(found.messages[0], self) if found.messages else None

    def get_many(
        self,
        limit: int,
        *,
        wait: float | timedelta = 0,
        visibility_timeout: float | timedelta | None = None,
    ) -> list[Message]:
        """Up to ``limit`` (1 … 1000) messages, 200 in one trip; waits for the first only. Ends early after 256 KiB."""
        found: Delivered = self._drive(self._gets(limit, wait, visibility_timeout))
        return [Message(record, self) for record in found.messages]

    def exchange(
        self,
        settlements: Sequence[tuple[Held, Settlement]],
        limit: int = 0,
        *,
        wait: float | timedelta = 0,
        visibility_timeout: float | timedelta | None = None,
    ) -> tuple[list[str], list[Message]]:
        """Delete, release or bury what is finished and get what is next, in one trip (for a hundred, and two hundred).

        → a word for each settlement: done, stale (the receipt had expired, nothing was changed) or dead (a release
        that met max_retrievals); and the new messages.
        """
        words, records = self._drive(self._exchanges(settlements, limit, wait, visibility_timeout))
        return words, [Message(record, self) for record in records]

    def pop(self) -> Message | None:
        """Take the next message and delete it at once: if processing fails, it is lost."""
        record: MessageRecord | None = self._drive(self._pops())
        return record and Message(record, self)

    def peek(self) -> Message | None:
        """A copy of the message that the next get would give; nothing changes."""
        record: MessageRecord | None = self._run(commands.peek(self._address))
        return record and Message(record, self)

    def delete(self, message: Held) -> None:
        """Done with a message that was got. ReceiptExpired when it was delivered again or settled meanwhile."""
        self._drive(self._settles(message, Delete()))

    def extend(self, message: Held, timeout: float | timedelta) -> None:
        """Let the lease end ``timeout`` seconds from now."""
        self._drive(self._extends(message, timeout))

    def release(
        self,
        message: Held,
        delay: float | timedelta = 0,
        *,
        count: bool = True,
        max_retrievals: int | None = None,
    ) -> None:
        """Give a message back, ready after ``delay`` seconds; dead instead once it has met its max_retrievals.

        ``count=False``: it was never started, this delivery does not count, and it keeps its place in line.
        """
        seconds = milliseconds("delay", delay) / 1000
        self._drive(self._settles(message, Release(seconds, count=count, max_retrievals=max_retrievals)))

    def bury(self, message: Held, reason: str) -> None:
        """Make a message a dead letter."""
        self._drive(self._settles(message, Bury(reason)))

    def messages(
        self, state: State, *, limit: int = 100, after: Message | MessageRecord | None = None, data: bool = True
    ) -> list[Message]:
        """A page of the messages that are ready, delayed, leased or dead, in their order, behind ``after``.

        May be shorter than ``limit`` when bodies are large; the end is an empty page. ``data=False``: metadata only.
        """
        behind = after.record if isinstance(after, Message) else after
        found: list[MessageRecord] = self._drive(self._finds(state, limit, behind, data=data))
        return [Message(record, self) for record in found]

    def dead_letters(
        self,
        *,
        limit: int = 100,
        after: DeadLetter | None = None,
        ids: Iterable[str] | None = None,
        data: bool = True,
        history: bool | Literal["short"] = True,
    ) -> list[DeadLetter]:
        """Dead letters behind ``after``, oldest burial first, with reason and history; or all of those with ``ids``,
        whatever the limit. InvalidOption where both are given.

        ``data=False``: metadata only; ``history=False``: neither data nor history, which is quick for many;
        ``"short"``: no data, and of the history the first thousand bytes of each of its last four records.
        """
        letters: list[DeadLetter] = self._drive(self._finds_dead(limit, after, ids, data=data, history=history))
        return letters

    def failures(self, ids: Iterable[str]) -> list[tuple[bytes, ...]]:
        """The failure records of messages in whatever state, oldest first, for each id."""
        records: list[tuple[bytes, ...]] = self._drive(self._finds_failures(ids))
        return records

    def redrive(self, ids: Iterable[str], *, keep_count: bool = False) -> int:
        """Make dead letters ready again, with their id and history; the count starts anew unless kept. → how many

        ``keep_count`` gives exactly one more delivery. Raises MessageNotFound when one is not dead: then nothing of
        its 200 was done.
        """
        count: int = self._drive(self._redrives(ids, keep_count=keep_count))
        return count

    def transfer(
        self,
        ids: Iterable[str],
        to: str,
        *,
        keep_count: bool = False,
        rewrite: Callable[[DeadLetter], bytes] | None = None,
    ) -> Transfer:
        """Redrive dead letters into another queue. → which are done, which stayed dead and why, which were gone

        Id, data, metadata, priority and history go along; ``rewrite`` gives the copy other data, and whatever PsmqError
        it raises keeps the letter. Broken off at any moment each is in one place, or on its way and not to be had:
        then ``finish_transfers`` completes it. QueueNotFound: there is no queue ``to``.
        """
        result: Transfer = self._drive(self._transfers(ids, to, keep_count=keep_count, rewrite=rewrite))
        return result

    def finish_transfers(self, other: str | None = None) -> list[str]:
        """Complete transfers from or to this queue that were broken off. → ids that are where they should be now

        ``other``: only those to or from that queue.
        """
        ids: list[str] = self._drive(self._finishes_transfers(other))
        return ids

    def hasten(self, ids: Iterable[str]) -> int:
        """Make delayed messages ready now, uncounted. → how many

        Raises MessageNotFound when one does not wait: then nothing of its 200 was done.
        """
        count: int = self._drive(self._hastens(ids))
        return count

    def bury_waiting(self, ids: Iterable[str], reason: str) -> int:
        """Make delayed messages dead letters. → how many

        Raises MessageNotFound when one does not wait: then nothing of its 200 was done.
        """
        count: int = self._drive(self._buries_waiting(ids, reason))
        return count

    def amend(
        self,
        message_id: str,
        data: Any,
        *,
        metadata: Mapping[str, str] | None = None,
        note: bytes = b"",
        redrive: bool = False,
    ) -> None:
        """Give a dead letter other data and metadata; its id, options and history stay.

        ``note`` is added to the history (at most 64 KiB); ``redrive`` makes it ready in the same step. Raises
        MessageNotFound, MessageTooLarge, NotSerializable; then nothing has changed.
        """
        body = self._serialized(data)
        self._run(commands.amend(self._address, message_id, body, metadata=metadata or {}, note=note, redrive=redrive))

    def adopt(self, letters: Iterable[DeadLetter]) -> int:
        """Store dead letters that were exported or purged, with their ids and histories. → how many were not there

        A letter whose id the queue has, in whatever state, stays as it is: what was broken off can be repeated.
        ``message.score`` is when it was buried, in ms.
        """
        count: int = self._drive(self._adopts(letters))
        return count

    def purge(self, *, states: Sequence[State] | None = None, ids: Iterable[str] | None = None) -> int:
        """Delete all messages of these states (ready and delayed), or the dead letters with these ids. → how many

        InvalidOption where both are given.
        """
        count: int = self._drive(self._purges(states, ids))
        return count

    def result(self, message_id: str, *, wait: float | timedelta = 0) -> bytes | None:
        """What the message's holder stored with its last settlement; None when there is none after ``wait`` s.

        ``b"!lost …"``, ``b"!expired …"`` and ``b"!buried …"`` are written by the server itself.
        """
        found: bytes | None = self._drive(self._awaits_result(message_id, wait))
        return found

    def info(self) -> QueueInfo:
        """Counts, ages, counters and settings, and what the server does to keep the messages."""
        found: QueueInfo = self._drive(self._tells())
        return found

    def stats(self, minutes: int = 5) -> QueueStats:
        """What was done in the last whole ``minutes`` (1 … 480) and the one that runs: counts, rates, percentiles."""
        found: QueueStats = self._run(commands.stats_of(self._address, minutes))
        return found

    def trace(self, message_id: str, *, after: int = 0) -> Trace:
        """Where a message is now, what failed so far, and what the queue's event log says of it.

        The log is off unless ``configure(event_log=N)`` keeps N events. It is read from behind the event numbered
        ``after``: the next look goes on at ``trace.after``, and finds more at once where ``trace.more``. Where only the
        end of an id is given, nothing but the log is looked at.
        """
        found: Trace = self._run(commands.trace(self._address, message_id, after))
        return found

    def pause(self) -> None:
        """Stop deliveries to everybody; pushes and settlements go on."""
        self._run(commands.pause(self._address, paused=True))

    def resume(self) -> None:
        """Deliver again."""
        self._run(commands.pause(self._address, paused=False))

    def wake(self) -> None:
        """Let a waiting getter look again; for queues whose test clock was moved."""
        self._run(commands.wake(self._address))

    def configure(self, **config: Unpack[QueueSettings]) -> QueueConfig:
        """Change settings (the fields of QueueConfig) for every client. → all settings"""
        wanted = QueueConfig.check_fields(config)
        self.config = self._run(commands.configure(self._address, wanted, frozenset(config)))
        return self.config
