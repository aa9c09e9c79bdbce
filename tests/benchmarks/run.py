"""psmq and its peers on the same server and the same no-op job, in one run: a table, and ratios.

\b
    python tests/benchmarks/run.py                      # psmq, the bare loop, dramatiq, huey, taskiq
    python tests/benchmarks/run.py psmq psmq_results    # and with results kept, which the others do not
    python tests/benchmarks/run.py all --rounds 5 --json
    python tests/benchmarks/run.py psmq huey --jobs 20000 --plot benchmarks.png

Peers come from PyPI into an environment of their own (made on first use, kept for the next); they are never
dependencies of psmq. The job appends one fixed-width record to a file; jobs/s is from the first record to the last.
"""

from __future__ import annotations

import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click
from harness import HERE, SYSTEMS, cpu, family, memory, server

sys.path.insert(0, str(SYSTEMS))
from common import RECORD  # noqa: E402  # the jobs write it

if TYPE_CHECKING:
    import redis

#: system → what pip installs for it
PEERS = {
    "dramatiq": ["dramatiq[redis]"],
    "huey": ["huey", "redis"],
    "taskiq": ["taskiq", "taskiq-redis"],
    "rq": ["rq"],
    "celery": ["celery[redis]"],
    "saq": ["saq[hiredis]"],
    "arq": ["arq"],
    "streaq": ["streaq"],
}
OURS = ["psmq", "psmq_results", "loop"]
DEFAULT = ["psmq", "loop", "dramatiq", "huey", "taskiq"]
#: times as many jobs where they can be pushed in bulk: a system that does 50,000 a second has to run for seconds, too
BULK = 20
ENVIRONMENT = Path(os.environ.get("PSMQ_BENCH_ENV", Path.home() / ".cache" / "psmq-benchmarks"))


@dataclass
class Figures:
    """What one system did; a list has an item for each round."""

    jobs: list[float] = field(default_factory=list)
    single: list[float] = field(default_factory=list)
    bulk: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    commands: list[float] = field(default_factory=list)
    client_us: list[float] = field(default_factory=list)
    server_us: list[float] = field(default_factory=list)
    idle_trips: list[float] = field(default_factory=list)
    idle_cpu: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    queued: list[float] = field(default_factory=list)
    problem: str = ""

    def median(self, name: str) -> float:
        values = [value for value in getattr(self, name) if not math.isnan(value)]
        return statistics.median(values) if values else math.nan


COLUMNS = {
    "jobs": "jobs/s",
    "single": "push/s",
    "bulk": "bulk/s",
    "p50": "p50 ms",
    "p99": "p99 ms",
    "commands": "cmds/job",
    "client_us": "µs/job",
    "server_us": "srv µs",
    "idle_trips": "idle t/s",
    "idle_cpu": "idle %",
    "memory": "MiB/proc",
    "queued": "B/job",
}


def environment(systems: list[str]) -> tuple[Path, dict[str, str]]:
    """The peers' Python, and the systems that could not be installed with the reason."""
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        click.echo(f"making the peers' environment in {ENVIRONMENT} …", err=True)
        venv.create(ENVIRONMENT, with_pip=True)
    failed = {}
    for system in systems:
        mark = ENVIRONMENT / f".{system}"
        if system in PEERS and not mark.exists():
            command = [python, "-m", "pip", "install", "-q", "hiredis", *PEERS[system]]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                failed[system] = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
            else:
                mark.touch()
    return python, failed


class Bench:
    """One system in one round."""

    def __init__(self, system: str, python: Path, url: str, client: redis.Redis, server_pid: int, folder: Path) -> None:
        self.system = system
        self.python = Path(sys.executable) if system in OURS else python
        self.client = client
        self.server_pid = server_pid
        self.file = folder / f"{system}.records"
        self.log = folder / f"{system}.log"
        self.env = {
            **os.environ,
            "BENCH_URL": url,
            "BENCH_FILE": str(self.file),
            "PATH": f"{self.python.parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(SYSTEMS) + (f":{HERE.parent.parent}" if system in OURS else ""),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def send(self, mode: str, count: int, *more: object) -> float:
        """→ what the sender measured per second; nan where the system has no such way."""
        words = [self.python, "-c", f"import {self.system}_ as system; system.send()", mode, count, *more]
        done = subprocess.run(
            list(map(str, words)), cwd=SYSTEMS, env=self.env, capture_output=True, text=True, timeout=600, check=False
        )
        if done.returncode:
            raise RuntimeError(f"sender: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
        last = done.stdout.strip().splitlines()[-1]
        return math.nan if last == "none" else float(last)

    @contextmanager
    def workers(self):
        """Two processes' worth of workers, started and stopped."""
        code = f"import json, {self.system}_ as system; print(json.dumps(system.WORKERS))"
        commands = json.loads(
            subprocess.run(
                [self.python, "-c", code], cwd=SYSTEMS, env=self.env, capture_output=True, text=True, check=True
            ).stdout
        )
        with self.log.open("a") as log:
            running = [
                subprocess.Popen(
                    command, cwd=SYSTEMS, env=self.env, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
                for command in commands
            ]  # fmt: skip
        try:
            yield [worker.pid for worker in running]
        finally:
            for worker in running:
                worker.send_signal(signal.SIGTERM)
            for worker in running:
                try:
                    worker.wait(8)
                except subprocess.TimeoutExpired:
                    pass
                with suppress(ProcessLookupError):
                    os.killpg(worker.pid, signal.SIGKILL)
                worker.wait()

    def records(self) -> list[tuple[float, float]]:
        data = self.file.read_bytes() if self.file.exists() else b""
        return [pair for pair in RECORD.iter_unpack(data[: len(data) // RECORD.size * RECORD.size]) if pair[0] >= 0]

    def wait_for(self, count: int, timeout: float = 180.0) -> None:
        size, deadline = count * RECORD.size, time.monotonic() + timeout
        while not self.file.exists() or self.file.stat().st_size < size:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{len(self.records())} of {count} jobs ran in {timeout:g} s")
            time.sleep(0.05)

    def round(self, figures: Figures, jobs: int) -> None:
        """Push, drain, be idle, be woken."""
        self.client.flushall()
        self.file.unlink(missing_ok=True)
        empty = self.client.info("memory")["used_memory"]
        figures.single.append(self.send("single", jobs // 2))
        figures.bulk.append(self.send("bulk", jobs * BULK))
        left = jobs // 2 + (0 if math.isnan(figures.bulk[-1]) else jobs * BULK)
        if math.isnan(figures.bulk[-1]):
            self.send("single", jobs // 2)
            left += jobs // 2
        figures.queued.append((self.client.info("memory")["used_memory"] - empty) / left)
        commands = self._commands()
        server_cpu = cpu([self.server_pid])
        with self.workers() as pids:
            self.wait_for(left)
            everybody = family(pids)
            client_cpu, server_cpu = cpu(everybody), cpu([self.server_pid]) - server_cpu
            ran = sorted(at for _, at in self.records())
            figures.jobs.append((len(ran) - 1) / (ran[-1] - ran[0]))
            figures.commands.append((self._commands() - commands) / left)
            figures.client_us.append(client_cpu / left * 1e6)
            figures.server_us.append(server_cpu / left * 1e6)
            time.sleep(2.0)  # housekeeping of the systems
            before, used, began = self._trips(), cpu(everybody), time.monotonic()
            time.sleep(4.0)
            seconds = time.monotonic() - began
            # INFO is a request too, and ours.
            figures.idle_trips.append(max(0.0, self._trips() - before - 1) / seconds)
            figures.idle_cpu.append((cpu(everybody) - used) / seconds * 100)
            figures.memory.append(statistics.median(filter(None, map(memory, everybody))) if everybody else math.nan)
            done = len(self.records())
            self.send("pace", 100, 0.03)
            with suppress(RuntimeError):
                self.wait_for(done + 100, 15)
            late = sorted((ran_at - sent) * 1000 for sent, ran_at in self.records()[done:])
            if late:
                figures.p50.append(late[len(late) // 2])
                figures.p99.append(late[min(len(late) - 1, int(len(late) * 0.99))])

    def _commands(self) -> int:
        """Commands of the server's own, those inside scripts and functions too."""
        return int(self.client.info("stats")["total_commands_processed"])

    def _trips(self) -> int:
        """Requests that came over the network."""
        return int(self.client.info("stats")["total_reads_processed"])


def table(results: dict[str, Figures]) -> str:
    """One row for each system, medians of the rounds, the spread of jobs/s behind ±."""
    rows = [["", *COLUMNS.values()]]
    for system, figures in results.items():
        if figures.problem:
            rows.append([system, f"skipped: {figures.problem}"])
            continue
        cells = [system]
        for name in COLUMNS:
            value = figures.median(name)
            cells.append("–" if math.isnan(value) else f"{value:,.0f}" if value >= 100 else f"{value:.2f}")
        spread = (max(figures.jobs) - min(figures.jobs)) / 2 / figures.median("jobs") * 100
        cells[1] += f" ±{spread:.0f}%"
        rows.append(cells)
    widths = [max(len(row[i]) for row in rows if len(row) > i and len(row) > 2) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        if len(row) == 2:
            lines.append(f"{row[0]:<{widths[0]}}  {row[1]}")
        else:
            first, *others = zip(row, widths, strict=True)
            lines.append(f"{first[0]:<{first[1]}}  " + "  ".join(f"{cell:>{width}}" for cell, width in others))
    return "\n".join(lines)


def ratios(results: dict[str, Figures]) -> list[str]:
    """The sentences that the targets are about."""
    if "psmq" not in results or results["psmq"].problem:
        return []
    ours, said = results["psmq"], []

    def say(what: str, name: str, other: str, *, lower: bool = False) -> None:
        theirs = results.get(other)
        if theirs and not theirs.problem and theirs.median(name) > 0 and ours.median(name) > 0:
            ratio = ours.median(name) / theirs.median(name)
            said.append(f"{what}: {ratio:.2f} × {other}" + (" (lower is better)" if lower else ""))

    for other in results:
        if other != "psmq":
            say("jobs/s", "jobs", other)
    say("push/s", "single", "huey")
    say("latency p50", "p50", "huey", lower=True)
    said.append(f"bulk push: {ours.median('bulk') / ours.median('single'):.1f} × single push")
    return said


@click.command(help=__doc__)
@click.argument("systems", nargs=-1)
@click.option("--rounds", default=3, show_default=True, help="Each system is measured once in each.")
@click.option(
    "--jobs", default=5000, show_default=True, help="Jobs a round; what is pushed in bulk is twenty times that."
)
@click.option("--json", "as_json", is_flag=True, help="All figures of all rounds.")
@click.option("--plot", type=click.Path(dir_okay=False), help="Write a PNG (needs matplotlib).")
def main(systems: tuple[str, ...], rounds: int, jobs: int, as_json: bool, plot: str | None) -> None:
    known = [*OURS, *PEERS]
    wanted = known if systems == ("all",) else list(systems) or DEFAULT
    for system in wanted:
        if system not in known:
            raise click.BadParameter(f"{system!r} is unknown: there are {', '.join(known)}")
    results = {system: Figures() for system in wanted}
    python, failed = environment(wanted)
    for system, reason in failed.items():
        results[system].problem = reason
    partial = False
    try:
        with tempfile.TemporaryDirectory(prefix="psmq-bench-") as name:
            folder = Path(name)
            for number in range(rounds):
                for system, figures in results.items():
                    if figures.problem:
                        continue
                    click.echo(f"round {number + 1} of {rounds}: {system}", err=True)
                    with server(folder) as (url, client, pid):
                        try:
                            Bench(system, python, url, client, pid, folder).round(figures, jobs)
                        except (RuntimeError, subprocess.SubprocessError) as error:
                            figures.problem = str(error)
                            log = folder / f"{system}.log"
                            if log.exists():
                                click.echo(log.read_text()[-1500:], err=True)
    except KeyboardInterrupt:
        partial = True
        click.echo("stopped: the figures below are of the rounds that were finished", err=True)
        results = {system: figures for system, figures in results.items() if figures.p99 or figures.problem}
    if as_json:
        click.echo(json.dumps({system: vars(figures) for system, figures in results.items()}, indent=1))
    else:
        click.echo(table(results))
        for sentence in ratios(results):
            click.echo(f"  {sentence}")
    if plot:
        from plots import draw

        draw({name: found for name, found in results.items() if not found.problem}, plot)
    sys.exit(1 if partial else 0)


if __name__ == "__main__":
    main()
