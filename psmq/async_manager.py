"""Where queues come from for asyncio programs; manager.py is its twin."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from psmq import commands, findings, registry
from psmq.async_connection import AsyncLink
from psmq.async_queue import AsyncQueue
from psmq.driving import adrive
from psmq.flows import clock_override, gives_durability
from psmq.managing import ManagerFlows

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import TracebackType
    from typing import Unpack

    from psmq.config import QueueSettings
    from psmq.findings import Finding
    from psmq.message import QueueInfo

__all__ = ["AsyncQueueManager"]


class AsyncQueueManager(ManagerFlows):
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
        return await adrive(steps, self._link.run)

    async def get_queue(
        self,
        name: str,
        *,
        serializer: Callable[[Any], bytes] | None = None,
        deserializer: Callable[[bytes], Any] | None = None,
        **config: Unpack[QueueSettings],
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
        **config: Unpack[QueueSettings],
    ) -> AsyncQueue:
        """A new queue; QueueExists when there is one of that name."""
        stored = await self._drive(self._opens(name, config, must_be_new=True))
        return AsyncQueue(self._address(name), stored, self._link, serializer, deserializer)

    async def delete_queue(self, name: str) -> None:
        """Remove a queue with its messages, dead letters and results. QueueNotFound when there is none."""
        await self._drive(self._deletes(name))

    async def list_queues(self, *, tidy: bool = True) -> list[str]:
        """The names of all queues, sorted. ``tidy=False``: nothing is written, even where the list needs mending."""
        names: list[str] = await self._drive(registry.queues(self.namespace, tidy=tidy))
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
        """Is each server set up to keep messages, and are the queues well? Within milliseconds.

        Reads only. Where a queue is and the function library is not, asking for that queue loads it.
        """
        found: list[Finding] = await self._drive(self._diagnoses())
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
