"""What the sentinel and its server write beside the data, for people: bounded, and read where the server has said why.

Nothing here raises: a full disk, or a folder that was removed, must not end who watches the server.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MAX_LOG", "log", "read_from", "size", "trim"]

#: bytes; logs lose their first half beyond this
MAX_LOG = 1 << 20


def log(line: str) -> None:
    """To stderr, which is sentinel.log unless somebody runs the sentinel by hand."""
    with contextlib.suppress(OSError):
        os.write(2, f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {line}\n".encode("utf-8", "replace"))


def trim(path: Path) -> None:
    """Keep the last half, in place: the writers append to it, and some have it open."""
    if size(path) <= MAX_LOG:
        return
    with contextlib.suppress(OSError), path.open("r+b") as file:
        file.seek(-MAX_LOG // 2, os.SEEK_END)
        file.readline()
        kept = file.read()
        file.seek(0)
        file.write(kept)
        file.truncate()


def size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def read_from(path: Path, start: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(MAX_LOG).decode("utf-8", "replace")
    except OSError:
        return ""
