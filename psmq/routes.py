"""Which server has a key, where that can change: behind Sentinels, or in a cluster.

Servers are asked over a connection of a moment, with little patience: whoever asks is in the middle of a command, and
asks again. What was learned is shared by all connections of a manager, and replaced by one assignment each: there is no
lock that a fork could copy while it is held.
"""

from __future__ import annotations

import binascii
import contextlib
import random
import time
from bisect import bisect_right
from typing import Any, Final, NamedTuple, Protocol

from psmq.errors import ServerUnsuitable

__all__ = ["ClusterRoute", "Node", "Route", "SentinelRoute", "slot_of"]

_SLOTS: Final = 16384
#: seconds to connect to somebody who is only asked for the way, and for the answer
_PATIENCE: Final = 1.0
#: seconds between two questions for the whole map: many connections meet the same failover
_ASK_AGAIN: Final = 0.05
#: settings that belong to the servers, not to their Sentinels
_OF_SERVERS: Final = ("username", "password", "credential_provider", "db", "client_name")


class Node(NamedTuple):
    """Where a server listens."""

    host: str
    port: int


class Route(Protocol):
    """The way from a key to its server. ``settings``: of a redis-py connection, ``_tls`` among them."""

    def node_of(self, key: str) -> Node | None:
        """Under which name connections for this key are kept; None: there is one place, or it is not known yet."""

    def find(self, key: str, settings: dict[str, Any]) -> Node:
        """Where to connect for this key. Asks, and blocks, if need be; ConnectionError: nobody knows now."""

    def lost(self, settings: dict[str, Any]) -> None:
        """Something went wrong there: what is known may be old."""


def slot_of(key: str) -> int:
    """The cluster's slot of a key: of what is between its first braces, where there is something."""
    start = key.find("{")
    end = key.find("}", start + 1) if start >= 0 else -1
    tag = key[start + 1 : end] if end > start + 1 else key
    return binascii.crc_hqx(tag.encode(), 0) % _SLOTS


class ClusterRoute:
    """The primaries of a cluster by slot: read from any node, corrected by each MOVED."""

    def __init__(self, seeds: tuple[Node, ...]) -> None:
        self._seeds = seeds
        #: first slots of ranges, ascending, and (last slot, primary) of each
        self._map: tuple[list[int], list[tuple[int, Node]]] = ([], [])
        self._moved: dict[int, Node] = {}
        self._known: tuple[Node, ...] = ()
        self._asked_at = float("-inf")

    def node_of(self, key: str) -> Node | None:
        """The primary that has the key's slot, as far as is known."""
        slot = slot_of(key)
        if moved := self._moved.get(slot):
            return moved
        starts, ranges = self._map
        at = bisect_right(starts, slot) - 1
        return ranges[at][1] if at >= 0 and slot <= ranges[at][0] else None

    def find(self, key: str, settings: dict[str, Any]) -> Node:
        """The same, asked for if need be."""
        node = self.node_of(key)
        if node is None:
            self._ask(settings)
            node = self.node_of(key)
        if node is None:
            raise ConnectionError(f"no primary has slot {slot_of(key)} now")
        return node

    def lost(self, settings: dict[str, Any]) -> None:
        """Read the map anew, if anybody answers."""
        if time.monotonic() - self._asked_at > _ASK_AGAIN:
            with contextlib.suppress(OSError):
                self._ask(settings)

    def moved(self, detail: str, asked: Node | None) -> None:
        """Take note of ``MOVED <slot> <host>:<port>``; without a host it is the one of the node that says so."""
        slot, _, place = detail.partition(" ")
        host, _, port = place.rpartition(":")
        if slot.isdigit() and port.isdigit() and (host or asked):
            self._moved[int(slot)] = Node(host or (asked.host if asked else ""), int(port))

    def primaries(self) -> set[Node]:
        """All that have slots, as far as is known."""
        return {node for _, node in self._map[1]}

    def _ask(self, settings: dict[str, Any]) -> None:
        known = list(self._known)
        random.shuffle(known)
        last: Exception = ConnectionError("no node of the cluster answers")
        for node in dict.fromkeys([*known, *self._seeds]):
            self._asked_at = time.monotonic()
            try:
                reply = _ask(node, settings, "CLUSTER", "SLOTS")
            except OSError as error:
                last = error
                continue
            except _Refusal as error:
                if "cluster support disabled" in str(error):
                    raise ServerUnsuitable(f"{node.host}:{node.port} is no node of a cluster: use redis://") from None
                raise ServerUnsuitable(f"{node.host}:{node.port} does not tell its slots: {error}") from None
            self._learn(reply, node)
            return
        raise last

    def _learn(self, reply: Any, asked: Node) -> None:
        found, nodes = [], []
        for first, end, *served in reply:
            here = [Node(_host(entry[0], asked), int(entry[1])) for entry in served]
            nodes += here
            found.append((int(first), int(end), here[0]))
        found.sort()
        self._map = [first for first, _, _ in found], [(end, node) for _, end, node in found]
        self._moved = {}
        self._known = tuple(dict.fromkeys(nodes))


def _host(told: Any, asked: Node) -> str:
    """A node that does not know its own address, or must not tell it, says "", "?" or nothing."""
    host = told.decode() if isinstance(told, bytes) else ""
    return host if host not in ("", "?") else asked.host


class SentinelRoute:
    """The primary that the Sentinels name; asked for again whenever something went wrong there."""

    def __init__(self, sentinels: tuple[Node, ...], service: str, login: dict[str, Any]) -> None:
        self._sentinels = sentinels
        self._service = service
        #: username and password of the Sentinels themselves; from a client also whether they speak TLS, and how
        self._login = login
        self._primary: Node | None = None

    def node_of(self, key: str) -> Node | None:  # noqa: ARG002  # one place has all keys
        """One place at a time."""
        return None

    def find(self, key: str, settings: dict[str, Any]) -> Node:  # noqa: ARG002  # one place has all keys
        """The primary."""
        primary = self._primary
        if primary is None:
            primary = self._primary = self._ask(settings)
        return primary

    def lost(self, settings: dict[str, Any]) -> None:  # noqa: ARG002  # it is asked for when one connects
        """Perhaps another one is the primary now."""
        self._primary = None

    def _ask(self, settings: dict[str, Any]) -> Node:
        settings = {name: value for name, value in settings.items() if name not in _OF_SERVERS} | self._login
        last: Exception = ConnectionError("no Sentinel answers")
        for sentinel in self._sentinels:
            try:
                found = _ask(sentinel, settings, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
            except OSError as error:
                last = error
                continue
            except _Refusal as error:
                raise ServerUnsuitable(f"{sentinel.host}:{sentinel.port} is no Sentinel: {error}") from None
            if found:
                return Node(found[0].decode(), int(found[1]))
            last = ServerUnsuitable(f"the Sentinels know no service {self._service!r}: name it behind their hosts")
        raise last


class _Refusal(Exception):  # between _ask and its callers
    """The server answered with an error."""


def _ask(node: Node, settings: dict[str, Any], *words: str) -> Any:
    """One command over a connection of its own; OSError when there is no answer."""
    import redis.connection as kinds
    from redis import exceptions

    settings = settings | {"host": node.host, "port": node.port}
    settings |= {"socket_timeout": _PATIENCE, "socket_connect_timeout": _PATIENCE}
    if not (tls := settings.pop("_tls", False)):  # Sentinels may speak plainly though their servers do not
        settings = {name: value for name, value in settings.items() if not name.startswith("ssl_")}
    connection: Any = (kinds.SSLConnection if tls else kinds.Connection)(**settings)
    try:
        connection.connect()
        connection.send_command(*words)
        return connection.read_response(disable_decoding=True)
    except exceptions.AuthenticationError as error:
        raise _Refusal(f"{error} (user and password)") from None
    except (exceptions.ConnectionError, exceptions.TimeoutError) as error:
        raise ConnectionError(str(error)) from None
    except exceptions.RedisError as error:
        raise _Refusal(str(error)) from None
    finally:
        connection.disconnect()
