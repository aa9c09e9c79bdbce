"""Where queues come from: a server, found or started, and the queues on it. async_manager.py is its twin."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from psmq import commands, findings, registry
from psmq.connection import Link
from psmq.consumer import Consumer
from psmq.driving import drive
from psmq.flows import clock_override, gives_durability
from psmq.managing import ManagerFlows
from psmq.queue import Queue

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import TracebackType
    from typing import Unpack

    from psmq.config import QueueSettings
    from psmq.findings import Finding
    from psmq.message import QueueInfo

__all__ = ["QueueManager"]


class QueueManager(ManagerFlows):
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
        return drive(steps, self._link.run)

    def get_queue(
        self,
        name: str,
        *,
        serializer: Callable[[Any], bytes] | None = None,
        deserializer: Callable[[bytes], Any] | None = None,
        **config: Unpack[QueueSettings],
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
        **config: Unpack[QueueSettings],
    ) -> Queue:
        """A new queue; QueueExists when there is one of that name."""
        stored = self._drive(self._opens(name, config, must_be_new=True))
        return Queue(self._address(name), stored, self._link, serializer, deserializer)

    def delete_queue(self, name: str) -> None:
        """Remove a queue with its messages, dead letters and results. QueueNotFound when there is none."""
        self._drive(self._deletes(name))

    def list_queues(self, *, tidy: bool = True) -> list[str]:
        """The names of all queues, sorted. ``tidy=False``: nothing is written, even where the list needs mending."""
        names: list[str] = self._drive(registry.queues(self.namespace, tidy=tidy))
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
        """Is each server set up to keep messages, and are the queues well? Within milliseconds.

        Reads only. Where a queue is and the function library is not, asking for that queue loads it.
        """
        found: list[Finding] = self._drive(self._diagnoses())
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
