"""The server that a command is about, and the way to it."""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from psmq import QueueManager, server
from psmq.errors import ServerUnsuitable
from psmq.managing import blaming
from psmq_tasks.cli.running import UNREACHABLE, USAGE, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from psmq_tasks.inspection import Calls, Inspector

__all__ = ["NAMESPACE", "Place", "looked_at", "refuse_file"]

#: that which is meant where none is named
NAMESPACE: Final = "psmq"
#: seconds that a command waits for a server
_PATIENCE: Final = 5.0


@dataclass(frozen=True)
class Place:
    """Which server, and which names on it."""

    url: str | None
    db_dir: Path
    namespace: str
    #: where the URL was written
    named_by: str = "url"

    def manager(self) -> QueueManager:
        """The server, if there can be one: nothing is made by looking."""
        if self.url is None:
            manager = QueueManager(db_dir=self.db_dir, namespace=self.namespace, timeout=_PATIENCE)
        else:
            with blaming(self.named_by):
                manager = QueueManager(url=self.url, namespace=self.namespace, timeout=_PATIENCE)
        if manager.url == "memory:":
            raise Problem("memory: is a server inside one program, which nobody else can look into", USAGE)
        if manager.db_dir is not None:
            _check_folder(manager.db_dir)
        return manager

    @property
    def folder(self) -> Path | None:
        """The data folder of an embedded server; None: it is a server of another kind."""
        if self.url is None:
            return self.db_dir
        with blaming(self.named_by):
            return QueueManager(url=self.url).db_dir

    def calls(self) -> Calls:
        """What opens and seals calls, with the key that workers of this server have; SecretMissing."""
        from psmq_tasks.access import ServerAccess
        from psmq_tasks.inspection import Calls

        where = {"db_dir": self.db_dir} if self.url is None else {"url": self.url}
        access = ServerAccess(where, namespace=self.namespace, secret=None, allow_unsigned=False)
        try:
            return Calls(access.keyring, self.namespace)
        finally:
            access.close()

    @contextlib.contextmanager
    def inspector(self) -> Iterator[Inspector]:
        """Eyes and hands on this server."""
        from psmq_tasks.inspection import Inspector

        with self.manager() as manager:
            yield Inspector(manager)


def refuse_file(folder: Path) -> None:
    """ServerUnsuitable where a file is in the data folder's place."""
    if folder.exists() and not folder.is_dir():
        raise ServerUnsuitable(f"{folder} is a file, not a data folder")


def _check_folder(folder: Path) -> None:
    refuse_file(folder)
    try:
        status = server.status(folder)
    except OSError as error:
        raise ServerUnsuitable(f"the data folder {folder} cannot be read: {error.strerror}") from error
    if status is None or not (status.running or status.flavour):
        raise Problem(
            f"there is no server yet: {folder} holds no data. {_start(folder)} starts one, and so does a worker "
            "(psmq-worker APP); -u URL or PSMQ_URL names another",
            UNREACHABLE,
        )


def _start(folder: Path) -> str:
    return "psmq server start" + ("" if folder == server.default_db_dir() else f" --db-dir {shlex.quote(f'{folder}')}")


def looked_at(manager: QueueManager) -> str:
    """Where nothing was found: the server and the namespace, and that there are others."""
    name = manager.namespace
    hint = "--namespace names another" if name == NAMESPACE else f"the default is {NAMESPACE!r}"
    return f"{manager.url}, in namespace {name!r} ({hint})"
