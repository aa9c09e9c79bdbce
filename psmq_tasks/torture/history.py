"""What happened, written down by everybody who took part: senders, tasks, and whoever killed them.

One file that all append to. Each record is one write to a descriptor opened with O_APPEND, so lines of many processes
do not mix, and what was written survives the death of its writer.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["History", "Record"]


class Record(NamedTuple):
    """One line.

    ``kind``: try (a push begins), push (it returned), start and end (of a run), kill (of a process).
    """

    kind: str
    #: of the job; of a kill: the pid
    key: str
    #: monotonic seconds, which are the same in all processes of a machine
    time: float
    message_id: str = ""
    pid: int = 0
    attempt: int = 0


class History:
    """A file of records, to append to and to read."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._descriptor = -1

    def note(self, kind: str, key: object, message_id: str = "", attempt: int = 0) -> None:
        """Append one record."""
        self.note_all(kind, [(key, message_id)], attempt)

    def note_all(self, kind: str, rows: Iterable[tuple[object, str]], attempt: int = 0) -> None:
        """Append records of (key, message id) in one write."""
        now, pid = time.monotonic(), os.getpid()
        lines = [f"{kind} {key} {now:.6f} {message_id or '-'} {pid} {attempt}\n" for key, message_id in rows]
        if self._descriptor < 0:
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(self._descriptor, "".join(lines).encode())

    def read(self) -> list[Record]:
        """All records so far, in the order of the file."""
        if not self.path.exists():
            return []
        records = []
        for line in self.path.read_text().splitlines():
            kind, key, moment, message_id, pid, attempt = line.split(" ")
            records.append(Record(kind, key, float(moment), message_id.strip("-"), int(pid), int(attempt)))
        return records

    def close(self) -> None:
        """Close the file; the next note opens it again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
