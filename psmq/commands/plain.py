"""Plain commands of the server itself, for what lies beside the queues: names, workers, results that are waited for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psmq.commands.request import Address, Plain, bytes_or_none, keyed, text, texts

if TYPE_CHECKING:
    from collections.abc import Sequence


def registry(namespace: str) -> str:
    """The set of queue names: a hint for listings; a queue's hash is the truth."""
    return f"{namespace}:queues"


def register(namespace: str, name: str) -> Plain[int]:
    return keyed(("SADD", registry(namespace), name), int)


def unregister(namespace: str, names: Sequence[str]) -> Plain[int]:
    return keyed(("SREM", registry(namespace), *names), int)


def registered(namespace: str) -> Plain[list[str]]:
    return keyed(("SMEMBERS", registry(namespace)), lambda reply: sorted(texts(reply)))


def _workers(namespace: str) -> str:
    """The set of ids of workers: a hint; the note of each, which expires, is the truth."""
    return f"{namespace}:workers"


def _worker(namespace: str, worker_id: str) -> str:
    return f"{namespace}:worker:{worker_id}"


def note_worker(namespace: str, worker_id: str, note: bytes, seconds: float) -> Plain[bool]:
    """What a worker says of itself, kept for so long."""
    return keyed(("SET", _worker(namespace, worker_id), note, "PX", round(seconds * 1000)), bool)


def read_worker(namespace: str, worker_id: str) -> Plain[bytes | None]:
    return keyed(("GET", _worker(namespace, worker_id)), bytes_or_none)


def forget_worker(namespace: str, worker_id: str) -> Plain[int]:
    return keyed(("DEL", _worker(namespace, worker_id)), int)


def list_worker(namespace: str, worker_id: str) -> Plain[int]:
    return keyed(("SADD", _workers(namespace), worker_id), int)


def unlist_workers(namespace: str, worker_ids: Sequence[str]) -> Plain[int]:
    return keyed(("SREM", _workers(namespace), *worker_ids), int)


def listed_workers(namespace: str) -> Plain[list[str]]:
    return keyed(("SMEMBERS", _workers(namespace)), lambda reply: sorted(texts(reply)))


def exists(address: Address) -> Plain[bool]:
    return keyed(("EXISTS", address.base), bool)


def await_result(address: Address, message_id: str, seconds: float) -> Plain[bytes | None]:
    """Wait on the server for a result; all waiters get it, and it stays. 0 seconds: only look."""
    key = address.result(message_id)
    if seconds <= 0:
        return keyed(("LINDEX", key, 0), bytes_or_none)
    return keyed(("BLMOVE", key, key, "LEFT", "LEFT", f"{seconds:.3f}"), bytes_or_none, patience=seconds)


def keeping(address: Address) -> Plain[str]:
    """How the queue's server persists and replicates, in INFO's words."""
    return Plain(("INFO", "persistence", "replication"), text, key=address.base)


def flushing(address: Address) -> Plain[str]:
    """When it flushes its file."""
    return Plain(("CONFIG", "GET", "appendfsync"), lambda reply: text(reply[-1]) if reply else "", key=address.base)
