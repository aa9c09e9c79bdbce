"""Carries commands to the server over held connections: from threads by ``Link``, from asyncio by ``AsyncLink``.

redis-py opens the connections, with whatever it takes to be let in; from then on their sockets and a hiredis parser
are ours. Its clients, pools and retries are left out, because they cost more than the server's work and repeat what
must not be repeated. A connection serves one command at a time; whatever interrupts a command closes its connection, so
that no answer reaches another caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
import weakref
from typing import TYPE_CHECKING, Any, Final, TypeGuard, TypeVar

from psmq.commands import Address, Command, Plain, abandon
from psmq.dialogue import LONGEST_TIMEOUT, Identity, Lost, Refused, Send, Step, converse
from psmq.endpoint import ANSWER_TIMEOUT, CONNECT_TIMEOUT, Endpoint
from psmq.errors import PsmqError, ServerUnreachable, ServerUnsuitable
from psmq.gathering import AsyncGatherer, Gatherer

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator

T = TypeVar("T")

#: seconds an interrupted get may take to hand back what it was given
_FAREWELL: Final = 2.0
#: bytes read at once
_READ: Final = 65536
#: connections kept open for later; more are opened and closed as needed
_KEPT: Final = 64


def _refused(text: str) -> Refused:
    """An error that the server answered; its first word is the code."""
    code, _, detail = text.partition(" ")
    return Refused(code, detail)


def _parser() -> Any:
    """Takes bytes, gives answers: False while there is none, Refused for an error."""
    from hiredis import Reader

    return Reader(replyError=_refused)  # type: ignore[arg-type]  # whatever it makes of one is the answer


def _unsuitable(endpoint: Endpoint, error: Exception) -> ServerUnsuitable:
    """Refused while connecting (rights, database number), or no server that speaks the protocol."""
    return ServerUnsuitable(f"{endpoint.shown}: {error}")


def _is_push(command: Command[Any] | Plain[Any]) -> TypeGuard[Command[list[str]]]:
    return isinstance(command, Command) and command.function == "push"


def _is_get(command: Command[Any] | Plain[Any]) -> TypeGuard[Command[Any]]:
    return isinstance(command, Command) and command.function == "exchange" and command.args[0] != 0


def _next_answer(sock: Any, parser: Any) -> Any:
    """What the server says next, read from the socket as far as need be."""
    while (answer := parser.gets()) is False:
        data = sock.recv(_READ)
        if not data:
            raise Lost("the server closed the connection", sent=True)
        parser.feed(data)
    return answer


async def _anext_answer(reader: asyncio.StreamReader, parser: Any) -> Any:
    while (answer := parser.gets()) is False:
        data = await reader.read(_READ)
        if not data:
            raise Lost("the server closed the connection", sent=True)
        parser.feed(data)
    return answer


class Channel:
    """One connection with its identity, for one command at a time."""

    def __init__(self, endpoint: Endpoint, timeout: float) -> None:
        self._endpoint = endpoint
        self._timeout = timeout
        #: seconds the server may take; who has less patience does not wait for longer
        self._answers_within = min(ANSWER_TIMEOUT, timeout)
        self._pid = os.getpid()
        self._connection: Any = None
        self._socket: Any = None
        self._parser: Any = None
        #: seconds that the socket now waits for an answer
        self._patience = 0.0
        self._shut = False
        self.identity = Identity()

    def run(self, command: Command[T] | Plain[T], *, clock: str = "", wake: float | None = None) -> T:
        """Carry out a command; ``wake``: wait so many seconds for the queue's token first."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self.identity.renew()
            self.close()
        steps = converse(
            self.identity, command, clock=clock, wake=wake, timeout=self._timeout, where=self._endpoint.shown
        )
        try:
            return self._drive(steps)
        except PsmqError:
            raise
        except BaseException:
            # Interrupted: nobody will read that answer, and what a get was given goes back.
            self.close()
            if _is_get(command):
                self._hand_back(command.address, clock)
            raise

    def _drive(self, steps: Generator[Step, list[Any], T]) -> T:
        try:
            step = next(steps)
            while True:
                try:
                    if isinstance(step, Send):
                        answers = self._send(step)
                    else:
                        time.sleep(step.seconds)
                        self._endpoint.recover()
                        answers = []
                except Lost as lost:
                    self.close()
                    if self._shut:
                        raise ServerUnreachable("shut") from None
                    step = steps.throw(lost)
                except ServerUnreachable as error:
                    if self._shut:
                        raise
                    step = steps.throw(error)
                else:
                    step = steps.send(answers)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]  # the generator's own type
        finally:
            steps.close()

    def _send(self, step: Send) -> list[Any]:
        from redis import exceptions

        sent = False
        if self._shut:
            raise ServerUnreachable("shut")
        try:
            if self._connection is None:
                self._connect()
            sock, parser = self._socket, self._parser
            patience = self._answers_within + step.patience
            if patience != self._patience:
                self._patience = patience
                sock.settimeout(patience)
            sent = True
            sock.sendall(step.payload)
            return [_next_answer(sock, parser) for _ in range(step.answers)]
        except exceptions.AuthenticationError as error:
            raise _unsuitable(self._endpoint, error) from None
        except exceptions.BusyLoadingError as error:
            raise Lost(str(error), sent=False) from None
        except (exceptions.ConnectionError, exceptions.TimeoutError, OSError) as error:
            raise Lost(str(error) or "no answer in time", sent=sent) from None
        except exceptions.RedisError as error:
            raise _unsuitable(self._endpoint, error) from None

    def _connect(self) -> None:
        import redis.connection as kinds

        kind, settings = self._endpoint.settings()
        classes = {"tcp": kinds.Connection, "tls": kinds.SSLConnection, "unix": kinds.UnixDomainSocketConnection}
        connection = self._connection = classes[kind](**settings)
        connection.connect()
        self._socket, self._parser, self._patience = connection._sock, _parser(), 0.0

    def _hand_back(self, address: Address, clock: str) -> None:
        client_id, number = self.identity.client_id, self.identity.number
        self.identity.renew()
        farewell = Channel(self._endpoint, _FAREWELL)
        with contextlib.suppress(PsmqError):
            farewell.run(abandon(address, client_id, number=number), clock=clock)
        farewell.close()

    def shut(self) -> None:
        """From any thread: end what this channel waits for, and let it send nothing more."""
        self._shut = True
        connection = self._connection
        sock = connection and connection._sock
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the connection up; the next command opens another."""
        connection, self._connection, self._socket = self._connection, None, None
        if connection is not None:
            connection.disconnect()


class Link:
    """A pool of channels to one server: any thread may run commands, a forked child gets connections of its own."""

    def __init__(self, endpoint: Endpoint, timeout: float) -> None:
        self.endpoint = endpoint
        self.timeout = min(timeout, LONGEST_TIMEOUT)
        self._idle: list[Channel] = []
        self._gatherer = Gatherer(self._run)
        self._pid = os.getpid()

    def run(self, command: Command[T] | Plain[T], *, clock: str = "", wake: float | None = None) -> T:
        """Carry out a command on a connection that is free; pushes of several threads go together."""
        if self._pid != os.getpid():
            # The parent's connections are dropped unread; its identities stay its own. The number last: another thread
            # that finds it new must find the rest new, too.
            self._idle, self._gatherer = [], Gatherer(self._run)
            self._pid = os.getpid()
        if _is_push(command):
            return self._gatherer.push(command, clock)  # type: ignore[return-value]  # T is what a push answers
        return self._run(command, clock, wake)

    def _run(self, command: Command[T] | Plain[T], clock: str, wake: float | None = None) -> T:
        try:
            channel = self._idle.pop()  # atomic: no lock is needed between threads
        except IndexError:
            channel = self.channel()
        try:
            return channel.run(command, clock=clock, wake=wake)
        finally:
            if len(self._idle) < _KEPT:
                self._idle.append(channel)
            else:
                channel.close()

    def channel(self) -> Channel:
        """A channel of one's own, outside the pool."""
        return Channel(self.endpoint, self.timeout)

    def close(self) -> None:
        """Close what is idle; the link can be used again."""
        while self._idle:
            self._idle.pop().close()


class AsyncChannel:
    """One asyncio connection with its identity, for one command at a time."""

    def __init__(self, endpoint: Endpoint, timeout: float) -> None:
        self._endpoint = endpoint
        self._timeout = timeout
        #: seconds the server may take; who has less patience does not wait for longer
        self._answers_within = min(ANSWER_TIMEOUT, timeout)
        self._connection: Any = None
        self._parser: Any = None
        self.identity = Identity()

    async def run(self, command: Command[T] | Plain[T], *, clock: str = "", wake: float | None = None) -> T:
        """Carry out a command; ``wake``: wait so many seconds for the queue's token first."""
        steps = converse(
            self.identity, command, clock=clock, wake=wake, timeout=self._timeout, where=self._endpoint.shown
        )
        try:
            return await self._drive(steps)
        except PsmqError:
            raise
        except GeneratorExit:
            self._connection = None  # its loop is gone, or this coroutine: nothing can be awaited
            raise
        except BaseException:
            await self.close()
            if _is_get(command):
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
                        await asyncio.sleep(step.seconds)
                        await _one_at_a_time(self._endpoint.recover)
                        answers = []
                except Lost as lost:
                    await self.close()
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
        from redis import exceptions

        sent = False
        try:
            if self._connection is None:
                await self._connect()
            connection, parser = self._connection, self._parser
            sent = True
            async with asyncio.timeout(self._answers_within + step.patience):
                connection._writer.write(step.payload)
                await connection._writer.drain()
                return [await _anext_answer(connection._reader, parser) for _ in range(step.answers)]
        except exceptions.AuthenticationError as error:
            raise _unsuitable(self._endpoint, error) from None
        except exceptions.BusyLoadingError as error:
            raise Lost(str(error), sent=False) from None
        except (exceptions.ConnectionError, exceptions.TimeoutError, OSError) as error:
            raise Lost(str(error) or "no answer in time", sent=sent) from None
        except exceptions.RedisError as error:
            raise _unsuitable(self._endpoint, error) from None

    async def _connect(self) -> None:
        import redis.asyncio.connection as kinds

        kind, settings = await _one_at_a_time(self._endpoint.settings)
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        settings["retry"] = Retry(NoBackoff(), 0)
        # Timeouts are ours: redis-py writes under wait_for(), which in Python 3.11 may swallow a cancellation, and
        # answers a read that timed out with None, leaving the real answer to the next caller.
        settings["socket_timeout"] = None
        classes = {"tcp": kinds.Connection, "tls": kinds.SSLConnection, "unix": kinds.UnixDomainSocketConnection}
        connection = self._connection = classes[kind](**settings)
        async with asyncio.timeout(CONNECT_TIMEOUT):
            await connection.connect()
        self._parser = _parser()

    async def _hand_back(self, address: Address, clock: str) -> None:
        client_id, number = self.identity.client_id, self.identity.number
        self.identity.renew()
        farewell = AsyncChannel(self._endpoint, _FAREWELL)
        with contextlib.suppress(PsmqError):
            await farewell.run(abandon(address, client_id, number=number), clock=clock)
        await farewell.close()

    async def close(self) -> None:
        """Give the connection up; the next command opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)


class AsyncLink:
    """The same for asyncio: a pool for each event loop that uses it."""

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
        if _is_push(command):
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
            if len(idle) < _KEPT:
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
