"""An app's way to its server: the managers, the open queues and the key, each found when it is first needed.

Usable from any thread and event loop, and after a fork: psmq's managers see to that, and there is no lock here that a
fork could copy while it is held. What two threads make at once is made twice, and the last one stays.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from psmq import QueueManager
from psmq.config import check_name
from psmq.errors import InvalidOption
from psmq_tasks.envelope import Keyring
from psmq_tasks.errors import MAKE_SECRET, SecretMissing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from psmq import AsyncQueue, AsyncQueueManager, Queue

__all__ = ["ServerAccess"]


class ServerAccess:
    """Where an app's queues are and what signs for it."""

    def __init__(
        self,
        server: dict[str, Any],
        *,
        namespace: str,
        secret: str | bytes | Sequence[bytes] | None,
        allow_unsigned: bool,
    ) -> None:
        self.namespace = check_name(namespace, "namespace")
        self.allow_unsigned = allow_unsigned
        self._secret = secret
        self.connect_to(**server)

    def connect_to(self, *, url: str | None = None, db_dir: Path | str | None = None, connection: Any = None) -> None:
        """Use this server from now on; without any argument, the one that the environment names."""
        given = {"url": url, "db_dir": db_dir, "connection": connection}
        self._server = {name: value for name, value in given.items() if value is not None}
        self._manager: QueueManager | None = None
        self._async_manager: AsyncQueueManager | None = None
        self._queues: dict[str, Queue] = {}
        self._async_queues: dict[str, AsyncQueue] = {}
        self._keyring: Keyring | None = None
        if len(self._server) > 1:
            raise InvalidOption("url", "excludes db_dir and connection: give one of the three, or none")

    @property
    def manager(self) -> QueueManager:
        """The server, for programs with threads."""
        if self._manager is None:
            self._manager = (
                QueueManager(**self._server, namespace=self.namespace)
                if self._server
                else QueueManager.from_env(namespace=self.namespace)
            )
        return self._manager

    @property
    def async_manager(self) -> AsyncQueueManager:
        """The server, for asyncio programs."""
        if self._async_manager is None:
            from psmq import AsyncQueueManager  # brings asyncio along

            self._async_manager = (
                AsyncQueueManager(**self._server, namespace=self.namespace)
                if self._server
                else AsyncQueueManager.from_env(namespace=self.namespace)
            )
        return self._async_manager

    def queue(self, name: str, *, anew: bool = False) -> Queue:
        """The queue of that name, made if need be; ``anew``: also if it was there before."""
        found = None if anew else self._queues.get(name)
        if found is None:
            found = self._queues[name] = self.manager.get_queue(name)
        return found

    async def aqueue(self, name: str, *, anew: bool = False) -> AsyncQueue:
        """The same, awaited."""
        found = None if anew else self._async_queues.get(name)
        if found is None:
            found = self._async_queues[name] = await self.async_manager.get_queue(name)
        return found

    @property
    def keyring(self) -> Keyring:
        """The keys: ``secret``, else PSMQ_SECRET, else the embedded server's own; SecretMissing without any."""
        if self._keyring is None:
            self._keyring = self._find_keys()
        return self._keyring

    async def _find_keys_aside(self) -> None:
        if self._keyring is None:
            import asyncio

            await asyncio.to_thread(lambda: self.keyring)  # may have to start the embedded server

    def _find_keys(self) -> Keyring:
        secret = self._secret or os.environ.get("PSMQ_SECRET") or self.manager.signing_key()
        if isinstance(secret, str):
            keyring = self._of_text(secret)
        else:
            keys = (secret,) if isinstance(secret, bytes) else secret or ()
            keyring = Keyring(keys, allow_unsigned=self.allow_unsigned)
        if not len(keyring) and not self.allow_unsigned:
            raise SecretMissing(self.manager.url)
        return keyring

    def _of_text(self, secret: str) -> Keyring:
        try:
            return Keyring.from_text(secret, allow_unsigned=self.allow_unsigned)
        except InvalidOption as error:
            if self._secret:
                raise
            problem = f"{error.problem}. This makes a key, to be set wherever tasks are sent or run:\n  {MAKE_SECRET}"
            raise InvalidOption("PSMQ_SECRET", problem) from None

    def close(self) -> None:
        """Close idle connections. The app can be used again."""
        if self._manager is not None:
            self._manager.close()

    async def aclose(self) -> None:
        """Close this event loop's idle connections."""
        if self._async_manager is not None:
            await self._async_manager.close()
