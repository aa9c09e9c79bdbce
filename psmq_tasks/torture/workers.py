"""A worker in a process of its own that can be killed, stopped and continued, and whose deaths are written down."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random

    from psmq_tasks.torture.history import History

__all__ = ["TorturedWorker"]

_RUN = "import sys; from psmq_tasks.cli import worker; sys.exit(worker())"
_PACKAGES = Path(__file__).resolve().parents[2]


class TorturedWorker:
    """``psmq-worker psmq_tasks.torture.jobs``. ``environment``: what it has besides this process's own."""

    def __init__(
        self, url: str, queue: str, history: History, log: Path, *options: object, environment: Mapping[str, str]
    ) -> None:
        self.history = history
        self.log = log
        words = ["psmq_tasks.torture.jobs", "-q", queue, *map(str, options)]
        path = os.pathsep.join(filter(None, [str(_PACKAGES), os.environ.get("PYTHONPATH")]))
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _RUN, *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=log.parent,
                env={**os.environ, "PYTHONPATH": path, "PSMQ_URL": url, **environment},
            )

    @property
    def alive(self) -> bool:
        """Whether its supervisor runs."""
        return self.process.poll() is None

    @property
    def serving(self) -> bool:
        """Whether it has said that it serves."""
        return "stop  " in self.log.read_text()

    def children(self) -> list[int]:
        """Pids of its child processes."""
        supervisor = self.process.pid
        listed = Path(f"/proc/{supervisor}/task/{supervisor}/children")
        if listed.exists():
            return [int(word) for word in listed.read_text().split()]
        found = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)
        pairs = (line.split() for line in found.stdout.splitlines())
        return [int(pid) for pid, parent in pairs if int(parent) == supervisor]

    def kill_a_child(self, dice: Random) -> bool:
        """SIGKILL to one of its children. → whether there was one"""
        pids = self.children()
        if not pids:
            return False
        self._kill(dice.choice(pids))
        return True

    def kill(self) -> None:
        """SIGKILL to its supervisor; the children end with it."""
        for pid in self.children():
            self.history.note("kill", pid)
        self.process.kill()
        self.process.wait()

    def signal_all(self, number: signal.Signals) -> None:
        """SIGSTOP or SIGCONT to the supervisor and its children."""
        family = [self.process.pid, *self.children()]
        for pid in family if number == signal.SIGSTOP else reversed(family):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def end(self, timeout: float = 40.0) -> int:
        """TERM, and wait. → exit code"""
        if self.alive:
            self.process.terminate()
        return self.process.wait(timeout)

    def _kill(self, pid: int) -> None:
        self.history.note("kill", pid)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
