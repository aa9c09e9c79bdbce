"""Where the server is and how one connects to it: a URL, a folder, this process's memory, or a redis-py client.

Nothing here connects before it is asked to, and redis-py, which takes a fifth of a second to import, is imported then.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit, urlunsplit

from psmq import server
from psmq.errors import InvalidOption

__all__ = ["Endpoint"]

_SCHEMES: Final = {
    "redis": "redis",
    "rediss": "rediss",
    "valkey": "redis",
    "valkeys": "rediss",
    "unix": "unix",
}
#: what is taken over from a redis-py client: where it connects and as whom, not how it retries or decodes
_COPIED: Final = ("host", "port", "path", "db", "username", "password", "credential_provider", "socket_keepalive")
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
    durability: str = "everysec"
    url: str | None = None
    client: dict[str, Any] | None = field(default=None, repr=False)
    is_memory: bool = False

    @classmethod
    def memory(cls) -> Endpoint:
        """The in-memory server of this process."""
        return cls("memory:", is_memory=True)

    @classmethod
    def embedded(cls, db_dir: Path | str, durability: str = "everysec") -> Endpoint:
        """The server that keeps its data in a folder, started when there is none."""
        if durability not in ("everysec", "always"):
            raise InvalidOption("durability", f"must be everysec or always, not {durability!r}")
        folder = Path(db_dir).expanduser()
        return cls(f"embedded://{folder}", db_dir=folder, durability=durability)

    @classmethod
    def of_url(cls, url: str) -> Endpoint:
        """A URL of any of the known schemes; InvalidOption for others."""
        if url in ("memory:", "memory://"):
            return cls.memory()
        try:
            parts = urlsplit(url)
            _ = parts.port
        except (ValueError, TypeError, AttributeError) as error:
            raise InvalidOption("url", f"cannot be read: {error}") from None
        if parts.scheme == "embedded":
            folder = unquote(parts.netloc + parts.path)
            return cls.embedded(folder or server.default_db_dir())
        if parts.scheme not in _SCHEMES:
            known = "memory: embedded:///dir redis:// rediss:// unix:// valkey:// valkeys://"
            raise InvalidOption("url", f"must start with one of {known}, not {_redacted(url)!r}")
        if parts.scheme == "unix" and not parts.path:
            raise InvalidOption("url", "unix:// takes the path of a socket: unix:///run/valkey/valkey.sock")
        if parts.scheme != "unix" and not parts.hostname:
            raise InvalidOption("url", f"{_redacted(url)!r} names no host")
        return cls(_redacted(url), url=_SCHEMES[parts.scheme] + url[len(parts.scheme) :])

    @classmethod
    def of_client(cls, client: Any) -> Endpoint:
        """The settings of a redis-py client, sync or async; the client itself is not used."""
        pool = getattr(client, "connection_pool", None)
        if pool is None:
            raise InvalidOption("connection", f"must be a redis-py client, not {type(client).__name__}")
        given = dict(pool.connection_kwargs)
        kept = {name: given[name] for name in given if name in _COPIED or name.startswith("ssl_")}
        kept["_tls"] = "SSL" in pool.connection_class.__name__
        where = kept.get("path") or f"{kept.get('host', 'localhost')}:{kept.get('port', 6379)}"
        return cls(f"connection to {where}", client=kept)

    def settings_of_manager(self) -> dict[str, Any]:
        """The arguments of a manager that reaches the same server."""
        if self.is_memory:
            return {"url": "memory:"}
        if self.db_dir is not None:
            return {"db_dir": str(self.db_dir), "durability": self.durability}
        if self.url is not None:
            return {"url": self.url}
        raise InvalidOption("connection", "cannot be handed to another process: give a url instead")

    def settings(self) -> tuple[str, dict[str, Any]]:
        """The kind of connection (tcp, tls, unix) and its redis-py settings, all timeouts explicit, no retries.

        Starts the embedded server where there is none; may block for that long.
        """
        import redis.connection
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        if self.is_memory:
            given: dict[str, Any] = {"path": str(server.ensure_memory())}
        elif self.db_dir is not None:
            given = {"path": str(server.ensure(self.db_dir, durability=self.durability))}
        elif self.client is not None:
            given = dict(self.client)
        else:
            assert self.url
            try:
                given = dict(redis.connection.parse_url(self.url))  # type: ignore[no-untyped-call]
            except ValueError as error:
                raise InvalidOption("url", f"cannot be read: {error}") from None
            if "SSL" in given.pop("connection_class", type).__name__:
                given["_tls"] = True
        tls = given.pop("_tls", False)
        given |= {
            "socket_timeout": ANSWER_TIMEOUT,
            "socket_connect_timeout": CONNECT_TIMEOUT,
            "retry": Retry(NoBackoff(), 0),
            "health_check_interval": 0,
            "protocol": 2,
            "driver_info": None,
        }
        if "path" in given:
            return "unix", given
        given.setdefault("socket_keepalive", True)
        given.setdefault("socket_keepalive_options", _keepalive())
        return ("tls" if tls else "tcp"), given

    def recover(self) -> None:
        """After a lost connection: an embedded server may have to be started again. Others are only waited for."""
        if self.is_memory:
            server.ensure_memory()
        elif self.db_dir is not None:
            server.ensure(self.db_dir, durability=self.durability)

    def signing_key(self) -> bytes | None:
        """The key kept beside the data of our own servers; None for servers that are not ours."""
        if self.is_memory:
            return _MEMORY_KEY
        if self.db_dir is not None:
            server.ensure(self.db_dir, durability=self.durability)
            return server.signing_key(self.db_dir)
        return None


def _redacted(url: str) -> str:
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.hostname or ""
    user = f"{parts.username}:***@" if parts.username else ":***@"
    port = f":{parts.port}" if parts.port else ""
    return urlunsplit((parts.scheme, f"{user}{host}{port}", *parts[2:]))


def _keepalive() -> dict[int, int]:
    """A peer that is gone without a word is noticed after about a minute."""
    wanted = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
    return {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}
