"""``psmq torture``: jobs on a real server, workers that are killed, stopped and replaced, and a verdict.

Safe beside other work: it has a queue, workers and a secret of its own, harms none but these workers, and takes
everything away at the end.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import shutil
import signal
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from psmq.errors import PsmqError
from psmq_tasks.torture.checker import Verdict, check, places
from psmq_tasks.torture.history import History
from psmq_tasks.torture.jobs import make_app
from psmq_tasks.torture.workers import TorturedWorker

if TYPE_CHECKING:
    from collections.abc import Callable

    from psmq import QueueManager

__all__ = ["Ordeal", "Outcome"]

#: seconds; short, so that what died with a whole worker is back soon
_LEASE: Final = 2.0
#: jobs a second, seconds that each takes, and how many travel in one push
_RATE, _JOB_SECONDS, _BATCH = 100, 0.02, 5
_WORKERS: Final = 2
#: seconds for all that is left when the last fault is over
_REST: Final = 90.0
#: between two looks
_TICK: Final = 0.1


@dataclass(frozen=True)
class Outcome:
    """What came of it. ``faults``: what was done to the workers, how often."""

    verdict: Verdict
    faults: dict[str, int]
    seed: int

    @property
    def holds(self) -> bool:
        """Nothing lost, copied or made up, and everything done."""
        return self.verdict.holds and not self.verdict.queued and not self.verdict.dead


@dataclass
class Ordeal:
    """One run on the server of ``manager``, which ``url`` names for the workers. Use with ``with``."""

    manager: QueueManager
    url: str
    seconds: float
    seed: int = 0
    workers: list[TorturedWorker] = field(default_factory=list)
    faults: dict[str, int] = field(default_factory=dict)
    _number: int = 0

    def __enter__(self) -> Self:
        self.seed = self.seed or random.SystemRandom().randrange(1, 10**6)
        self._dice = random.Random(self.seed)
        self._folder = Path(tempfile.mkdtemp(prefix="psmq-torture-"))
        self._history = History(self._folder / "history")
        self._secret = secrets.token_hex(32)
        self._app = make_app(url=self.url, namespace=self.manager.namespace, secret=self._secret)
        name = f"torture-{os.getpid()}-{secrets.token_hex(4)}"
        self._queue = self.manager.get_queue(name, visibility_timeout=_LEASE, max_retrievals=1000)
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            if worker.alive:
                worker.signal_all(signal.SIGCONT)
                worker.process.kill()
            worker.process.wait()
        with contextlib.suppress(PsmqError):
            self.manager.delete_queue(self._queue.name)
        self._app.close()
        self._history.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(self, on_progress: Callable[[float], None]) -> Outcome:
        """Torture for so long, let the workers finish, judge. ``on_progress``: the seconds since the start."""
        self._keep_workers()
        while not any(worker.serving for worker in self.workers):
            time.sleep(_TICK)
            self._keep_workers()
        began = time.monotonic()
        feeding = threading.Thread(target=self._feed, args=(began + self.seconds,), daemon=True)
        feeding.start()
        while time.monotonic() - began < self.seconds:
            self._harm()
            on_progress(time.monotonic() - began)
        feeding.join()
        self._keep_workers()
        rest = time.monotonic() + _REST
        while self._left() and time.monotonic() < rest:
            time.sleep(_TICK)
            self._keep_workers()
        for worker in self.workers:
            worker.end()
        verdict = check(self._history.read(), places(self._queue), self._queue.info().counters)
        return Outcome(verdict, self.faults, self.seed)

    # --- the work

    def _feed(self, ends: float) -> None:
        task: Any = self._app.find("job")
        sent = task.using(queue=self._queue.name)
        while time.monotonic() < ends:
            keys = [f"job-{self._number + at}" for at in range(_BATCH)]
            self._number += _BATCH
            self._history.note_all("try", [(key, "") for key in keys])
            with contextlib.suppress(PsmqError):
                calls = [sent.call(str(self._history.path), key, _JOB_SECONDS) for key in keys]
                handles = self._app.send(calls)
                self._history.note_all("push", [(key, one.id) for key, one in zip(keys, handles, strict=True)])
            time.sleep(_BATCH / _RATE)

    def _left(self) -> int:
        info = self._queue.info()
        return info.ready + info.delayed + info.leased

    def _keep_workers(self) -> None:
        living = [worker for worker in self.workers if worker.alive]
        for _ in range(_WORKERS - len(living)):
            log = self._folder / f"worker{len(self.workers)}.log"
            environment = {"PSMQ_SECRET": self._secret, "PSMQ_NAMESPACE": self.manager.namespace}
            options = ("-p", 2, "-t", 4)
            worker = TorturedWorker(self.url, self._queue.name, self._history, log, *options, environment=environment)
            self.workers.append(worker)

    # --- the harm

    def _harm(self) -> None:
        harms = (self._kill_child, self._kill_child, self._kill_worker, self._stop_worker, self._end_worker)
        self._dice.choice(harms)()
        self._keep_workers()
        time.sleep(self._dice.uniform(0.2, 0.8))

    def _count(self, what: str) -> None:
        self.faults[what] = self.faults.get(what, 0) + 1

    def _any(self) -> TorturedWorker:
        return self._dice.choice([worker for worker in self.workers if worker.alive] or self.workers)

    def _kill_child(self) -> None:
        if self._any().kill_a_child(self._dice):
            self._count("processes killed")

    def _kill_worker(self) -> None:
        self._any().kill()
        self._count("workers killed")

    def _stop_worker(self) -> None:
        worker = self._any()
        worker.signal_all(signal.SIGSTOP)
        time.sleep(_LEASE * 1.3)
        worker.signal_all(signal.SIGCONT)
        self._count("workers stopped for longer than their leases")

    def _end_worker(self) -> None:
        self._any().process.terminate()
        self._count("workers replaced")
