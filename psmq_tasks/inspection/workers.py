"""Workers as they said they are, as plain data."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

__all__ = ["Running", "Worker", "read_worker"]


@dataclass(frozen=True, slots=True)
class Running:
    """One task that runs."""

    id: str
    #: the task's name; "": not known, or it is being read
    task: str
    queue: str
    attempt: int
    #: of its process
    pid: int
    #: None: on the event loop
    slot: int | None
    since: datetime


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker at its last beat (every 5 s; 20 s after the last one it is gone)."""

    id: str
    host: str
    pid: int
    version: str
    started: datetime
    beat: datetime
    queues: tuple[str, ...]
    processes: int
    slots: int
    running: int
    #: messages that are finished, and deliveries that failed, since it started
    done: int
    failed: int
    #: resident bytes of its processes; None: not known there
    memory: int | None
    #: the longest first, at most 64
    tasks: tuple[Running, ...]

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``: times in ISO 8601."""
        found = asdict(self)
        for one in (found, *found["tasks"]):
            one |= {name: value.isoformat() for name, value in one.items() if isinstance(value, datetime)}
        return found


def read_worker(worker_id: str, note: bytes) -> Worker | None:
    """None for a note that no worker of ours wrote."""
    try:
        said = json.loads(note)
        return Worker(
            id=worker_id,
            host=str(said["host"]),
            pid=int(said["pid"]),
            version=str(said["version"]),
            started=_time(said["started"]),
            beat=_time(said["beat"]),
            queues=tuple(map(str, said["queues"])),
            processes=int(said["processes"]),
            slots=int(said["slots"]),
            running=int(said["running"]),
            done=int(said["done"]),
            failed=int(said["failed"]),
            memory=None if said["memory"] is None else int(said["memory"]),
            tasks=tuple(map(_running, said["tasks"])),
        )
    except (ValueError, KeyError, TypeError, OverflowError, OSError, RecursionError):
        return None


def _running(said: dict[str, Any]) -> Running:
    return Running(
        id=str(said["id"]),
        task=str(said.get("task", "")),
        queue=str(said["queue"]),
        attempt=int(said["attempt"]),
        pid=int(said["pid"]),
        slot=None if said["slot"] is None else int(said["slot"]),
        since=_time(said["since"]),
    )


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(float(seconds), UTC)
