"""What every queue does, without the doing: naming, serializing, and the flows that take several steps.

Waiting for a message, purging in slices or awaiting a result are generators of requests; ``Queue`` drives them in
threads, ``AsyncQueue`` on an event loop.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeVar

from psmq import commands
from psmq.bound import Held, lease_of
from psmq.commands import BATCH, LETTERS, MOST, SETTLED, Address, Command, Delivered, NewMessage, Plain, Popped, State
from psmq.config import QueueConfig, integer, milliseconds
from psmq.dialogue import steady
from psmq.durability import Durability
from psmq.errors import (
    DeserializationError,
    InvalidOption,
    NotSerializable,
    PsmqError,
    ReceiptExpired,
    ServerFull,
    ServerUnsuitable,
)
from psmq.settlement import Release
from psmq.transfers import At, Transfer, finish, transfer

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from datetime import timedelta

    from psmq.message import DeadLetter, MessageRecord, QueueInfo
    from psmq.settlement import Settlement

T = TypeVar("T")

#: nobody waits on the server for longer than this (s): a lost wake-up costs no more
LONGEST_WAIT: Final = 2.0


class Waiting(NamedTuple):
    """A command that first waits so many seconds for the queue's token."""

    command: Command[Delivered]
    seconds: float


class Pause(NamedTuple):
    """Nothing to send for so many seconds."""

    seconds: float


Request = Command[Any] | Plain[Any] | Waiting | Pause | At


class Interrupted(Exception):  # a signal between driver and flow, never seen outside
    """The command was interrupted. A flow that holds messages which nobody has seen yields what hands them back."""


def gives_durability(address: Address) -> Generator[Request, Any, Durability]:
    """What the queue's server does to keep what it has stored; what this user may not ask stays unknown."""
    info = flushed = ""
    with contextlib.suppress(ServerUnsuitable):
        info = yield commands.keeping(address)
        flushed = yield commands.flushing(address)
    return Durability.read(info, flushed)


def clock_override() -> str:
    """The clock of this process, as the override of a queue made with clock="test"."""
    return str(int(time.time() * 1000))


def batched(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """So many at a time as go into one trip."""
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]


def _distinct(ids: Iterable[str]) -> list[str]:
    return [ids] if isinstance(ids, str) else list(dict.fromkeys(ids))


class QueueFlows:
    """What needs no server: naming, serializing, and the flows of several steps."""

    def __init__(
        self,
        address: Address,
        config: QueueConfig,
        serializer: Callable[[Any], bytes] | None,
        deserializer: Callable[[bytes], Any] | None,
    ) -> None:
        self._address = address
        self._serializer = serializer
        self._deserializer = deserializer
        #: the settings as this client last saw them
        self.config = config

    @property
    def name(self) -> str:
        """The queue's name."""
        return self._address.name

    @property
    def visibility_seconds(self) -> float:
        """The visibility timeout in seconds."""
        return milliseconds("visibility_timeout", self.config.visibility_timeout) / 1000

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def _clock(self) -> str:
        """The override that queues made for tests take from this process's clock."""
        return clock_override() if self.config.clock == "test" else ""

    def _serialized(self, data: Any) -> bytes:
        if self._serializer is not None:
            try:
                data = self._serializer(data)
            except Exception as error:
                raise NotSerializable(f"the serializer of queue {self.name!r} raised {error!r}") from error
            if not isinstance(data, (bytes, bytearray, memoryview)):
                raise NotSerializable(
                    f"the serializer of queue {self.name!r} made {type(data).__name__}: it must return bytes"
                )
        return commands.as_bytes(data)

    def _deserialized(self, record: MessageRecord) -> Any:
        data = record.data
        if self._deserializer is None:
            return data
        try:
            return self._deserializer(data)
        except Exception as error:
            raise DeserializationError(
                f"the deserializer raised {error!r} on message {record.message_id} of queue {self.name!r}"
            ) from error

    def _new(self, item: Any, options: NewMessage) -> NewMessage:
        if not isinstance(item, NewMessage):
            return options._replace(data=self._serialized(item))
        data = self._serialized(item.data)
        return item if data is item.data else item._replace(data=data)

    def _pushes(self, items: Iterable[Any], options: NewMessage) -> Iterable[Command[list[str]]]:
        """One command for each 200; an iterable is read as it is sent."""
        chunk: list[NewMessage] = []
        size = 0
        for item in items:
            message = self._new(item, options)
            chunk.append(message)
            size += len(message.data)
            if len(chunk) == BATCH or size > 4 * 1024 * 1024:
                yield commands.push(self._address, chunk)
                chunk, size = [], 0
        if chunk:
            yield commands.push(self._address, chunk)

    def _gets(
        self, limit: int, wait: float | timedelta, visibility_timeout: float | timedelta | None
    ) -> Generator[Request, Any, Delivered]:
        """Get up to ``limit``, waiting up to ``wait`` seconds for the first; without a polling loop.

        An empty answer tells how long nothing can become ready by itself; the wait for a token is never longer.
        """
        seconds = milliseconds("wait", wait) / 1000
        integer("limit", limit, 1, MOST)
        ends = steady() + seconds
        patience = min(LONGEST_WAIT, self._lease(visibility_timeout) / 2)

        def ask(wanted: int) -> Command[Delivered]:
            return commands.exchange(self._address, (), wanted, visibility_timeout=visibility_timeout)

        wanted = min(limit, BATCH)
        asked = steady()
        answer: Delivered = yield ask(wanted)
        while not answer.messages:
            if answer.more:
                wanted = min(limit, BATCH)
                asked = steady()
                answer = yield ask(wanted)
                continue
            left = ends - steady()
            if left <= 0:
                return answer
            pause = min(left, patience) if answer.wait is None else min(left, patience, answer.wait)
            asked = steady()
            # Behind the token only one is asked for: should this process be stopped while it waits,
            # it holds no more than that.
            wanted = 1
            answer = yield Waiting(ask(wanted), max(pause, 0.001))
        rest = limit - wanted if len(answer.messages) == wanted else 0
        return (yield from self._secures(answer, asked, visibility_timeout, rest))

    def _lease(self, visibility_timeout: float | timedelta | None) -> float:
        held = self.config.visibility_timeout if visibility_timeout is None else visibility_timeout
        return milliseconds("visibility_timeout", held, least=1) / 1000

    def _secures(
        self,
        answer: Delivered,
        asked: float,
        visibility_timeout: float | timedelta | None,
        rest: int = 0,
    ) -> Generator[Request, Any, Delivered]:
        """Messages that were got, and up to ``rest`` behind them; what came late only if it is still ours."""
        timeout = self._lease(visibility_timeout)
        try:
            while rest > 0 and steady() - asked <= timeout / 2:
                wanted = min(rest, BATCH)
                try:
                    more: Delivered = yield commands.exchange(
                        self._address, (), wanted, visibility_timeout=visibility_timeout
                    )
                except PsmqError:
                    break  # what is held is worth more than the error, if it is still held
                answer = answer._replace(messages=answer.messages + more.messages)
                rest = rest - wanted if len(more.messages) == wanted else 0
            if steady() - asked > timeout / 2:
                # The answer came late (this process was stopped, the network stood still): is it still ours?
                kept: list[MessageRecord] = []
                for part in batched(answer.messages):
                    leases = [(message.message_id, message.receipt) for message in part]
                    words: list[str] = yield commands.extend(self._address, leases, timeout)
                    kept += [message for message, word in zip(part, words, strict=True) if word == "done"]
                answer = answer._replace(messages=kept)
        except (PsmqError, GeneratorExit):
            raise
        except BaseException:  # Interrupted, or a signal that came in here, between two commands
            with contextlib.suppress(PsmqError):
                for start in range(0, len(answer.messages), SETTLED):
                    part = answer.messages[start : start + SETTLED]
                    unseen = [(found.message_id, found.receipt, Release(count=False)) for found in part]
                    yield commands.exchange(self._address, unseen, 0)
            raise
        return answer

    def _exchanges(
        self,
        settlements: Sequence[tuple[Held, Settlement]],
        limit: int,
        wait: float | timedelta,
        visibility_timeout: float | timedelta | None,
    ) -> Generator[Request, Any, tuple[list[str], list[MessageRecord]]]:
        """Settle, then get; the settlements travel in a first exchange that does not wait.

        More than a hundred settlements, or two hundred of both together, take several trips.
        """
        milliseconds("wait", wait)
        integer("limit", limit, 0, MOST)
        items = [(*lease_of(message), settlement) for message, settlement in settlements]
        words: list[str] = []
        for start in range(0, max(1, len(items)), SETTLED):
            part = items[start : start + SETTLED]
            wanted = min(limit, BATCH - len(part)) if start + SETTLED >= len(items) else 0
            asked = steady()
            first: Delivered = yield commands.exchange(
                self._address, part, wanted, visibility_timeout=visibility_timeout
            )
            words += first.words
        if first.messages:
            rest = limit - wanted if len(first.messages) == wanted else 0
            got = yield from self._secures(first, asked, visibility_timeout, rest)
        elif limit == 0 or (not wait and not first.more):
            got = first
        else:
            got = yield from self._gets(limit, wait, visibility_timeout)
        return words, got.messages

    def _tells(self) -> Generator[Request, Any, QueueInfo]:
        found: QueueInfo = yield commands.info(self._address)
        return replace(found, durability=(yield from gives_durability(self._address)))

    def _pops(self) -> Generator[Request, Any, MessageRecord | None]:
        while True:
            answer: Popped = yield commands.pop(self._address)
            if answer.message or not answer.more:
                return answer.message

    def _settles(self, message: Held, settlement: Settlement) -> Generator[Request, Any, None]:
        message_id, receipt = lease_of(message)
        answer: Delivered = yield commands.exchange(self._address, [(message_id, receipt, settlement)], 0)
        if answer.words[0] == "stale":
            raise ReceiptExpired(self.name, message_id)

    def _extends(self, message: Held, timeout: float | timedelta) -> Generator[Request, Any, None]:
        lease = lease_of(message)
        words: list[str] = yield commands.extend(self._address, [lease], timeout)
        if words[0] == "stale":
            raise ReceiptExpired(self.name, lease[0])

    def _purges(self, states: Sequence[State] | None, ids: Iterable[str] | None) -> Generator[Request, Any, int]:
        total = 0
        if ids is not None:
            if states is not None:
                raise InvalidOption("ids", "are those of dead letters: leave states out")
            for part in batched(_distinct(ids)):
                removed: int = yield commands.purge(self._address, "dead", part)
                total += removed
            return total
        chosen: Sequence[State] = ("ready", "delayed") if states is None else states
        # all built, and so checked, before the first is sent
        for purging in [commands.purge(self._address, state) for state in chosen]:
            while removed := (yield purging):
                total += removed
        return total

    def _finds(
        self, state: State, limit: int, after: MessageRecord | None, *, data: bool
    ) -> Generator[Request, Any, list[MessageRecord]]:
        integer("limit", limit, 1, MOST)
        found: list[MessageRecord] = []
        while len(found) < limit:
            wanted = min(limit - len(found), BATCH)
            page: list[MessageRecord] = yield commands.messages(self._address, state, wanted, after, data=data)
            found += page
            if len(page) < wanted:  # the end, or large bodies
                break
            after = page[-1]
        return found

    def _finds_dead(
        self,
        limit: int,
        after: DeadLetter | None,
        ids: Iterable[str] | None,
        *,
        data: bool,
        history: bool | Literal["short"],
    ) -> Generator[Request, Any, list[DeadLetter]]:
        integer("limit", limit, 1, MOST)
        if ids is not None and after is not None:
            raise InvalidOption("after", "goes with pages of all dead letters: leave it out where ids are given")
        found: list[DeadLetter] = []
        while ids is None and len(found) < limit:
            wanted_now = min(limit - len(found), BATCH)
            page: list[DeadLetter] = yield commands.dead_letters(
                self._address, wanted_now, after, (), data=data, history=history
            )
            found += page
            if len(page) < wanted_now:
                break
            after = page[-1]
        wanted = [] if ids is None else _distinct(ids)
        while wanted:
            page = yield commands.dead_letters(self._address, limit, None, wanted[:BATCH], data=data, history=history)
            found += page
            # Large bodies end a page early: who is missing is asked for once more.
            seen = {letter.message.message_id for letter in page}
            left = [message_id for message_id in wanted[:BATCH] if message_id not in seen] if page else []
            wanted = left + wanted[BATCH:]
        return found

    def _finds_failures(self, ids: Iterable[str]) -> Generator[Request, Any, list[tuple[bytes, ...]]]:
        wanted, found = list(ids), []
        # Up to 64 KiB for each: a few at a time.
        for start in range(0, len(wanted), 50):
            found += yield commands.failures(self._address, wanted[start : start + 50])
        return found

    def _redrives(self, ids: Iterable[str], *, keep_count: bool) -> Generator[Request, Any, int]:
        total = 0
        for part in batched(_distinct(ids)):
            count: int = yield commands.redrive(self._address, part, keep_count=keep_count)
            total += count
        return total

    def _transfers(
        self, ids: Iterable[str], to: str, *, keep_count: bool, rewrite: Callable[[DeadLetter], bytes] | None
    ) -> Generator[Request, Any, Transfer]:
        return (yield from transfer(self._address, to, _distinct(ids), keep_count=keep_count, rewrite=rewrite))

    def _finishes_transfers(self, other: str | None) -> Generator[Request, Any, list[str]]:
        return (yield from finish(self._address, other))

    def _hastens(self, ids: Iterable[str]) -> Generator[Request, Any, int]:
        total = 0
        for part in batched(_distinct(ids)):
            count: int = yield commands.hasten(self._address, part)
            total += count
        return total

    def _buries_waiting(self, ids: Iterable[str], reason: str) -> Generator[Request, Any, int]:
        total = 0
        for part in batched(_distinct(ids)):
            count: int = yield commands.bury_waiting(self._address, part, reason)
            total += count
        return total

    def _adopts(self, letters: Iterable[DeadLetter]) -> Generator[Request, Any, int]:
        """Up to a hundred in one command, or a few MiB of them."""
        chunk: list[DeadLetter] = []
        size = total = 0
        for letter in letters:
            chunk.append(letter)
            size += len(letter.message.value)
            if len(chunk) == LETTERS or size > 1024 * 1024:
                count: int = yield commands.adopt(self._address, chunk)
                total, chunk, size = total + count, [], 0
        if chunk:
            count = yield commands.adopt(self._address, chunk)
            total += count
        return total

    def _awaits_result(self, message_id: str, wait: float | timedelta) -> Generator[Request, Any, bytes | None]:
        ends = steady() + milliseconds("wait", wait) / 1000
        found: bytes | None = yield commands.await_result(self._address, message_id, 0)
        while found is None:
            left = ends - steady()
            if left <= 0:
                break
            try:
                found = yield commands.await_result(self._address, message_id, max(0.001, min(left, LONGEST_WAIT)))
            except ServerFull:
                # At maxmemory the server refuses BLMOVE, which it counts as writing: look twice a second instead.
                yield Pause(0.5)
                found = yield commands.await_result(self._address, message_id, 0)
        return found
