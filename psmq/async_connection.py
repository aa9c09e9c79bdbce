"""Carries commands to the server over held connections, for asyncio programs; connection.py is its twin.

What is said there holds here, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from typing import TYPE_CHECKING, Any, TypeVar

from psmq import suitability
from psmq.answers import is_get, is_push, parser
from psmq.commands import Address, Command, Plain, abandon
from psmq.connection import FAREWELL, KEPT, READ
from psmq.dialogue import LONGEST_TIMEOUT, Identity, Lost, Refused, Send, Step, Terms, converse
from psmq.endpoint import ANSWER_TIMEOUT, CONNECT_TIMEOUT, Endpoint
from psmq.errors import PsmqError, ServerUnreachable, ServerUnsuitable
from psmq.gathering import AsyncGatherer

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator

    from psmq.routes import Node

__all__ = ["AsyncChannel", "AsyncLink", "finish"]

T = TypeVar("T")


async def _anext_answer(reader: asyncio.StreamReader, parser: Any) -> Any:
    """What the server says next, read as far as need be."""
    while (answer := parser.gets()) is False:
        data = await reader.read(READ)
        if not data:
            raise Lost("the server closed the connection", sent=True)
        parser.feed(data)
    return answer


class AsyncChannel:
    """One asyncio connection with its identity, for one command at a time."""

    def __init__(self, endpoint: Endpoint, timeout: float) -> None:
        self._endpoint = endpoint
        self._terms = Terms(endpoint.shown, timeout, endpoint.copies, routed=endpoint.is_cluster)
        self._route = endpoint.route
        #: seconds the server may take; who has less patience does not wait for longer
        self._answers_within = min(ANSWER_TIMEOUT, timeout)
        #: by node of a cluster, with its parser; the only one of others is under None
        self._connections: dict[Node | None, tuple[Any, Any]] = {}
        #: whose connection is in use
        self._node: Node | None = None
        self.identity = Identity()

    async def run(self, command: Command[T] | Plain[T], *, clock: str = "", wake: float | None = None) -> T:
        """Carry out a command; ``wake``: wait so many seconds for the queue's token first."""
        steps = converse(self.identity, command, self._terms, clock=clock, wake=wake)
        try:
            return await self._drive(steps)
        except PsmqError:
            raise
        except GeneratorExit:
            self._connections.clear()  # its loop is gone, or this coroutine: nothing can be awaited
            raise
        except BaseException:
            await self.close()
            if is_get(command):
                await finish(self._hand_back(command.address, clock))
            raise

    async def _drive(self, steps: Generator[Step, list[Any], T]) -> T:
        try:
            step = next(steps)
            while True:
                try:
                    if isinstance(step, Send):
                        answers = await self._send(step)
                    else:
                        if step.anew:
                            await self._drop()
                        await asyncio.sleep(step.seconds)
                        await _one_at_a_time(self._endpoint.recover)
                        answers = []
                except Lost as lost:
                    await self._drop()
                    step = steps.throw(lost)
                except ServerUnreachable as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answers)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]  # the generator's own type
        finally:
            steps.close()

    async def _send(self, step: Send) -> list[Any]:
        sent = False
        route = self._route
        node = self._node = None if route is None else route.node_of(step.key)
        held = self._connections.get(node)
        try:
            if held is None:
                held = await self._connect(step.key)
                node = self._node
            connection, parser = held
            sent = True
            async with asyncio.timeout(self._answers_within + step.patience):
                connection._writer.write(step.payload)
                await connection._writer.drain()
                answers = [await _anext_answer(connection._reader, parser) for _ in range(step.answers)]
        except Exception as error:
            meant = suitability.meant(self._endpoint, error, sent=sent)
            if isinstance(meant, ServerUnsuitable):
                await self._drop()
            raise meant from None
        if route is not None:
            for answer in answers:
                if isinstance(answer, Refused) and answer.code == "MOVED":
                    self._endpoint.moved(answer.detail, node)
        return answers

    async def _connect(self, key: str) -> tuple[Any, Any]:
        import redis.asyncio.connection as kinds

        node, kind, settings = await _one_at_a_time(lambda: self._endpoint.settings(key))
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        settings["retry"] = Retry(NoBackoff(), 0)
        # Timeouts are ours: redis-py writes under wait_for(), which in Python 3.11 may swallow a cancellation, and
        # answers a read that timed out with None, leaving the real answer to the next caller.
        settings["socket_timeout"] = None
        classes = {"tcp": kinds.Connection, "tls": kinds.SSLConnection, "unix": kinds.UnixDomainSocketConnection}
        connection = suitability.made(classes[kind], settings)
        # Known before it is open: whatever interrupts this closes it.
        self._node, held = node, (connection, parser())
        self._connections[node] = held
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await connection.connect()
                if questions := suitability.questions(self._endpoint, settings):
                    connection._writer.write(questions.payload)
                    answers = [await _anext_answer(connection._reader, held[1]) for _ in range(questions.answers)]
                    suitability.judge(self._endpoint, settings, answers)
        except Lost as lost:
            raise Lost(str(lost), sent=False) from None  # the command itself was not
        except PsmqError:
            await self._drop()
            raise
        return held

    async def _hand_back(self, address: Address, clock: str) -> None:
        client_id, number = self.identity.client_id, self.identity.number
        self.identity.renew()
        farewell = AsyncChannel(self._endpoint, FAREWELL)
        with contextlib.suppress(PsmqError):
            await farewell.run(abandon(address, client_id, number=number), clock=clock)
        await farewell.close()

    async def _drop(self) -> None:
        """Give up the connection in use; those to other nodes stay."""
        held = self._connections.pop(self._node, None)
        if held is not None:
            await held[0].disconnect(nowait=True)

    async def close(self) -> None:
        """Give all connections up; the next command opens another."""
        while self._connections:
            await self._connections.popitem()[1][0].disconnect(nowait=True)


class AsyncLink:
    """A pool of channels to one server for each event loop that uses it; a forked child gets connections of its own."""

    def __init__(self, endpoint: Endpoint, timeout: float) -> None:
        self.endpoint = endpoint
        self.timeout = min(timeout, LONGEST_TIMEOUT)
        self._pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, list[AsyncChannel]]
        self._pools = weakref.WeakKeyDictionary()
        self._gatherers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncGatherer]
        self._gatherers = weakref.WeakKeyDictionary()
        self._pid = os.getpid()

    async def run(self, command: Command[T] | Plain[T], *, clock: str = "", wake: float | None = None) -> T:
        """Carry out a command on a connection that is free; pushes of several coroutines go together."""
        if self._pid != os.getpid():
            self._pools, self._gatherers = weakref.WeakKeyDictionary(), weakref.WeakKeyDictionary()
            self._pid = os.getpid()
        if is_push(command):
            loop = asyncio.get_running_loop()
            gatherer = self._gatherers.get(loop)
            if gatherer is None:
                gatherer = self._gatherers[loop] = AsyncGatherer(self._run)
            return await gatherer.push(command, clock)  # type: ignore[return-value]  # T is what a push answers
        return await self._run(command, clock, wake)

    async def _run(self, command: Command[T] | Plain[T], clock: str, wake: float | None = None) -> T:
        idle = self._pools.setdefault(asyncio.get_running_loop(), [])
        channel = idle.pop() if idle else self.channel()
        try:
            return await channel.run(command, clock=clock, wake=wake)
        finally:
            if len(idle) < KEPT:
                idle.append(channel)
            else:
                await channel.close()

    def channel(self) -> AsyncChannel:
        """A channel of one's own, outside the pool."""
        return AsyncChannel(self.endpoint, self.timeout)

    async def close(self) -> None:
        """Close what is idle on this loop; the link can be used again."""
        idle = self._pools.pop(asyncio.get_running_loop(), [])
        for channel in idle:
            await channel.close()


_background: set[asyncio.Task[None]] = set()
_starting: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = weakref.WeakKeyDictionary()


async def finish(work: Coroutine[Any, Any, None]) -> None:
    """What must be done after a cancellation: waited for, and it goes on if its caller is cancelled once more."""
    task = asyncio.get_running_loop().create_task(work)
    _background.add(task)
    task.add_done_callback(_background.discard)
    await asyncio.shield(task)


async def _one_at_a_time(work: Any) -> Any:
    """Blocking work (finding or starting a server) off the loop, in one thread however many wait for it."""
    lock = _starting.setdefault(asyncio.get_running_loop(), asyncio.Lock())
    async with lock:
        return await asyncio.to_thread(work)
