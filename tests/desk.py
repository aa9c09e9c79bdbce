"""A newcomer's desk: an empty home, an empty folder, the commands on the path, and terminals that are read closely."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
from typing import TYPE_CHECKING

from support import ROOT, processes, wait_until

from psmq import server

if TYPE_CHECKING:
    from pathlib import Path

#: anything in a line; alone in a line, any lines
ANYTHING = "…"
EXAMPLES = ROOT / "examples"


def matches(expected: str, shown: str) -> bool:
    """Whether this was shown, `…` standing for anything. What stands at the end of lines does not matter."""
    words = []
    for line in expected.strip("\n").splitlines():
        if line.strip() == ANYTHING:
            words.append(r"(?:.*\n)*?")
        else:
            words.append(".*".join(map(re.escape, line.rstrip().split(ANYTHING))) + r"[ ]*\n")
    shown = "".join(f"{line.rstrip()}\n" for line in shown.splitlines())
    return re.fullmatch("".join(words), shown) is not None


def transcript(text: str) -> list[tuple[str, str]]:
    """Commands, on lines that begin with `$ `, and what they show."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:].partition("  #")[0].strip(), []))
        elif found:
            found[-1][1].append(line)
    return [(command, "\n".join(lines).strip("\n")) for command, lines in found]


class Desk:
    """Where a newcomer tries things."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.folder = home / "try"
        self.folder.mkdir()
        for name in ("run", "tmp"):
            (home / name).mkdir(mode=0o700)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PSMQ_", "XDG_", "COLUMNS"))}
        self.environment = {
            **kept,
            "PATH": f"{sysconfig.get_path('scripts')}{os.pathsep}{kept['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "error",
            "HOME": str(home),
            "XDG_RUNTIME_DIR": str(home / "run"),
            "TMPDIR": str(home / "tmp"),
            "PSMQ_SERVER_LINGER": "5",
        }
        self.workers: list[tuple[subprocess.Popen[str], Path]] = []

    def take(self, *names: str) -> None:
        """Copy examples here."""
        for name in names:
            shutil.copy(EXAMPLES / name, self.folder)

    def run(self, command: str, *, code: int = 0, timeout: float = 60) -> str:
        """What a command shows; it must end well, or with this code."""
        command = re.sub(r"^python ", f"{shlex.quote(sys.executable)} ", command)
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == code, done.stdout + self.said()
        return done.stdout

    def start(self, command: str) -> None:
        """Run a worker in another terminal; returns when it is ready."""
        where = re.match(r"cd (\S+) && ", command)
        log = self.home / f"worker{len(self.workers)}.log"
        with log.open("w") as out:
            process = subprocess.Popen(
                shlex.split(command[where.end() if where else 0 :]),
                cwd=where[1] if where else self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                text=True,
            )
        self.workers.append((process, log))
        wait_until(lambda: "Ctrl+C" in log.read_text() or process.poll() is not None, 20)
        assert process.poll() is None, log.read_text()

    def said(self) -> str:
        """What the workers wrote."""
        return "".join(f"\n--- {log.name}\n{log.read_text()}" for _, log in self.workers)

    def stop_workers(self) -> None:
        """As Ctrl-C would; each must end well."""
        while self.workers:
            process, log = self.workers.pop()
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0, log.read_text()

    def act(self, commands: list[tuple[str, str]]) -> None:
        """Type the commands one by one, and compare what is shown."""
        for command, expected in commands:
            if "psmq-worker" in command:
                self.start(command)
                wanted, shown = expected, self.workers[-1][1].read_text()
                assert not wanted or matches(wanted, shown), f"$ {command}\n{shown}\nis not\n{wanted}"
            else:
                shown = self.run(command)
                assert matches(expected, shown), f"$ {command}\n{shown}\nis not\n{expected}\n{self.said()}"

    def clear(self) -> None:
        """No worker, no server, no process."""
        for process, _ in self.workers:
            process.kill()
            process.wait()
        for record in self.home.rglob("server.json"):
            server.stop(record.parent)
        wait_until(lambda: not processes(str(self.home)), 20)
