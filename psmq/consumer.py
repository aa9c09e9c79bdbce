"""A getter of many queues over one connection of its own: what workers are made of.

It deals in plain records and leaves deciding to its user. Its client id names it to the server, so that somebody else
can hand back what it holds (``abandon``) when its process has died.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psmq import commands
from psmq.commands import Plain
from psmq.dialogue import steady
from psmq.waiters import Waiters

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import timedelta

    from psmq.commands import Delivered, Mode
    from psmq.connection import Channel
    from psmq.queue import Queue
    from psmq.routes import Node
    from psmq.settlement import Settlement

__all__ = ["Consumer"]


class Consumer:
    """One connection that settles, gets and waits; for one thread at a time, but for ``shut``."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._waiters = Waiters(channel.endpoint)

    @property
    def client_id(self) -> str:
        """Who it is to the server. A new one after a fork, or after it was abandoned."""
        return self._channel.identity.client_id

    @property
    def number(self) -> int:
        """Of its last command that changes something."""
        return self._channel.identity.number

    def exchange(
        self,
        queue: Queue,
        settlements: Sequence[tuple[str, str, Settlement]] = (),
        limit: int = 0,
        *,
        mode: Mode = "worker",
        lease: float | None = None,
        wake: float | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> Delivered:
        """Settle (message_id, receipt, settlement)s and get up to ``limit``, in one trip.

        ``mode``: "worker" promises to extend its leases and leaves suspects alone; "solo" takes one suspect.
        ``lease``: seconds; the queue's visibility timeout unless given.
        ``wake``: wait up to so many seconds for the queue's token first, in the same write.
        ``meanwhile`` is called once before the answer is read, and must not raise.
        """
        # By this client's idea of the timeout, which whoever extends its leases shares.
        seconds = queue.visibility_seconds if lease is None else lease
        command = commands.exchange(
            queue._address, settlements, limit, visibility_timeout=seconds if limit else None, mode=mode
        )
        asked = steady()
        answer = self._channel.run(command, clock=queue._clock(), wake=wake, meanwhile=meanwhile)
        if answer.messages and steady() - asked > seconds / 2:
            # The answer came late (this process was stopped, the network stood still): is it still ours?
            leases = [(message.message_id, message.receipt) for message in answer.messages]
            words = self.extend(queue, leases)
            kept = [message for message, word in zip(answer.messages, words, strict=True) if word == "done"]
            return answer._replace(messages=kept)
        return answer

    def wait_any(self, queues: Sequence[Queue], seconds: float) -> Queue | None:
        """Wait for the token of one of several queues; None when there was none. What it took must be followed up."""
        if self._channel.endpoint.is_cluster and len(queues) > 1:
            return self._wait_apart(queues, seconds)
        keys = {queue._address.wake.encode(): queue for queue in queues}
        waiting = Plain(
            ("BLPOP", *keys, f"{seconds:.3f}"),
            lambda reply: reply and keys.get(reply[0]),
            queues[0]._address.wake if queues else "",
            patience=seconds,
        )
        return self._channel.run(waiting)

    def _wait_apart(self, queues: Sequence[Queue], seconds: float) -> Queue | None:
        """In a cluster one connection cannot wait for tokens of several slots."""
        found = self._waiters.wait({queue._address.wake: queue._address for queue in queues}, seconds)
        named = [queue for queue in queues if queue._address.wake in found]
        for queue in named[1:]:  # nobody here follows it up: whoever waits elsewhere shall
            self._channel.run(commands.wake(queue._address))
        return named[0] if named else None

    def node_of(self, queue: Queue) -> Node | None:
        """Which node of a cluster has the queue; None: there is one server, or it is not known yet."""
        return self._channel.endpoint.node_of(queue._address.base)

    def extend(
        self, queue: Queue, leases: Sequence[tuple[str, str]], timeout: float | timedelta | None = None
    ) -> list[str]:
        """Let leases end ``timeout`` seconds (the queue's visibility timeout) from now. → done | stale for each"""
        seconds = queue.visibility_seconds if timeout is None else timeout
        words: list[str] = []
        for start in range(0, len(leases), commands.BATCH):
            part = leases[start : start + commands.BATCH]
            told: list[str] = self._channel.run(commands.extend(queue._address, part, seconds), clock=queue._clock())
            words += told
        return words

    def abandon(self, queue: Queue, client_id: str, started: Sequence[str] = (), *, number: int | None = None) -> int:
        """Hand back what another client's last get holds unstarted, and refuse its commands from now on. → how many

        ``number``: only what that very command of it was given, and refuse that one alone if it is still under way.
        """
        command = commands.abandon(queue._address, client_id, started, number=number)
        return self._channel.run(command, clock=queue._clock())

    def shut(self) -> None:
        """From any thread: whatever it waits for ends now, with ServerUnreachable, and nothing more is sent."""
        self._channel.shut()
        self._waiters.shut()

    def close(self) -> None:
        """Close its connections."""
        self._channel.close()
        self._waiters.close()
