"""Is each server set up to keep messages, and are the queues well? Questions that cost it a few milliseconds in all."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from psmq import commands, library
from psmq.commands import Address, Plain
from psmq.errors import PsmqError, QueueNotFound
from psmq.findings import Finding, counted, moving, totals_of
from psmq.rights import rights, texts

if TYPE_CHECKING:
    from collections.abc import Generator

    from psmq.message import MessageRecord, QueueInfo

    Steps = Generator[Any, Any, list[Finding]]

__all__ = ["examine", "examine_queues", "strange_list"]

#: the oldest servers that have functions, by flavour
_OLDEST: Final = {"redis": (7, 0), "valkey": (7, 2)}
#: seconds: of a trip to the server and back, of difference between clocks, a delivery runs, a message waits
_SLOW, _APART, _STUCK, _STALE = 0.010, 2.0, 3600.0, 60.0
#: share of maxmemory from which on it is nearly full; bytes from which on a message is large
_NEARLY, _LARGE = 0.8, 262_144


def examine(namespace: str, key: str, node: str, *, ours: bool) -> Steps:
    """The server that has this key. ``node``: where it listens, in a cluster; else "".

    ``ours``: an embedded server, whose set-up is ours too.
    """
    info = yield Plain(("INFO", "everything"), _info, key)
    found = [_version(info)]
    found += yield from _functions(key)
    found += yield from rights(namespace, key)
    found += _memory(info)
    found += yield from _keeping(info, key)
    if not ours:
        found += yield from _replicas(info, key, in_cluster=bool(node))
    found += yield from _distance(key)
    return [replace(one, subject=f"{one.subject} of {node}") for one in found] if node else found


def strange_list(key: str) -> Finding:
    """What should be the list of queues is something else: to be mended by who may write."""
    message = f"{key} holds what psmq never wrote there, so the queues were not looked at"
    return Finding(
        "problem", "queues", message, "psmq queues sets it aside; each queue is listed again once it is opened"
    )


def examine_queues(namespace: str, names: list[str]) -> Steps:
    """Each queue, wherever it is."""
    found: list[Finding] = []
    for name in names:
        try:
            found += yield from _queue(Address.of(namespace, name))
        except QueueNotFound:
            continue  # deleted since it was listed
    return found


def _info(reply: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in reply.decode("utf-8", "replace").splitlines() if not line.startswith("#"))
    return {name: value for name, colon, value in lines if colon}


def _setting(name: str, key: str) -> Generator[Any, Any, str | None]:
    """None: the server does not tell."""
    try:
        words: list[str] = yield Plain(("CONFIG", "GET", name), lambda reply: list(texts(reply)), key)
    except PsmqError:
        return None
    return words[1] if len(words) == 2 else None


def _number(info: dict[str, str], name: str) -> int:
    text = info.get(name, "0")
    return int(text) if text.isdigit() else 0


def _version(info: dict[str, str]) -> Finding:
    flavour = "valkey" if "valkey_version" in info else "redis"
    text = info.get(f"{flavour}_version", "?")
    parts = tuple(int(part) for part in re.findall(r"\d+", text)[:2])
    oldest = _OLDEST[flavour]
    if parts and parts < oldest:
        fix = "upgrade to Valkey 7.2, Redis 7.0 or newer"
        return Finding("problem", "version", f"{flavour} {text} has no functions, which psmq is made of", fix)
    return Finding("fine", "version", f"{flavour} {text}")


def _functions(key: str) -> Steps:
    words = ("FUNCTION", "LIST", "LIBRARYNAME", library.NAME, "WITHCODE")
    try:
        text = yield Plain(words, lambda reply: " ".join(texts(reply)), key)
    except PsmqError as error:
        fix = "no need to do anything if programs work; ACL SETUSER … +function|list lets doctor look"
        return [Finding("advice", "functions", f"cannot be listed ({error})", fix)]
    stored = re.search(r"^calls\.revision = (\d+)$", text, re.MULTILINE)
    if stored is None:
        fix = "the first command brings it; where that is not allowed: psmq server load URL"
        return [Finding("advice", "functions", f"{library.NAME} is not loaded", fix)]
    theirs, ours = int(stored[1]), library.revision()
    if theirs < ours:
        fix = "the next command replaces it; where that is not allowed: psmq server load URL"
        return [Finding("advice", "functions", f"{library.NAME} has revision {theirs}, this psmq has {ours}", fix)]
    newer = f"; this psmq has {ours}" if theirs > ours else ""
    return [Finding("fine", "functions", f"{library.NAME}, revision {theirs}{newer}")]


def _memory(info: dict[str, str]) -> list[Finding]:
    found = []
    used, most = _number(info, "used_memory"), _number(info, "maxmemory")
    policy = info.get("maxmemory_policy", "?")
    if policy != "noeviction":
        message = f"maxmemory-policy is {policy}: a full server throws away keys, and messages with them"
        found.append(Finding("problem", "eviction", message, "CONFIG SET maxmemory-policy noeviction, and in its file"))
    else:
        found.append(Finding("fine", "eviction", "noeviction: a full server refuses pushes and loses nothing"))
    if most and used > most * _NEARLY:
        message = f"{used / 2**20:.0f} of {most / 2**20:.0f} MiB are used: pushes will be refused"
        fix = "let workers drain it, or CONFIG SET maxmemory to more; psmq queues tells which queue is long"
        found.append(Finding("problem", "memory", message, fix))
    elif most:
        found.append(Finding("fine", "memory", f"{used / 2**20:.0f} of {most / 2**20:.0f} MiB are used"))
    else:
        found.append(Finding("fine", "memory", f"{used / 2**20:.0f} MiB are used, without a limit (maxmemory 0)"))
    return found


def _keeping(info: dict[str, str], key: str) -> Steps:
    found = []
    if info.get("aof_enabled") == "1":
        fsync = yield from _setting("appendfsync", key)
        if fsync == "no":
            message = "appendfsync is no: a power cut costs up to half a minute of messages"
            found.append(Finding("problem", "persistence", message, "CONFIG SET appendfsync everysec, and in its file"))
        else:
            seconds = {"always": "nothing", None: "as much as appendfsync says"}.get(fsync, "a second or two")
            found.append(
                Finding("fine", "persistence", f"appendonly, fsync {fsync or '?'}: a power cut costs {seconds}")
            )
        if info.get("aof_last_write_status", "ok") != "ok":
            found.append(Finding("problem", "persistence", "the last write to disk failed", "is its disk full?"))
        return found
    save = yield from _setting("save", key)
    fix = "CONFIG SET appendonly yes, and appendonly yes in its file"
    if save == "":
        message = "nothing is written to disk: a restart loses every message"
        found.append(Finding("problem", "persistence", message, fix))
    else:
        message = "only snapshots are written to disk: a crash loses what came since the last one"
        found.append(Finding("problem", "persistence", message, fix))
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        found.append(Finding("problem", "persistence", "the last snapshot failed", "is its disk full?"))
    return found


def _replicas(info: dict[str, str], key: str, *, in_cluster: bool) -> Steps:
    role, count = info.get("role", "?"), _number(info, "connected_slaves")
    if role != "master":
        fix = "name the primary, or a Sentinel: redis+sentinel://"
        return [Finding("problem", "replication", f"this is a {role}: it takes no messages", fix)]
    if not count:
        needed = "CLUSTER REPLICATE on another node" if in_cluster else "a replica and Sentinel"
        fix = f"{needed}, if the machine must not be a single point of failure"
        return [Finding("advice", "replication", "no replica: when its machine is lost, so are its messages", fix)]
    least = yield from _setting("min-replicas-to-write", key)
    if least == "0":
        message = f"{count} replicas, min-replicas-to-write 0: an isolated primary takes messages that a failover drops"
        return [Finding("advice", "replication", message, "CONFIG SET min-replicas-to-write 1, and in its file")]
    return [Finding("fine", "replication", f"{count} replicas, min-replicas-to-write {least or '?'}")]


def _distance(key: str) -> Steps:
    trips, apart = [], 0.0
    for _ in range(5):
        sent, local = time.perf_counter(), time.time()
        theirs = yield Plain(("TIME",), lambda reply: int(reply[0]) + int(reply[1]) / 1e6, key)
        trips.append(time.perf_counter() - sent)
        apart = theirs - local - trips[-1] / 2
    trip = sorted(trips)[2]
    found = []
    if trip > _SLOW:
        message = f"a trip takes {trip * 1000:.1f} ms: one push after the other makes {1 / trip:.0f} in a second"
        found.append(Finding("advice", "latency", message, "push_many and delay_many; run it nearer"))
    else:
        found.append(Finding("fine", "latency", f"a trip takes {trip * 1000:.2g} ms"))
    if abs(apart) > _APART:
        message = f"{apart:+.1f} s from this machine's: the server's decides, and ages shown here are off"
        found.append(Finding("advice", "clock", message, "run an NTP client on both"))
    else:
        words = f"{apart * 1000:+.0f} ms from" if abs(apart) >= 0.0005 else "the same as"
        found.append(Finding("fine", "clock", f"{words} this machine's"))
    return found


def _queue(address: Address) -> Steps:
    info: QueueInfo = yield commands.info(address)
    subject = f"queue {address.name}"
    found = []
    if info.ready and not info.consumers and not info.paused:
        verb = "waits" if info.ready == 1 else "wait"
        message = f"{counted(info.ready, 'message')} {verb} and nobody has asked for one within the last minute"
        found.append(Finding("problem", subject, message, f"psmq-worker APP -q {address.name}"))
    elif (info.oldest_ready or 0) > _STALE and not info.paused:
        message = f"the oldest of {counted(info.ready, 'ready message')} waits for {info.oldest_ready:.0f} s"
        found.append(Finding("advice", subject, message, "more workers; psmq top shows what those there are do"))
    if info.paused and info.ready:
        message = f"paused, and {counted(info.ready, 'message')} {'waits' if info.ready == 1 else 'wait'}"
        found.append(Finding("advice", subject, message, f"psmq resume {address.name}"))
    if info.dead:
        fix = f"psmq dead list --group-by error --queue {address.name}"
        kept = info.config.dead_retention
        message = counted(info.dead, "dead letter")
        message += f", each kept for {kept:g} s" if kept else ""
        found.append(Finding("advice", subject, message, fix))
    found += yield from moving(address, (yield from totals_of(address)))
    largest = yield commands.keyed(("HGET", address.base, "largest"), lambda reply: int(reply or 0))
    if largest > _LARGE:
        message = f"its largest message had {largest / 1024:.0f} KiB: large ones hold up everybody's commands"
        found.append(Finding("advice", subject, message, "store the data elsewhere and send where it is"))
    if info.leased:
        held: list[MessageRecord] = yield commands.messages(address, "leased", 100, None, data=False)
        now = datetime.now(UTC)
        old = [m for m in held if m.first_retrieved and (now - m.first_retrieved).total_seconds() > _STUCK]
        first = [m for m in old if m.retrieval_count == 1]
        if first:
            who = "message has been with its" if len(first) == 1 else "messages have been with their"
            message = f"{len(first)} {who} holder for more than an hour ({first[0].message_id})"
            found.append(Finding("advice", subject, message, "psmq workers says who; a time_limit would end it"))
    return found or [Finding("fine", subject, f"{info.ready} ready, {info.leased} leased, no dead letters")]
