"""Real workers in processes of their own, on a server of their own, with tasks that write down what they do."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import ROOT, wait_until

from psmq import QueueManager

if TYPE_CHECKING:
    from collections.abc import Iterator

PRELUDE = """
import asyncio, ctypes, os, signal, sys, time
from tenacity import *
from psmq_tasks import Reject, Retry, SoftTimeLimitExceeded, TaskApp, current_message
app = TaskApp({name!r}, url={url!r}, secret={secret!r})

def note(*words):
    # One write each: lines of many processes do not mix, and what was written survives a kill.
    fd = os.open({log!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, (" ".join(map(str, words)) + "\\n").encode())
    os.close(fd)
"""

RUN = "import sys; from psmq_tasks.cli import worker; sys.exit(worker())"


class Stage:
    """A module with tasks, its queue, workers for it, and the log that the tasks write."""

    def __init__(self, folder: Path, manager: QueueManager, name: str) -> None:
        self.folder = folder
        self.manager = manager
        self.name = name
        self.log = folder / "log"
        self.module = f"tasks_{name}"
        self.secret = "k" * 64
        self.workers: list[subprocess.Popen[str]] = []
        self._app: Any = None

    def tasks(self, source: str, **config: Any) -> Any:
        """Write the module, make its queue with this config, and import it here."""
        self.queue = self.manager.get_queue(self.name, **config)
        url = self.manager.settings()["url"]
        prelude = PRELUDE.format(name=self.name, url=url, secret=self.secret, log=str(self.log))
        (self.folder / f"{self.module}.py").write_text(prelude + textwrap.dedent(source))
        sys.path.insert(0, str(self.folder))
        try:
            module = __import__(self.module)
        finally:
            sys.path.remove(str(self.folder))
        self._app = module.app
        return module

    def worker(
        self, *options: object, app: str | None = None, wait: bool = True, run: str = RUN
    ) -> subprocess.Popen[str]:
        """Start a worker and wait until it serves."""
        out = (self.folder / f"worker{len(self.workers)}.log").open("w+")
        arguments = [app if app is not None else self.module, *map(str, options)]
        worker = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", run, *filter(None, arguments)],
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PSMQ_SECRET": self.secret},
        )
        out.close()
        self.workers.append(worker)
        if wait:
            number = len(self.workers) - 1
            wait_until(lambda: "stop" in self.output(number) or worker.poll() is not None, 20)
        return worker

    def output(self, number: int = -1) -> str:
        """What a worker printed so far."""
        number = number % len(self.workers)
        return (self.folder / f"worker{number}.log").read_text()

    def queue_info(self) -> Any:
        """The queue's counts."""
        return self.manager.queue_info(self.name)

    def lines(self) -> list[str]:
        """What the tasks wrote down."""
        return self.log.read_text().splitlines() if self.log.exists() else []

    def counts(self) -> Counter[str]:
        """How often each line was written."""
        return Counter(self.lines())

    def kill_everything(self) -> None:
        """SIGKILL to each worker, its children with it; what they said is shown where a test failed."""
        for number in range(len(self.workers)):
            print(f"--- worker {number}", self.output(number), sep="\n")
        for worker in self.workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGKILL)
                worker.wait()


@pytest.fixture(scope="session")
def folder_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QueueManager]:
    """A server that other processes can reach: on a socket, without persistence."""
    from psmq.server import find_binary

    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"psmq-test-{os.getpid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    socket = folder / "s.sock"
    words = [str(find_binary()), "--port", "0", "--unixsocket", str(socket), "--save", "", "--hz", "100"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, cwd=folder) as server:
        wait_until(socket.exists)
        with QueueManager(url=f"unix://{socket}") as manager:
            yield manager
        server.kill()
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


@pytest.fixture
def stage(tmp_path: Path, folder_server: QueueManager, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """A stage of its own for each test."""
    name = "q" + os.urandom(6).hex()
    found = Stage(tmp_path, folder_server, name)
    yield found
    found.kill_everything()
    if getattr(found, "_app", None) is not None:
        found._app.close()
    sys.modules.pop(found.module, None)
    if name in folder_server.list_queues():
        folder_server.delete_queue(name)


class Outage(Stage):
    """A stage with a server of its own, which can be frozen, killed and started again with what it had stored."""

    server: subprocess.Popen[bytes] | None = None

    def start_server(self) -> None:
        """On the same socket, with the same data."""
        from psmq.server import find_binary

        socket = self.folder / "s.sock"
        socket.unlink(missing_ok=True)
        words = [str(find_binary()), "--port", "0", "--unixsocket", str(socket), "--save", "", "--hz", "100"]
        self.server = subprocess.Popen([*words, "--appendonly", "yes"], stdout=subprocess.DEVNULL, cwd=self.folder)
        wait_until(socket.exists)

    def freeze_server(self) -> None:
        """It accepts connections and says nothing."""
        assert self.server
        self.server.send_signal(signal.SIGSTOP)

    def kill_server(self) -> None:
        """SIGKILL."""
        if self.server:
            self.server.kill()
            self.server.wait()
            self.server = None


@pytest.fixture
def outage() -> Iterator[Outage]:
    """A stage whose server is the test's to kill."""
    folder = Path(tempfile.mkdtemp(prefix="psmq-out-", dir="/tmp"))  # a socket's path is short
    found = Outage(folder, QueueManager(url=f"unix://{folder}/s.sock"), "q" + os.urandom(6).hex())
    found.start_server()
    yield found
    found.kill_everything()
    if getattr(found, "_app", None) is not None:
        found._app.close()
    sys.modules.pop(found.module, None)
    found.manager.close()
    found.kill_server()
    shutil.rmtree(folder)
