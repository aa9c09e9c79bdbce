"""What a server does so that what it has stored stays stored, and what a client may demand of it."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from psmq.errors import InvalidOption

__all__ = ["Durability", "check_demand", "copies_of", "fields_of_info"]


@dataclass(frozen=True, slots=True)
class Durability:
    """What the server of a queue really gives at this moment; None: it does not say."""

    #: whether each change goes to an append-only file
    aof: bool | None
    #: when that file is flushed to disk: "always" (before the answer), "everysec", "no" (when the system likes)
    fsync: str | None
    #: replicas that are connected and follow
    replicas: int | None

    @classmethod
    def read(cls, info: str, appendfsync: str | None) -> Durability:
        """From the sections persistence and replication of INFO, and the setting of that name ("" or None: unknown)."""
        found = fields_of_info(info)
        aof = found["aof_enabled"] == "1" if "aof_enabled" in found else None
        followers = [value for name, value in found.items() if re.fullmatch(r"slave\d+", name)]
        replicas = sum("state=online" in value for value in followers) if "role" in found else None
        return cls(aof, (appendfsync or None) if aof else None, replicas)

    def lacks(self, demand: str) -> str:
        """Why the server does not give what is demanded, "" when it does. Replicas are counted by each push."""
        if demand not in ("everysec", "always") or (self.aof and self.fsync in {"always", demand}):
            return ""
        if self.aof is None or (self.aof and self.fsync is None):
            return "does not say how it persists: let this user run INFO and CONFIG GET"
        if not self.aof:
            return "keeps no append-only file: CONFIG SET appendonly yes"
        return f"has appendfsync {self.fsync}: CONFIG SET appendfsync {demand}"

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


def check_demand(durability: str, *, embedded: bool) -> str:
    """``everysec``, ``always`` or ``replica:1`` … ``replica:9``; else InvalidOption."""
    if durability in ("everysec", "always") or (not embedded and copies_of(durability)):
        return durability
    if embedded:
        raise InvalidOption("durability", f"of an embedded server must be everysec or always, not {durability!r}")
    raise InvalidOption("durability", f"must be everysec, always or replica:1 … replica:9, not {durability!r}")


def copies_of(durability: str) -> int:
    """How many replicas must have a push before it returns."""
    found = re.fullmatch(r"replica:([1-9])", durability)
    return int(found[1]) if found else 0


def fields_of_info(text: str) -> dict[str, str]:
    """INFO's lines."""
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line and not line.startswith("#"))
