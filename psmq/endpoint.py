"""Where the server is and how one connects to it: a URL, a folder, this process's memory, or a redis-py client.

Nothing here connects before it is asked to, and redis-py, which takes a fifth of a second to import, is imported then.
Where the place of a key can change, a route (psmq/routes.py) knows it.
"""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from psmq import server
from psmq.client_settings import settings_of
from psmq.durability import check_demand, copies_of
from psmq.environment import is_on, is_yes
from psmq.errors import InvalidOption
from psmq.routes import ClusterRoute, Node, Route, SentinelRoute

__all__ = ["KNOWN", "Endpoint"]

_SCHEMES: Final = {
    "redis": "redis",
    "rediss": "rediss",
    "valkey": "redis",
    "valkeys": "rediss",
    "unix": "unix",
}
_PORTS: Final = {"sentinel": 26379, "cluster": 6379}
#: how the URL of a server that others reach, too, may begin
KNOWN: Final = (
    "embedded:///folder unix:///socket redis:// rediss:// valkey:// valkeys:// "
    "(these four also like redis+sentinel:// and redis+cluster://)"
)
#: what people write for a server's URL: a host, perhaps with a port and a database
_HOST: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]+)?(/[0-9]*)?")
#: what stands in a URL's query for us, not for redis-py
_OURS: Final = ("durability", "allow_eviction", "sentinel_username", "sentinel_password")
#: signs what this process puts on its in-memory server; forked workers inherit it, nobody else can reach that server
_MEMORY_KEY: Final = os.urandom(32)
#: seconds to connect, and seconds an answer may take that does not wait for anything
CONNECT_TIMEOUT: Final = 5.0
ANSWER_TIMEOUT: Final = 10.0


@dataclass(frozen=True)
class Endpoint:
    """One of ``memory:``, ``embedded:///dir``, a server's URL, or a client's settings."""

    #: without password, for logs and errors
    shown: str
    db_dir: Path | None = None
    #: what is demanded; None: whatever the server gives
    durability: str | None = None
    #: as it was given
    url: str | None = field(default=None, repr=False)
    #: redis-py's settings: the part of the URL that is for it, or those of a client
    plain: str | None = field(default=None, repr=False)
    client: dict[str, Any] | None = field(default=None, repr=False)
    is_memory: bool = False
    #: serve also where messages may be evicted
    allow_eviction: bool = False
    #: None: one server
    route: Route | None = None

    @classmethod
    def memory(cls) -> Endpoint:
        """The in-memory server of this process."""
        return cls("memory:", is_memory=True)

    @classmethod
    def embedded(cls, db_dir: Path | str, durability: str | None = None) -> Endpoint:
        """The server that keeps its data in a folder, started when there is none."""
        folder = Path(db_dir).expanduser()
        demand = check_demand(durability or "everysec", embedded=True)
        return cls(f"embedded://{folder}", db_dir=folder, durability=demand)

    @classmethod
    def of_url(cls, url: str, durability: str | None = None) -> Endpoint:
        """A URL of any of the known schemes; InvalidOption for others. ``durability`` wins over the URL's own."""
        if url in ("memory:", "memory://"):
            return cls.memory()
        parts, scheme, kind = _read(url)
        query = dict(parse_qsl(parts.query))
        allows = query.get("allow_eviction", "")
        durability = durability or query.get("durability")
        if scheme == "embedded":
            return cls.embedded(unquote(parts.netloc + parts.path) or server.default_db_dir(), durability)
        if scheme == "unix" and (kind or not parts.path):
            raise InvalidOption("url", "unix:// takes the path of a socket: unix:///run/valkey/valkey.sock")
        login, _, hosts = parts.netloc.rpartition("@")
        if scheme != "unix" and not hosts.strip(","):
            raise InvalidOption("url", f"{_redacted(url)!r} names no host")
        path = parts.path
        route: Route | None = None
        if kind:
            nodes = tuple(_node(text, _PORTS[kind]) for text in hosts.split(",") if text)
            hosts = "localhost"  # the route knows where
            path, route = _cluster(nodes, path) if kind == "cluster" else _sentinel(nodes, path, query)
        rest = urlencode([(name, value) for name, value in parse_qsl(parts.query) if name not in _OURS])
        place = f"{login}@{hosts}" if login else hosts
        return cls(
            _redacted(url),
            url=url,
            plain=f"{_SCHEMES[scheme]}://{place}/{path.lstrip('/')}{'?' if rest else ''}{rest}",
            durability=durability and check_demand(durability, embedded=False),
            allow_eviction=is_yes("allow_eviction", allows) if allows else is_on("PSMQ_ALLOW_EVICTION"),
            route=route,
        )

    @classmethod
    def of_client(cls, client: Any, durability: str | None = None) -> Endpoint:
        """The settings of a redis-py client of any kind, sync or async; the client itself is not used."""
        found = settings_of(client)
        return cls(
            found.shown,
            client=found.kept,
            durability=durability and check_demand(durability, embedded=False),
            allow_eviction=is_on("PSMQ_ALLOW_EVICTION"),
            route=found.route,
        )

    @property
    def copies(self) -> int:
        """How many replicas must have a push before it returns."""
        return copies_of(self.durability or "")

    @property
    def is_ours(self) -> bool:
        """Whether psmq started the server itself."""
        return self.is_memory or self.db_dir is not None

    def settings_of_manager(self) -> dict[str, Any]:
        """The arguments of a manager that reaches the same server."""
        if self.is_memory:
            return {"url": "memory:"}
        if self.db_dir is not None:
            return {"db_dir": str(self.db_dir), "durability": self.durability}
        if self.url is not None:
            return {"url": self.url, **({"durability": self.durability} if self.durability else {})}
        raise InvalidOption("connection", "cannot be handed to another process: give a url instead")

    def node_of(self, key: str) -> Node | None:
        """Under which name a connection for this key is kept."""
        return None if self.route is None else self.route.node_of(key)

    def settings(self, key: str = "") -> tuple[Node | None, str, dict[str, Any]]:
        """How to connect to the server that has ``key``: the name to keep that under, the kind of connection (tcp,
        tls, unix) and redis-py's settings, all timeouts explicit, no retries.

        Starts the embedded server where there is none, asks for the way where that can change; may block for that
        long.
        """
        given, node = self._base(), None
        if self.route is not None:
            found = self.route.find(key, given)
            given |= {"host": found.host, "port": found.port}
            node = found if self.is_cluster else None
        tls = given.pop("_tls", False)
        if "path" in given:
            return node, "unix", given
        given.setdefault("socket_keepalive", True)
        given.setdefault("socket_keepalive_options", _keepalive())
        return node, ("tls" if tls else "tcp"), given

    def _base(self) -> dict[str, Any]:
        import redis.connection
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        if self.is_memory:
            given: dict[str, Any] = {"path": str(server.ensure_memory())}
        elif self.db_dir is not None:
            given = {"path": str(server.ensure(self.db_dir, durability=self.durability or "everysec"))}
        elif self.client is not None:
            given = dict(self.client)
        else:
            assert self.plain
            try:
                given = dict(redis.connection.parse_url(self.plain))  # type: ignore[no-untyped-call]
            except ValueError as error:
                raise InvalidOption("url", f"cannot be read: {error}") from None
            if "SSL" in given.pop("connection_class", type).__name__:
                given["_tls"] = True
        return given | {
            "socket_timeout": ANSWER_TIMEOUT,
            "socket_connect_timeout": CONNECT_TIMEOUT,
            "retry": Retry(NoBackoff(), 0),
            "health_check_interval": 0,
            "protocol": 2,
            "driver_info": None,
        }

    def moved(self, detail: str, asked: Node | None) -> None:
        """A node of a cluster says which one has a slot."""
        if isinstance(self.route, ClusterRoute):
            self.route.moved(detail, asked)

    @property
    def is_cluster(self) -> bool:
        """Whether keys are on many servers at a time."""
        return isinstance(self.route, ClusterRoute)

    def primaries(self) -> set[Node]:
        """The nodes of a cluster that have slots, as far as is known; empty where there is one server."""
        return self.route.primaries() if isinstance(self.route, ClusterRoute) else set()

    def recover(self) -> None:
        """After something went wrong: an embedded server may have to be started, the way to others asked for again."""
        if self.is_memory:
            server.ensure_memory()
        elif self.db_dir is not None:
            server.ensure(self.db_dir, durability=self.durability or "everysec")
        elif self.route is not None:
            self.route.lost(self._base())

    def signing_key(self) -> bytes | None:
        """The key kept beside the data of our own servers; None for servers that are not ours."""
        if self.is_memory:
            return _MEMORY_KEY
        if self.db_dir is not None:
            server.ensure(self.db_dir, durability=self.durability or "everysec")
            return server.signing_key(self.db_dir)
        return None


def _read(url: str) -> tuple[SplitResult, str, str]:
    """Its parts, its scheme, and behind a + of that sentinel or cluster; InvalidOption for what we do not know."""
    try:
        parts = urlsplit(url)
        scheme, _, kind = parts.scheme.partition("+")
        _ = kind or parts.port
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidOption("url", f"cannot be read: {error}") from None
    if scheme in (_SCHEMES if kind else {*_SCHEMES, "embedded"}) and (not kind or kind in _PORTS):
        return parts, scheme, kind
    # Where nothing has its place, a password may be anything before an @ or behind a question mark.
    shown = _redacted(url) if "://" in url else url.rpartition("@")[2].partition("?")[0]
    if _HOST.fullmatch(url):
        raise InvalidOption("url", f"must be a URL, not {shown!r}: did you mean redis://{url}?")
    raise InvalidOption("url", f"must start with one of memory: {KNOWN}, not {shown!r}")


def _cluster(nodes: tuple[Node, ...], path: str) -> tuple[str, Route]:
    """The path that is left for the database, and the way."""
    if path.strip("/") not in {"", "0"}:
        raise InvalidOption("url", "names a database: a cluster has only number 0")
    return "", ClusterRoute(nodes)


def _sentinel(nodes: tuple[Node, ...], path: str, query: dict[str, str]) -> tuple[str, Route]:
    """The path that is left for the database, and the way."""
    service, _, database = path.strip("/").partition("/")
    if not service:
        raise InvalidOption("url", "names no service: redis+sentinel://host1,host2/mymaster")
    given = {name[9:]: query[name] for name in ("sentinel_username", "sentinel_password") if name in query}
    return database, SentinelRoute(nodes, unquote(service), given)


def _redacted(url: str) -> str:
    """Without passwords."""
    parts = urlsplit(url)
    login, at, hosts = parts.netloc.rpartition("@")
    user, colon, _ = login.partition(":")
    place = f"{user}:***@{hosts}" if colon else f"{login}{at}{hosts}"
    query = re.sub(r"(?<=password=)[^&]*", "***", parts.query)
    return f"{parts.scheme}://{place}{parts.path}{'?' if query else ''}{query}"


def _node(text: str, port: int) -> Node:
    try:
        parts = urlsplit(f"//{text}")
        return Node(parts.hostname or "localhost", parts.port or port)
    except ValueError as error:
        raise InvalidOption("url", f"cannot be read: {error}") from None


def _keepalive() -> dict[int, int]:
    """A peer that is gone without a word is noticed after about a minute."""
    wanted = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
    return {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}
