"""What is taken over from a redis-py client: where it connects and as whom, not how it retries, decodes or pools.

Clients of one server, of a cluster, and those that a Sentinel object makes, sync and async. Their settings can be read
without a connection; the client itself is not used.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from psmq.errors import InvalidOption
from psmq.routes import ClusterRoute, Node, Route, SentinelRoute

__all__ = ["ClientSettings", "settings_of"]

_COPIED: Final = ("host", "port", "path", "db", "username", "password", "credential_provider", "socket_keepalive")
#: what a route finds out by itself
_PLACE: Final = ("host", "port", "path")


class ClientSettings(NamedTuple):
    """Where a client connects."""

    #: for logs and errors
    shown: str
    #: of a redis-py connection, and ``_tls``
    kept: dict[str, Any]
    #: None: one server
    route: Route | None = None


def settings_of(client: Any) -> ClientSettings:
    """Those of any redis-py client that leads to a primary; InvalidOption for what does not."""
    if (nodes := getattr(client, "nodes_manager", None)) is not None:
        return _of_cluster(client, nodes)
    pool = getattr(client, "connection_pool", None)
    if pool is None:
        if hasattr(client, "master_for"):
            raise InvalidOption("connection", "is a Sentinel: give what its master_for(service) makes")
        raise InvalidOption("connection", f"must be a redis-py client, not {type(client).__name__}")
    if hasattr(pool, "sentinel_manager"):
        return _of_sentinels(pool)
    kept = _copied(pool)
    where = kept.get("path") or f"{kept.get('host', 'localhost')}:{kept.get('port', 6379)}"
    return ClientSettings(f"connection to {where}", kept)


def _of_cluster(client: Any, nodes: Any) -> ClientSettings:
    # the async client keeps them itself
    given = getattr(nodes, "connection_kwargs", None) or client.connection_kwargs
    remapped = any(getattr(owner, "address_remap", None) for owner in (nodes, client))
    if remapped:
        raise InvalidOption(
            "connection",
            "has an address_remap, which is not taken over: let the nodes announce what clients reach "
            "(cluster-announce-ip), and give url=redis+cluster://…",
        )
    seeds = tuple(dict.fromkeys(Node(one.host, int(one.port)) for one in nodes.startup_nodes.values()))
    kept = _kept(given, tls=bool(given.get("ssl")) or _is_tls(given.get("connection_class")))
    return ClientSettings(f"connection to the cluster of {_listed(seeds)}", _elsewhere(kept), ClusterRoute(seeds))


def _of_sentinels(pool: Any) -> ClientSettings:
    if not pool.is_master:
        raise InvalidOption("connection", "is a client of replicas: give what the Sentinel's master_for(service) makes")
    askers = [_copied(one.connection_pool) for one in pool.sentinel_manager.sentinels]
    seeds = tuple(Node(one.get("host", "localhost"), int(one.get("port", 26379))) for one in askers)
    # the Sentinels have an own login, and TLS or not, whatever the servers have
    login = _elsewhere(askers[0]) if askers else {}
    route = SentinelRoute(seeds, pool.service_name, login)
    shown = f"connection to {pool.service_name!r} of the Sentinels {_listed(seeds)}"
    return ClientSettings(shown, _elsewhere(_copied(pool)), route)


def _copied(pool: Any) -> dict[str, Any]:
    return _kept(pool.connection_kwargs, tls=_is_tls(pool.connection_class))


def _kept(given: dict[str, Any], *, tls: bool) -> dict[str, Any]:
    kept = {name: given[name] for name in given if name in _COPIED or (tls and name.startswith("ssl_"))}
    return kept | {"_tls": tls}


def _elsewhere(kept: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kept.items() if name not in _PLACE}


def _is_tls(connection_class: Any) -> bool:
    return "SSL" in getattr(connection_class, "__name__", "")


def _listed(nodes: tuple[Node, ...]) -> str:
    return ",".join(f"{node.host}:{node.port}" for node in nodes[:3]) + (" …" if len(nodes) > 3 else "")
