"""Where queues come from: a server, found or started, and the queues on it.

Constructing a manager connects to nothing; the first command does.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from psmq import commands, doctor, findings, registry, server
from psmq.async_connection import AsyncLink
from psmq.async_queue import AsyncQueue
from psmq.commands import Address
from psmq.config import QueueConfig, check_name, milliseconds
from psmq.connection import Link
from psmq.consumer import Consumer
from psmq.dialogue import QueueDeletingError
from psmq.endpoint import Endpoint
from psmq.errors import InvalidOption, PsmqError, QueueNotFound, ServerFull
from psmq.flows import clock_override, gives_durability
from psmq.queue import Queue

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path
    from types import TracebackType

    from psmq.findings import Finding
    from psmq.message import QueueInfo

__all__ = ["AsyncQueueManager", "QueueManager"]

#: names that are tried to meet each primary of a cluster; one slot of 16384 is enough for that
_NAMES: Final = 200_000
#: seconds a command keeps trying when the server does not answer
DEFAULT_TIMEOUT: Final = 10.0


class _Manager:
    """What both managers share: where the server is, and the flows of several commands."""

    _link_class: ClassVar[Any]

    def __init__(
        self,
        db_dir: Path | str | None = None,
        *,
        url: str | None = None,
        connection: Any = None,
        namespace: str = "psmq",
        timeout: float = DEFAULT_TIMEOUT,
        durability: str | None = None,
    ) -> None:
        if sum(given is not None for given in (db_dir, url, connection)) > 1:
            raise InvalidOption("url", "excludes db_dir and connection: give one of the three, or none")
        if url is not None:
            self._endpoint = Endpoint.of_url(url, durability)
        elif connection is not None:
            self._endpoint = Endpoint.of_client(connection, durability)
        elif db_dir is not None:
            if "://" in str(db_dir) or str(db_dir) == "memory:":
                raise InvalidOption("db_dir", "is the folder of an embedded server; a URL is given as url=…")
            self._endpoint = Endpoint.embedded(db_dir, durability)
        else:
            if durability is not None:
                raise InvalidOption("durability", "is for servers that keep something: give db_dir or url")
            self._endpoint = Endpoint.memory()
        #: in front of every key
        self.namespace = check_name(namespace)
        self._link: Any = self._link_class(self._endpoint, milliseconds("timeout", timeout) / 1000)

    @classmethod
    def from_env(cls, *, namespace: str = "psmq", timeout: float = DEFAULT_TIMEOUT) -> Self:
        """The server that PSMQ_URL names; without it, the embedded server of this user."""
        url = os.environ.get("PSMQ_URL")
        if url:
            return cls(url=url, namespace=namespace, timeout=timeout)
        return cls(db_dir=server.default_db_dir(), namespace=namespace, timeout=timeout)

    def settings(self) -> dict[str, Any]:
        """What makes an equal manager in another process, password included. InvalidOption for a client's settings."""
        return {**self._endpoint.settings_of_manager(), "namespace": self.namespace}

    @property
    def url(self) -> str:
        """Where the server is, without password."""
        return self._endpoint.shown

    @property
    def db_dir(self) -> Path | None:
        """The folder of an embedded server."""
        return self._endpoint.db_dir

    def signing_key(self) -> bytes | None:
        """The key kept beside the data of an embedded or in-memory server; None: the server is not ours."""
        return self._endpoint.signing_key()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def _address(self, name: str) -> Address:
        return Address.of(self.namespace, name)

    def _opens(
        self, name: str, options: dict[str, Any], *, must_be_new: bool = False
    ) -> Generator[Any, Any, QueueConfig]:
        """Make or open: the hash first, then the registry, so that a listed queue exists."""
        address = self._address(name)
        creating = commands.create_queue(
            address, QueueConfig.check_fields(options), frozenset(options), must_be_new=must_be_new
        )
        try:
            config: QueueConfig = yield creating
        except QueueDeletingError:
            yield from self._finishes_deleting(address)
            config = yield creating
        with contextlib.suppress(ServerFull):  # a full server can still be drained; the name is a hint
            yield from registry.enters(self.namespace, name)
        return config

    def _deletes(self, name: str) -> Generator[Any, Any, None]:
        yield from self._finishes_deleting(self._address(name), begin=True)

    def _finishes_deleting(self, address: Address, *, begin: bool = False) -> Generator[Any, Any, None]:
        """First nobody finds it, then its keys go, its name, and the mark last: who is killed is finished for later."""
        while (yield commands.delete_queue(address, begin=begin)):
            begin = False  # it may have been finished, and made anew, by somebody else
        yield from registry.leaves(self.namespace, address.name)
        yield commands.forget_queue(address)
        if (yield commands.exists(address)):
            yield from registry.enters(self.namespace, address.name)

    def _loads(self) -> Generator[Any, Any, None]:
        """Any call brings the library along; this one changes nothing. In a cluster each primary has its own."""
        yield from registry.names(self.namespace)  # so that we know the primaries
        left = self._endpoint.primaries()
        for number in range(_NAMES):  # whoever has lost its slots meanwhile is not met
            address = self._address(f"none-{number}")
            if left and self._endpoint.node_of(address.base) not in left:
                continue
            with contextlib.suppress(QueueNotFound):
                yield commands.info(address)
            left.discard(self._endpoint.node_of(address.base))
            if not left:
                return


class QueueManager(_Manager):
    """A server and its queues, for programs with threads.

    ``QueueManager()``: the in-memory server of this process. ``db_dir``: an embedded server that keeps its data in that
    folder, shared by every process that names it. ``url``: ``redis:// rediss:// unix:// valkey:// redis+sentinel://
    redis+cluster:// embedded:// memory:``. ``connection``: a redis-py client (of one server, of a cluster, or
    made by a Sentinel's ``master_for``) whose settings are used. ``timeout``: seconds a command keeps trying.
    ``durability``: "everysec", "always" or "replica:N" is demanded of the server.
    """

    _link_class = Link
    _link: Link

    def _drive(self, steps: Generator[Any, Any, Any]) -> Any:
        try:
            request = next(steps)
            while True:
                try:
                    answer = self._link.run(request)
                except PsmqError as error:
                    request = steps.throw(error)
                else:
                    request = steps.send(answer)
        except StopIteration as stop:
            return stop.value

    def get_queue(
        self,
        name: str,
        *,
        serializer: Callable[[Any], bytes] | None = None,
        deserializer: Callable[[bytes], Any] | None = None,
        **config: Any,
    ) -> Queue:
        """The queue of that name, made if need be. ``config``: fields of QueueConfig.

        Raises QueueConfigConflict when a field given here differs from the stored one.
        """
        stored = self._drive(self._opens(name, config))
        return Queue(self._address(name), stored, self._link, serializer, deserializer)

    def create_queue(
        self,
        name: str,
        *,
        serializer: Callable[[Any], bytes] | None = None,
        deserializer: Callable[[bytes], Any] | None = None,
        **config: Any,
    ) -> Queue:
        """A new queue; QueueExists when there is one of that name."""
        stored = self._drive(self._opens(name, config, must_be_new=True))
        return Queue(self._address(name), stored, self._link, serializer, deserializer)

    def delete_queue(self, name: str) -> None:
        """Remove a queue with its messages, dead letters and results. QueueNotFound when there is none."""
        self._drive(self._deletes(name))

    def list_queues(self) -> list[str]:
        """The names of all queues, sorted."""
        names: list[str] = self._drive(registry.queues(self.namespace))
        return names

    def queue_info(self, name: str) -> QueueInfo:
        """Counts and settings of a queue, without making it; QueueNotFound when there is none."""
        address = self._address(name)
        found = self._link.run(commands.info(address))
        if found.config.clock == "test":
            found = self._link.run(commands.info(address), clock=clock_override())
        return replace(found, durability=self._drive(gives_durability(address)))

    def find_queue(self, name: str) -> Queue:
        """An existing queue; QueueNotFound when there is none."""
        return Queue(self._address(name), self.queue_info(name).config, self._link)

    def load_library(self) -> None:
        """Bring the function library to the server, or to each primary of a cluster; other commands do so if need be.

        For an administrator, where those who use the queues may not load it.
        """
        self._drive(self._loads())

    def note_worker(self, worker_id: str, note: bytes, *, seconds: float) -> None:
        """Keep what a worker says of itself for so long; it says it again before that, or it is gone."""
        self._drive(registry.notes(self.namespace, worker_id, note, seconds))

    def worker_notes(self) -> dict[str, bytes]:
        """What living workers said of themselves last, by id."""
        notes: dict[str, bytes] = self._drive(registry.all_notes(self.namespace))
        return notes

    def forget_worker(self, worker_id: str) -> None:
        """A worker that ends takes its note along."""
        self._drive(registry.forgets(self.namespace, worker_id))

    def diagnose(self) -> list[Finding]:
        """Is the server set up to keep messages, and are the queues well? Reads only, within milliseconds."""
        names = self.list_queues()
        found: list[Finding] = self._drive(doctor.examine(self.namespace, names, ours=self.db_dir is not None))
        return found

    def audit(self, name: str) -> list[Finding]:
        """Recount a queue's books in small pages, under whatever traffic. QueueNotFound when there is none."""
        found: list[Finding] = self._drive(findings.audit(self._address(name)))
        return found

    def consumer(self) -> Consumer:
        """A connection of one's own that exchanges and waits on any of the queues; for workers."""
        return Consumer(self._link.channel())

    def close(self) -> None:
        """Close idle connections. The manager can be used again."""
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncQueueManager(_Manager):
    """A server and its queues, for asyncio programs.

    ``AsyncQueueManager()``: the in-memory server of this process. ``db_dir``: an embedded server that keeps its data in
    that folder, shared by every process that names it. ``url``: ``redis:// rediss:// unix:// valkey:// redis+sentinel://
    redis+cluster:// embedded:// memory:``. ``connection``: a redis-py client (of one server, of a cluster, or
    made by a Sentinel's ``master_for``) whose settings are used. ``timeout``: seconds a command keeps trying.
    ``durability``: "everysec", "always" or "replica:N" is demanded of the server.
    """

    _link_class = AsyncLink
    _link: AsyncLink

    async def _drive(self, steps: Generator[Any, Any, Any]) -> Any:
        try:
            request = next(steps)
            while True:
                try:
                    answer = await self._link.run(request)
                except PsmqError as error:
                    request = steps.throw(error)
                else:
                    request = steps.send(answer)
        except StopIteration as stop:
            return stop.value

    async def get_queue(
        self,
        name: str,
        *,
        serializer: Callable[[Any], bytes] | None = None,
        deserializer: Callable[[bytes], Any] | None = None,
        **config: Any,
    ) -> AsyncQueue:
        """The queue of that name, made if need be. ``config``: fields of QueueConfig.

        Raises QueueConfigConflict when a field given here differs from the stored one.
        """
        stored = await self._drive(self._opens(name, config))
        return AsyncQueue(self._address(name), stored, self._link, serializer, deserializer)

    async def create_queue(
        self,
        name: str,
        *,
        serializer: Callable[[Any], bytes] | None = None,
        deserializer: Callable[[bytes], Any] | None = None,
        **config: Any,
    ) -> AsyncQueue:
        """A new queue; QueueExists when there is one of that name."""
        stored = await self._drive(self._opens(name, config, must_be_new=True))
        return AsyncQueue(self._address(name), stored, self._link, serializer, deserializer)

    async def delete_queue(self, name: str) -> None:
        """Remove a queue with its messages, dead letters and results. QueueNotFound when there is none."""
        await self._drive(self._deletes(name))

    async def list_queues(self) -> list[str]:
        """The names of all queues, sorted."""
        names: list[str] = await self._drive(registry.queues(self.namespace))
        return names

    async def queue_info(self, name: str) -> QueueInfo:
        """Counts and settings of a queue, without making it; QueueNotFound when there is none."""
        address = self._address(name)
        found = await self._link.run(commands.info(address))
        if found.config.clock == "test":
            found = await self._link.run(commands.info(address), clock=clock_override())
        return replace(found, durability=await self._drive(gives_durability(address)))

    async def load_library(self) -> None:
        """Bring the function library to the server, or to each primary of a cluster; other commands do so if need be.

        For an administrator, where those who use the queues may not load it.
        """
        await self._drive(self._loads())

    async def find_queue(self, name: str) -> AsyncQueue:
        """An existing queue; QueueNotFound when there is none."""
        return AsyncQueue(self._address(name), (await self.queue_info(name)).config, self._link)

    async def note_worker(self, worker_id: str, note: bytes, *, seconds: float) -> None:
        """Keep what a worker says of itself for so long; it says it again before that, or it is gone."""
        await self._drive(registry.notes(self.namespace, worker_id, note, seconds))

    async def worker_notes(self) -> dict[str, bytes]:
        """What living workers said of themselves last, by id."""
        notes: dict[str, bytes] = await self._drive(registry.all_notes(self.namespace))
        return notes

    async def forget_worker(self, worker_id: str) -> None:
        """A worker that ends takes its note along."""
        await self._drive(registry.forgets(self.namespace, worker_id))

    async def diagnose(self) -> list[Finding]:
        """Is the server set up to keep messages, and are the queues well? Reads only, within milliseconds."""
        names = await self.list_queues()
        found: list[Finding] = await self._drive(doctor.examine(self.namespace, names, ours=self.db_dir is not None))
        return found

    async def audit(self, name: str) -> list[Finding]:
        """Recount a queue's books in small pages, under whatever traffic. QueueNotFound when there is none."""
        found: list[Finding] = await self._drive(findings.audit(self._address(name)))
        return found

    async def close(self) -> None:
        """Close idle connections. The manager can be used again."""
        await self._link.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
