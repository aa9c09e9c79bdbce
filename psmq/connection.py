"""Carries commands to the server over held connections, for programs with threads; async_connection.py is its twin.

redis-py opens the connections, with whatever it takes to be let in; from then on their sockets and a hiredis parser
are ours. Its clients, pools and retries are left out, because they cost more than the server's work and repeat what
must not be repeated. A connection serves one command at a time; whatever interrupts a command closes its connection, so
that no answer reaches another caller. In a cluster a channel has a connection to each node that it has met, and one
identity.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
import weakref
from typing import TYPE_CHECKING, Any, Final, TypeVar

from psmq import suitability
from psmq.answers import is_get, is_push, parser
from psmq.commands import Address, Command, Plain, abandon
from psmq.dialogue import LONGEST_TIMEOUT, Identity, Lost, Meanwhile, Refused, Send, Step, Terms, converse
from psmq.endpoint import ANSWER_TIMEOUT, Endpoint
from psmq.errors import PsmqError, ServerUnreachable
from psmq.gathering import Gatherer

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from psmq.routes import Node

__all__ = ["Channel", "Line", "Link", "connect"]

T = TypeVar("T")

#: seconds an interrupted get may take to hand back what it was given
FAREWELL: Final = 2.0
#: bytes read at once
READ: Final = 65536
#: connections kept open for later; more are opened and closed as needed
KEPT: Final = 64


def _next_answer(sock: Any, parser: Any) -> Any:
    """What the server says next, read from the socket as far as need be."""
    while (answer := parser.gets()) is False:
        data = sock.recv(READ)
        if not data:
            raise Lost("the server closed the connection", sent=True)
        parser.feed(data)
    return answer


class Line:
    """An open connection: its socket, and the parser of what comes back."""

    __slots__ = ("_connection", "_parser", "_patience")

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._parser = parser()
        #: seconds that the socket now waits for an answer
        self._patience = 0.0

    @property
    def socket(self) -> Any:
        """Held by redis-py's connection alone, which closes it when it is forgotten."""
        return self._connection._sock

    def ask(
        self, payload: bytes, answers: int, patience: float, meanwhile: Callable[[], None] | None = None
    ) -> list[Any]:
        """Write it and read so many answers, each within ``patience`` seconds; between the two call ``meanwhile``."""
        sock, parser = self._connection._sock, self._parser
        if patience != self._patience:
            self._patience = patience
            sock.settimeout(patience)
        sock.sendall(payload)
        if meanwhile is not None:
            meanwhile()
        return [_next_answer(sock, parser) for _ in range(answers)]

    def hear(self) -> Any:
        """The next answer, with the patience of the last question."""
        return _next_answer(self._connection._sock, self._parser)

    def shut(self) -> None:
        """From any thread: end what is waited for here."""
        sock = self.socket
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give it up."""
        self._connection.disconnect()


def connect(endpoint: Endpoint, key: str) -> tuple[Node | None, Line]:
    """A connection to the server that has ``key``, and whose it is; a server that nobody has met is asked if it is fit.

    Raises ServerUnsuitable, Lost, and what redis-py raises.
    """
    import redis.connection as kinds

    node, kind, settings = endpoint.settings(key)
    classes = {"tcp": kinds.Connection, "tls": kinds.SSLConnection, "unix": kinds.UnixDomainSocketConnection}
    connection = suitability.made(classes[kind], settings)
    try:
        connection.connect()
        line = Line(connection)
        if questions := suitability.questions(endpoint, settings):
            suitability.judge(endpoint, settings, line.ask(*questions, ANSWER_TIMEOUT))
    except Lost as lost:
        connection.disconnect()
        raise Lost(str(lost), sent=False) from None  # the command itself was not
    except BaseException:
        connection.disconnect()
        raise
    return node, line


class Channel:
    """One connection (in a cluster, to each node) with its identity, for one command at a time."""

    def __init__(self, endpoint: Endpoint, timeout: float) -> None:
        self.endpoint = endpoint
        self._route = endpoint.route
        self._terms = Terms(endpoint.shown, timeout, endpoint.copies, routed=endpoint.is_cluster)
        #: seconds the server may take; who has less patience does not wait for longer
        self._answers_within = min(ANSWER_TIMEOUT, timeout)
        self._pid = os.getpid()
        #: by node of a cluster; the only one of others is under None
        self._lines: dict[Node | None, Line] = {}
        #: whose connection is in use
        self._node: Node | None = None
        self._shut = False
        self.identity = Identity()

    def run(
        self,
        command: Command[T] | Plain[T],
        *,
        clock: str = "",
        wake: float | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> T:
        """Carry out a command; ``wake``: wait so many seconds for the queue's token first.

        ``meanwhile`` is called once, while the server is at it, or as soon as there is none to be had; it must not
        raise.
        """
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self.identity.renew()
            self.close()
        timed = None if meanwhile is None else Meanwhile(meanwhile)
        steps = converse(self.identity, command, self._terms, clock=clock, wake=wake, meanwhile=timed)
        try:
            return self._drive(steps, timed)
        except PsmqError:
            raise
        except BaseException:
            # Interrupted: nobody will read that answer, and what a get was given goes back.
            self.close()
            if is_get(command):
                self._hand_back(command.address, clock)
            raise

    def _drive(self, steps: Generator[Step, list[Any], T], meanwhile: Callable[[], None] | None) -> T:
        try:
            step = next(steps)
            while True:
                try:
                    if isinstance(step, Send):
                        answers = self._send(step, meanwhile)
                    else:
                        if step.anew:
                            self._drop()
                        time.sleep(step.seconds)
                        self.endpoint.recover()
                        answers = []
                except Lost as lost:
                    self._drop()
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

    def _send(self, step: Send, meanwhile: Callable[[], None] | None = None) -> list[Any]:
        try:
            return self._sent(step, meanwhile)
        except (Lost, PsmqError):
            if meanwhile is not None:
                meanwhile()  # a server that is not there is no reason to do nothing
            raise

    def _sent(self, step: Send, meanwhile: Callable[[], None] | None) -> list[Any]:
        sent = False
        if self._shut:
            raise ServerUnreachable("shut")
        route = self._route
        node = self._node = None if route is None else route.node_of(step.key)
        line = self._lines.get(node)
        try:
            if line is None:
                node, line = connect(self.endpoint, step.key)
                self._node, self._lines[node] = node, line
                if self._shut:
                    raise ServerUnreachable("shut")
            sent = True
            answers = line.ask(step.payload, step.answers, self._answers_within + step.patience, meanwhile)
        except Exception as error:
            raise suitability.meant(self.endpoint, error, sent=sent) from None
        if route is not None:
            for answer in answers:
                if isinstance(answer, Refused) and answer.code == "MOVED":
                    self.endpoint.moved(answer.detail, node)
        return answers

    def _hand_back(self, address: Address, clock: str) -> None:
        client_id, number = self.identity.client_id, self.identity.number
        self.identity.renew()
        farewell = Channel(self.endpoint, FAREWELL)
        with contextlib.suppress(PsmqError):
            farewell.run(abandon(address, client_id, number=number), clock=clock)
        farewell.close()

    def shut(self) -> None:
        """From any thread: end what this channel waits for, and let it send nothing more."""
        self._shut = True
        for line in list(self._lines.values()):
            line.shut()

    def _drop(self) -> None:
        """Give up the connection in use; those to other nodes stay."""
        line = self._lines.pop(self._node, None)
        if line is not None:
            line.close()

    def close(self) -> None:
        """Give all connections up; the next command opens another."""
        while self._lines:
            self._lines.popitem()[1].close()


class Link:
    """A pool of channels to one server: any thread may run commands, a forked child gets connections of its own."""

    def __init__(self, endpoint: Endpoint, timeout: float) -> None:
        self.endpoint = endpoint
        self.timeout = min(timeout, LONGEST_TIMEOUT)
        self._idle: list[Channel] = []
        # also when the program ends: at that time nothing else is sure to come before the sockets' own end
        weakref.finalize(self, _close_all, self._idle)
        self._gatherer = Gatherer(self._run)
        self._pid = os.getpid()

    def run(
        self,
        command: Command[T] | Plain[T],
        *,
        clock: str = "",
        wake: float | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> T:
        """Carry out a command on a connection that is free, as Channel.run does; pushes of several threads go together.

        Not those that go on ``meanwhile``: they are a full batch already.
        """
        if self._pid != os.getpid():
            # The parent's connections are dropped unread; its identities stay its own. The number last: another thread
            # that finds it new must find the rest new, too.
            self._idle.clear()
            self._gatherer = Gatherer(self._run)
            self._pid = os.getpid()
        if meanwhile is None and is_push(command):
            return self._gatherer.push(command, clock)  # type: ignore[return-value]  # T is what a push answers
        return self._run(command, clock, wake, meanwhile)

    def _run(
        self,
        command: Command[T] | Plain[T],
        clock: str,
        wake: float | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> T:
        try:
            channel = self._idle.pop()  # atomic: no lock is needed between threads
        except IndexError:
            channel = self.channel()
        try:
            return channel.run(command, clock=clock, wake=wake, meanwhile=meanwhile)
        finally:
            if len(self._idle) < KEPT:
                self._idle.append(channel)
            else:
                channel.close()

    def channel(self) -> Channel:
        """A channel of one's own, outside the pool."""
        return Channel(self.endpoint, self.timeout)

    def close(self) -> None:
        """Close what is idle; the link can be used again."""
        _close_all(self._idle)


def _close_all(idle: list[Channel]) -> None:
    while idle:
        idle.pop().close()
