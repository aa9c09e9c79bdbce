"""What both kinds of managers share: where the server is, and the flows of several commands.

Constructing a manager connects to nothing; the first command does.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from psmq import commands, doctor, registry, server
from psmq.commands import Address
from psmq.config import QueueConfig, check_name, milliseconds
from psmq.dialogue import QueueDeletingError, StrangeKeyError
from psmq.endpoint import Endpoint
from psmq.errors import InvalidOption, QueueNotFound, ServerFull

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from psmq.config import QueueSettings
    from psmq.findings import Finding
    from psmq.routes import Node

#: names that are tried to meet each primary of a cluster; one slot of 16384 is enough for that
_NAMES: Final = 200_000
#: seconds a command keeps trying when the server does not answer
DEFAULT_TIMEOUT: Final = 10.0


@contextlib.contextmanager
def blaming(name: str) -> Iterator[None]:
    """What is wrong with a URL is said of where it was written."""
    try:
        yield
    except InvalidOption as error:
        if error.option != "url":
            raise
        raise InvalidOption(name, error.problem) from None


class ManagerFlows:
    """A place and what is done there step by step; the managers take the steps."""

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
        self.namespace = check_name(namespace, "namespace")
        self._link: Any = self._link_class(self._endpoint, milliseconds("timeout", timeout) / 1000)

    @classmethod
    def from_env(cls, *, namespace: str = "psmq", timeout: float = DEFAULT_TIMEOUT) -> Self:
        """The server that PSMQ_URL names; without it, the embedded server of this user."""
        url = os.environ.get("PSMQ_URL")
        if url:
            with blaming("PSMQ_URL"):
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
        self, name: str, options: QueueSettings, *, must_be_new: bool = False
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
        left = self._primaries()
        for address in self._places(left):
            with contextlib.suppress(QueueNotFound):
                yield commands.info(address)
            left.discard(self._endpoint.node_of(address.base))

    def _diagnoses(self) -> Generator[Any, Any, list[Finding]]:
        """Each server by itself, then the queues."""
        found: list[Finding] = []
        try:
            names = yield from registry.queues(self.namespace, tidy=False)  # so that we know the primaries, too
        except StrangeKeyError as strange:
            names, found = [], [doctor.strange_list(strange.key)]
        left, places = self._primaries(), {}
        for address in self._places(left):
            node = self._endpoint.node_of(address.base)
            places["" if node is None else f"{node.host}:{node.port}"] = address.base
            left.discard(node)
        for name, key in sorted(places.items()):
            found += yield from doctor.examine(self.namespace, key, name, ours=self.db_dir is not None)
        return found + (yield from doctor.examine_queues(self.namespace, names))

    def _primaries(self) -> set[Node | None]:
        """Those of a cluster, as far as is known; elsewhere the one place there is."""
        return {*self._endpoint.primaries()} or {None}

    def _places(self, left: set[Node | None]) -> Iterator[Address]:
        """Addresses of no queues, each at a primary that is left, until none is.

        Who has lost its slots meanwhile is not met.
        """
        for number in range(_NAMES):
            if not left:
                return
            address = self._address(f"none-{number}")
            if self._endpoint.node_of(address.base) in left:
                yield address
