"""Servers for the topologies (those of a file are shared by its tests), and workers on them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections import Counter

import pytest
from support import ROOT, wait_until
from topology import Fleet

TASKS = """
import os
from psmq_tasks import TaskApp
app = TaskApp({first!r}, url=os.environ.get("PSMQ_URL", {url!r}), secret="k" * 64)

def note(word):
    # One write each: what was written survives a kill.
    fd = os.open({log!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, word.encode() + b"\\n")
    os.close(fd)
"""
RUN = "import sys; from psmq_tasks.cli import worker; sys.exit(worker())"


class Works:
    """A module with one task for each queue, which notes what it was given; its sender and its workers."""

    def __init__(self, folder, url, queues):
        self.folder, self.queues = folder, queues
        self.log = folder / "log"
        self.module = f"topology_tasks_{os.getpid()}_{id(self)}"
        source = TASKS.format(first=queues[0], url=url, log=str(self.log))
        for number, name in enumerate(queues):
            source += textwrap.dedent(
                f"""
                @app.task(queue={name!r})
                def work{number}(word):
                    note(word)
                """
            )
        (folder / f"{self.module}.py").write_text(source)
        sys.path.insert(0, str(folder))
        try:
            self.tasks = __import__(self.module)
        finally:
            sys.path.remove(str(folder))
        self.workers = []

    def send(self, number, word):
        return getattr(self.tasks, f"work{number}").delay(word)

    def start(self, *options, **environment):
        """A worker, when it serves."""
        log = self.folder / f"worker{len(self.workers)}.log"
        with log.open("w") as out:
            worker = subprocess.Popen(
                [sys.executable, "-W", "error", "-c", RUN, self.module, "--processes", "1", *options],
                stdout=out, stderr=out, cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), "PSMQ_SECRET": "k" * 64, **environment},
            )  # fmt: skip
        self.workers.append((worker, log))
        wait_until(lambda: "stop" in log.read_text() or worker.poll() is not None, 20)
        assert worker.poll() is None, log.read_text()

    def done(self):
        return Counter(self.log.read_text().split()) if self.log.exists() else Counter()

    def close(self):
        """Each worker ends well when it is asked to."""
        self.tasks.app.close()
        sys.modules.pop(self.module)
        for worker, _ in self.workers:
            worker.terminate()
        for worker, log in self.workers:
            try:
                assert worker.wait(30) == 0
            finally:
                worker.kill()
                print(f"--- {log.name}", log.read_text(), sep="\n")


@pytest.fixture
def works(tmp_path):
    """Makes modules with tasks: works(url, queues)."""
    made = []

    def make(url, queues):
        made.append(Works(tmp_path, url, queues))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def fleet():
    """Starts servers for one test: fleet.start(**options)."""
    with Fleet() as found:
        yield found
