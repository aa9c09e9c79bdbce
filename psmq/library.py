"""The Lua library: its files in their one order, its revision, its digest.

The server has no include: the files are concatenated, each declaring one local table that the later ones use.
A test holds the digest, so that nobody changes the Lua without raising the revision that makes servers take it.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib import resources
from typing import Final

__all__ = ["NAME", "digest", "revision", "source"]

#: the number is the wire protocol: libraries of two protocols live side by side on one server
NAME: Final = "psmq_v1"

ORDER: Final = (
    "redis",
    "memo",
    "keys",
    "errors",
    "clock",
    "entries",
    "batch",
    "events",
    "rollups",
    "calls",
    "dead",
    "moving",
    "redriving",
    "delays",
    "amending",
    "settling",
    "push",
    "transferring",
    "messages",
    "reading",
    "tracing",
    "queues",
    "auditing",
    "psmq_library",
)


@cache
def source() -> str:
    """What FUNCTION LOAD takes."""
    folder = resources.files("psmq") / "lua"
    files = (f"-- {name}.lua\n" + (folder / f"{name}.lua").read_text("utf-8") for name in ORDER)
    return f"#!lua name={NAME}\n" + "\n".join(files)


@cache
def revision() -> int:
    """Raised by every change of the Lua: a client replaces a library that is older than its own."""
    found = re.search(r"^calls\.revision = (\d+)$", source(), re.MULTILINE)
    assert found
    return int(found[1])


def digest() -> str:
    """Fingerprint of the source."""
    return hashlib.sha256(source().encode()).hexdigest()[:16]
