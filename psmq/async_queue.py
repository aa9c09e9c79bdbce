"""The queue as asyncio programs see it: thin verbs over commands.

``queue.py`` has the same verbs with the same parameters and words; a test holds the two equal.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from psmq import commands
from psmq.async_connection import finish
from psmq.bound import Held, MessageFields
from psmq.commands import Address, Delivered, NewMessage, State
from psmq.config import QueueConfig, milliseconds
from psmq.driving import adrive
from psmq.errors import PsmqError
from psmq.flows import Interrupted, Pause, QueueFlows, Request, Waiting, clock_override
from psmq.settlement import Bury, Delete, Release, Settlement
from psmq.transfers import At

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
    from datetime import timedelta
    from typing import Unpack

    from psmq.async_connection import AsyncChannel, AsyncLink
    from psmq.config import QueueSettings
    from psmq.message import DeadLetter, MessageRecord, QueueInfo
    from psmq.stats import QueueStats
    from psmq.traces import Trace
    from psmq.transfers import Transfer

__all__ = ["AsyncMessage", "AsyncQueue"]

T = TypeVar("T")


class AsyncMessage(MessageFields):
    """A message bound to the queue it came from. Always true."""

    __slots__ = ()
    _queue: AsyncQueue

    async def delete(self) -> None:
        """Done with it. ReceiptExpired when it was delivered again meanwhile."""
        await self._queue.delete(self)

    async def extend(self, timeout: float | timedelta) -> None:
        """Keep it hidden for ``timeout`` seconds from now."""
        await self._queue.extend(self, timeout)

    async def release(
        self, delay: float | timedelta = 0, *, count: bool = True, max_retrievals: int | None = None
    ) -> None:
        """Give it back, ready after ``delay`` seconds."""
        await self._queue.release(self, delay, count=count, max_retrievals=max_retrievals)

    async def bury(self, reason: str) -> None:
        """Make it a dead letter."""
        await self._queue.bury(self, reason)


class AsyncQueue(QueueFlows):
    """A queue on the server; safe to use from any thread."""

    def __init__(
        self,
        address: Address,
        config: QueueConfig,
        link: AsyncLink | AsyncChannel,
        serializer: Callable[[Any], bytes] | None = None,
        deserializer: Callable[[bytes], Any] | None = None,
    ) -> None:
        super().__init__(address, config, serializer, deserializer)
        self._link = link

    async def _run(self, request: Request) -> Any:
        if isinstance(request, Waiting):
            return await self._link.run(request.command, clock=self._clock(), wake=request.seconds)
        if isinstance(request, Pause):
            return await asyncio.sleep(request.seconds)
        if isinstance(request, At):
            return await self._link.run(request.command, clock=clock_override() if request.test else "")
        return await self._link.run(request, clock=self._clock())

    async def _drive(self, steps: Generator[Request, Any, T]) -> T:
        try:
            return await adrive(steps, self._run)
        except (PsmqError, GeneratorExit):  # after the latter nothing can be awaited
            raise
        except BaseException:
            await finish(self._let_go(steps))
            raise

    async def _let_go(self, steps: Generator[Request, Any, Any]) -> None:
        with contextlib.suppress(PsmqError, Interrupted, StopIteration):
            request = steps.throw(Interrupted())
            while True:
                request = steps.send(await self._run(request))

    async def push(
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
        ids: list[str] = await self._run(commands.push(self._address, [self._new(data, options)]))
        return ids[0]

    async def push_many(
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
        for command in self._pushes(items, options):
            stored = await self._run(command)
            ids += stored
            if progress is not None:
                progress(stored)
        return ids

    async def get(
        self, *, wait: float | timedelta = 0, visibility_timeout: float | timedelta | None = None
    ) -> AsyncMessage | None:
        """The next message, hidden from others for its visibility timeout; None when there is none after ``wait`` s.

        Delete it when done: otherwise it is delivered again, and is dead after max_retrievals deliveries.
        """
        found: Delivered = await self._drive(self._gets(1, wait, visibility_timeout))
        return AsyncMessage(found.messages[0], self) if found.messages else None

    async def get_many(
        self,
        limit: int,
        *,
        wait: float | timedelta = 0,
        visibility_timeout: float | timedelta | None = None,
    ) -> list[AsyncMessage]:
        """Up to ``limit`` (1 … 1000) messages, 200 in one trip; waits for the first only. Ends early after 256 KiB."""
        found: Delivered = await self._drive(self._gets(limit, wait, visibility_timeout))
        return [AsyncMessage(record, self) for record in found.messages]

    async def exchange(
        self,
        settlements: Sequence[tuple[Held, Settlement]],
        limit: int = 0,
        *,
        wait: float | timedelta = 0,
        visibility_timeout: float | timedelta | None = None,
    ) -> tuple[list[str], list[AsyncMessage]]:
        """Delete, release or bury what is finished and get what is next, in one trip (for a hundred, and two hundred).

        → a word for each settlement: done, stale (the receipt had expired, nothing was changed) or dead (a release
        that met max_retrievals); and the new messages.
        """
        words, records = await self._drive(self._exchanges(settlements, limit, wait, visibility_timeout))
        return words, [AsyncMessage(record, self) for record in records]

    async def pop(self) -> AsyncMessage | None:
        """Take the next message and delete it at once: if processing fails, it is lost."""
        record: MessageRecord | None = await self._drive(self._pops())
        return record and AsyncMessage(record, self)

    async def peek(self) -> AsyncMessage | None:
        """A copy of the message that the next get would give; nothing changes."""
        record: MessageRecord | None = await self._run(commands.peek(self._address))
        return record and AsyncMessage(record, self)

    async def delete(self, message: Held) -> None:
        """Done with a message that was got. ReceiptExpired when it was delivered again or settled meanwhile."""
        await self._drive(self._settles(message, Delete()))

    async def extend(self, message: Held, timeout: float | timedelta) -> None:
        """Let the lease end ``timeout`` seconds from now."""
        await self._drive(self._extends(message, timeout))

    async def release(
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
        await self._drive(self._settles(message, Release(seconds, count=count, max_retrievals=max_retrievals)))

    async def bury(self, message: Held, reason: str) -> None:
        """Make a message a dead letter."""
        await self._drive(self._settles(message, Bury(reason)))

    async def messages(
        self, state: State, *, limit: int = 100, after: AsyncMessage | MessageRecord | None = None, data: bool = True
    ) -> list[AsyncMessage]:
        """A page of the messages that are ready, delayed, leased or dead, in their order, behind ``after``.

        May be shorter than ``limit`` when bodies are large; the end is an empty page. ``data=False``: metadata only.
        """
        behind = after.record if isinstance(after, AsyncMessage) else after
        found: list[MessageRecord] = await self._drive(self._finds(state, limit, behind, data=data))
        return [AsyncMessage(record, self) for record in found]

    async def dead_letters(
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
        letters: list[DeadLetter] = await self._drive(self._finds_dead(limit, after, ids, data=data, history=history))
        return letters

    async def failures(self, ids: Iterable[str]) -> list[tuple[bytes, ...]]:
        """The failure records of messages in whatever state, oldest first, for each id."""
        records: list[tuple[bytes, ...]] = await self._drive(self._finds_failures(ids))
        return records

    async def redrive(self, ids: Iterable[str], *, keep_count: bool = False) -> int:
        """Make dead letters ready again, with their id and history; the count starts anew unless kept. → how many

        ``keep_count`` gives exactly one more delivery. Raises MessageNotFound when one is not dead: then nothing of
        its 200 was done.
        """
        count: int = await self._drive(self._redrives(ids, keep_count=keep_count))
        return count

    async def transfer(
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
        result: Transfer = await self._drive(self._transfers(ids, to, keep_count=keep_count, rewrite=rewrite))
        return result

    async def finish_transfers(self, other: str | None = None) -> list[str]:
        """Complete transfers from or to this queue that were broken off. → ids that are where they should be now

        ``other``: only those to or from that queue.
        """
        ids: list[str] = await self._drive(self._finishes_transfers(other))
        return ids

    async def hasten(self, ids: Iterable[str]) -> int:
        """Make delayed messages ready now, uncounted. → how many

        Raises MessageNotFound when one does not wait: then nothing of its 200 was done.
        """
        count: int = await self._drive(self._hastens(ids))
        return count

    async def bury_waiting(self, ids: Iterable[str], reason: str) -> int:
        """Make delayed messages dead letters. → how many

        Raises MessageNotFound when one does not wait: then nothing of its 200 was done.
        """
        count: int = await self._drive(self._buries_waiting(ids, reason))
        return count

    async def amend(
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
        await self._run(
            commands.amend(self._address, message_id, body, metadata=metadata or {}, note=note, redrive=redrive)
        )

    async def adopt(self, letters: Iterable[DeadLetter]) -> int:
        """Store dead letters that were exported or purged, with their ids and histories. → how many were not there

        A letter whose id the queue has, in whatever state, stays as it is: what was broken off can be repeated.
        ``message.score`` is when it was buried, in ms.
        """
        count: int = await self._drive(self._adopts(letters))
        return count

    async def purge(self, *, states: Sequence[State] | None = None, ids: Iterable[str] | None = None) -> int:
        """Delete all messages of these states (ready and delayed), or the dead letters with these ids. → how many

        InvalidOption where both are given.
        """
        count: int = await self._drive(self._purges(states, ids))
        return count

    async def result(self, message_id: str, *, wait: float | timedelta = 0) -> bytes | None:
        """What the message's holder stored with its last settlement; None when there is none after ``wait`` s.

        ``b"!lost …"``, ``b"!expired …"`` and ``b"!buried …"`` are written by the server itself.
        """
        found: bytes | None = await self._drive(self._awaits_result(message_id, wait))
        return found

    async def info(self) -> QueueInfo:
        """Counts, ages, counters and settings, and what the server does to keep the messages."""
        found: QueueInfo = await self._drive(self._tells())
        return found

    async def stats(self, minutes: int = 5) -> QueueStats:
        """What was done in the last whole ``minutes`` (1 … 480) and the one that runs: counts, rates, percentiles."""
        found: QueueStats = await self._run(commands.stats_of(self._address, minutes))
        return found

    async def trace(self, message_id: str, *, after: int = 0) -> Trace:
        """Where a message is now, what failed so far, and what the queue's event log says of it.

        The log is off unless ``configure(event_log=N)`` keeps N events. It is read from behind the event numbered
        ``after``: the next look goes on at ``trace.after``, and finds more at once where ``trace.more``. Where only the
        end of an id is given, nothing but the log is looked at.
        """
        found: Trace = await self._run(commands.trace(self._address, message_id, after))
        return found

    async def pause(self) -> None:
        """Stop deliveries to everybody; pushes and settlements go on."""
        await self._run(commands.pause(self._address, paused=True))

    async def resume(self) -> None:
        """Deliver again."""
        await self._run(commands.pause(self._address, paused=False))

    async def wake(self) -> None:
        """Let a waiting getter look again; for queues whose test clock was moved."""
        await self._run(commands.wake(self._address))

    async def configure(self, **config: Unpack[QueueSettings]) -> QueueConfig:
        """Change settings (the fields of QueueConfig) for every client. → all settings"""
        wanted = QueueConfig.check_fields(config)
        self.config = await self._run(commands.configure(self._address, wanted, frozenset(config)))
        return self.config
