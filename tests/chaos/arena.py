"""A server, workers and a history, and everything that may happen to them. Each arena prints its seed."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support import wait_until

from psmq import QueueManager, server
from psmq.errors import PsmqError
from psmq_tasks.torture import History, Verdict, check, places
from psmq_tasks.torture.jobs import make_app
from psmq_tasks.torture.workers import TorturedWorker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

SECRET = "torture" * 10
TIMEOUT = 2.0


class Arena:
    """``url``: of a server of somebody else's; else one of its own, with an AOF, which can be killed, of this ``binary``,
    with these ``options`` of its command line and ``environment``."""

    def __init__(
        self,
        *,
        seed: int | None = None,
        timeout: float = TIMEOUT,
        url: str | None = None,
        options: Sequence[object] = (),
        binary: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.seed = int(os.environ.get("PSMQ_CHAOS_SEED", 0)) or seed or random.SystemRandom().randrange(1, 10**6)
        print(f"PSMQ_CHAOS_SEED={self.seed}")
        self.dice = random.Random(self.seed)
        self.folder = Path(tempfile.mkdtemp(prefix="psmq-chaos-", dir="/tmp"))  # a socket's path is short
        self.history = History(self.folder / "history")
        self.workers: list[TorturedWorker] = []
        self.socket = self.folder / "s"
        self.server: subprocess.Popen[bytes] | None = None
        self.binary = binary or os.environ.get("PSMQ_TEST_BINARY") or str(server.find_binary())
        self.options = ["--appendonly", "yes", *map(str, options)]
        self.environment = {**os.environ, **(environment or {})}
        self.url = url or f"unix://{self.socket}"
        if url is None:
            self.start_server()
        self.manager = QueueManager(url=self.url, timeout=60)
        self.name = f"chaos-{os.urandom(5).hex()}"
        self.queue = self.manager.get_queue(self.name, visibility_timeout=timeout, max_retrievals=10_000)
        self.app = make_app(url=self.url, secret=SECRET)
        self.number = 0

    # --- the server

    def start_server(self) -> None:
        """On the same socket, with the same data."""
        self.socket.unlink(missing_ok=True)
        words = [
            self.binary,
            "--port",
            "0",
            "--unixsocket",
            str(self.socket),
            "--save",
            "",
            "--hz",
            "100",
        ]
        self.server = subprocess.Popen(
            [*words, *self.options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.folder,
            env=self.environment,
        )
        wait_until(self.socket.exists, 30)

    def kill_server(self) -> None:
        """SIGKILL."""
        assert self.server
        self.server.kill()
        self.server.wait()

    # --- the work

    def push(self, count: int, seconds: float = 0.0, *, task: str = "job", app: Any = None, batch: int = 100) -> None:
        """Send jobs; what the history calls pushed is what returned."""
        app = app or self.app
        sent = app.find(task).using(queue=self.name)
        extra = (seconds,) if task in ("job", "coroutine") else ()
        while count > 0:
            keys = [f"{task}-{self.number + i}" for i in range(min(batch, count))]
            self.number += len(keys)
            count -= len(keys)
            self.history.note_all("try", [(key, "") for key in keys])
            handles = app.send([sent.call(str(self.history.path), key, *extra) for key in keys])
            self.history.note_all("push", [(key, handle.id) for key, handle in zip(keys, handles, strict=True)])

    def worker(
        self, *options: object, wait: bool = True, kill_at: str = "", url: str = "", packages: Path | None = None
    ) -> TorturedWorker:
        """Start one more. ``packages``: where it finds psmq and psmq_tasks, if not here."""
        log = self.folder / f"worker{len(self.workers)}.log"
        environment = {"PSMQ_SECRET": SECRET, **({"PSMQ_KILL_AT": kill_at} if kill_at else {})}
        if packages is not None:
            environment["PYTHONPATH"] = str(packages)
        options = options or ("-p", 2, "-t", 4)
        worker = TorturedWorker(url or self.url, self.name, self.history, log, *options, environment=environment)
        self.workers.append(worker)
        if wait:
            wait_until(lambda: worker.serving or not worker.alive, 30)
        return worker

    def keep_workers(self, *options: object, count: int = 1, wait: bool = True) -> list[TorturedWorker]:
        """Replace those that have ended. → the living"""
        living = [worker for worker in self.workers if worker.alive]
        while len(living) < count:
            living.append(self.worker(*options, wait=wait))
        return living

    def feed(self, seconds: float, rate: float, job_seconds: float, *, task: str = "job") -> threading.Thread:
        """Push from a thread, so many a second."""

        def run() -> None:
            ends = time.monotonic() + seconds
            while time.monotonic() < ends:
                with contextlib.suppress(PsmqError):
                    self.push(max(1, int(rate / 20)), job_seconds, task=task)
                time.sleep(0.05)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    # --- the end

    def left(self) -> int:
        """What is ready, delayed or leased."""
        info = self.queue.info()
        return info.ready + info.delayed + info.leased

    def drain(self, timeout: float = 60.0) -> None:
        """Until nothing is left but dead letters, some worker being alive all the time."""
        try:
            wait_until(lambda: self.left() == 0, timeout)
        except TimeoutError:
            for worker in self.workers[-3:]:
                print(f"--- {worker.log.name}", worker.log.read_text()[-3000:], sep="\n")
            raise

    def verdict(self) -> Verdict:
        """Judge what happened; everything must be at rest."""
        counters = self.queue.info().counters
        found = check(self.history.read(), places(self.queue), counters)
        print(f"seed {self.seed}: {found}")
        return found

    def close(self) -> None:
        """No process and no file stays."""
        for worker in self.workers:
            if worker.alive:
                worker.signal_all(signal.SIGCONT)
                worker.process.kill()
            worker.process.wait()
        self.history.close()
        self.app.close()
        if self.server is not None:
            self.kill_server()
        else:
            self.manager.delete_queue(self.name)
        self.manager.close()
        shutil.rmtree(self.folder)


def every(seconds: float, ends: float, act: Callable[[], object]) -> Iterable[int]:
    """Do it again and again until that time; yields how often it was done so far."""
    times = 0
    while time.monotonic() < ends:
        time.sleep(seconds)
        act()
        times += 1
        yield times
