"""psmq alone: what its speed depends on, one series at a time.

\b
    python tests/benchmarks/alone.py                       # every series, some ten minutes
    python tests/benchmarks/alone.py workers backlog --json
    python tests/benchmarks/alone.py decay --jobs 1000000

Each line is one run of real workers on a server of its own. Jobs/s is from the first record to the last.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import click
from harness import SYSTEMS, cpu, family, memory, server

sys.path.insert(0, str(SYSTEMS))
from common import RECORD  # noqa: E402

from psmq import NewMessage, QueueManager  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent.parent


class Run:
    """Workers on a server, and the records that their jobs leave."""

    def __init__(self, folder: Path, url: str, client, server_pid: int, queues: int = 1) -> None:
        self.url, self.client, self.server_pid = url, client, server_pid
        self.file = folder / f"records-{time.monotonic_ns()}"
        self.file.touch()
        self.folder = folder
        self.environment = {
            **os.environ,
            "BENCH_URL": url,
            "BENCH_FILE": str(self.file),
            "BENCH_QUEUES": str(queues),
            "PYTHONPATH": f"{SYSTEMS}:{ROOT}",
        }
        os.environ |= {name: self.environment[name] for name in ("BENCH_URL", "BENCH_FILE", "BENCH_QUEUES")}
        sys.modules.pop("alone_", None)
        import common

        common.URL = url
        import alone_

        self.tasks = alone_

    @contextmanager
    def workers(self, *options: object):
        code = "from psmq_tasks.cli import worker; worker()"
        words = [sys.executable, "-c", code, "alone_", "-p", 2, "--log-level", "error", *options]
        with (self.folder / "worker.log").open("a") as log:
            process = subprocess.Popen(
                list(map(str, words)), cwd=SYSTEMS, env=self.environment, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        try:
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def records(self) -> list[tuple[float, float]]:
        data = self.file.read_bytes()
        return list(RECORD.iter_unpack(data[: len(data) // RECORD.size * RECORD.size]))

    def wait_for(self, count: int, timeout: float = 600.0) -> None:
        deadline = time.monotonic() + timeout
        while self.file.stat().st_size < count * RECORD.size:
            if time.monotonic() > deadline:
                raise click.ClickException(f"{len(self.records())} of {count} jobs ran in {timeout:g} s")
            time.sleep(0.02)

    def rate(self, count: int, *options: object) -> dict[str, float]:
        """Drain what was sent. → jobs/s, and µs of worker and server for each job"""
        began = cpu([self.server_pid])
        with self.workers(*options) as pid:
            self.wait_for(count)
            worker_cpu, server_cpu = cpu(family([pid])), cpu([self.server_pid]) - began
        ran = sorted(at for _, at in self.records())
        return {
            "jobs/s": round((count - 1) / (ran[-1] - ran[0])),
            "worker µs": round(worker_cpu / count * 1e6, 1),
            "server µs": round(server_cpu / count * 1e6, 1),
        }


@contextmanager
def fresh(folder: Path, *, unix: bool = False, queues: int = 1):
    with server(folder, unix=unix) as (url, client, pid):
        yield Run(folder, url, client, pid, queues)


def percentile(values: list[float], share: float) -> float:
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))]


# --- the series: each yields (label, {figure: value})


def exchange(folder, jobs):
    """Batches of 1 … 64 by hand: exchange and delete, no tasks."""
    for size in (1, 4, 16, 64):
        with fresh(folder) as run, QueueManager(url=run.url) as manager:
            queue, consumer = manager.get_queue("plain"), manager.consumer()
            from psmq import Delete

            count = jobs if size > 4 else jobs // 5
            queue.push_many(b"x" * 100 for _ in range(count))
            began, done, held = time.perf_counter(), 0, []
            while True:
                found = consumer.exchange(queue, held, size).messages
                if not found:
                    break
                held = [(one.message_id, one.receipt, Delete()) for one in found]
                done += len(found)
            yield f"batches of {size}", {"messages/s": round(done / (time.perf_counter() - began))}


def workers(folder, jobs):
    """Processes and threads."""
    for processes in (1, 2, 4):
        for threads in (1, 4, 8):
            with fresh(folder) as run:
                run.tasks.job.delay_many(run.tasks.job.call(0.0) for _ in range(jobs))
                yield f"{processes} x {threads}", run.rate(jobs, "-p", processes, "-t", threads)


def kinds(folder, jobs):
    """What a task is: result kept or not, by reference or by value, sync or async."""
    for label, name in (("plain", "job"), ("result kept", "kept"), ("async", "ajob")):
        with fresh(folder) as run:
            task = getattr(run.tasks, name)
            task.delay_many(task.call(0.0) for _ in range(jobs))
            yield label, run.rate(jobs)
    with fresh(folder) as run:
        from common import record

        task = run.tasks.app.task(name="by:value")(lambda sent: record(sent))
        few = jobs // 4
        task.delay_many(task.call(0.0) for _ in range(few))
        yield "by value", run.rate(few)


def sizes(folder, jobs):
    """Bytes of arguments."""
    for size in (100, 1_000, 10_000, 100_000, 1_000_000):
        few = max(100, min(jobs, 200_000_000 // size))
        with fresh(folder) as run:
            data = os.urandom(size)
            with QueueManager(url=run.url) as manager:
                manager.get_queue("alone", max_size=size + 10_000)
            for _ in range(0, few, 100):
                run.tasks.job.delay_many([run.tasks.job.call(0.0, data) for _ in range(100)])
            yield f"{size:,} bytes", run.rate(few // 100 * 100)


def backlog(folder, jobs):
    """Messages that wait while 20,000 are worked off."""
    for waiting in (10_000, 100_000, 1_000_000):
        with fresh(folder) as run:
            empty = run.client.info("memory")["used_memory"]
            run.tasks.job.delay_many(run.tasks.job.call(0.0) for _ in range(waiting))
            each = (run.client.info("memory")["used_memory"] - empty) / waiting
            body = len(run.client.hrandfield("psmq:{alone}:messages", 1, withvalues=True)[1])  # with its metadata
            with run.workers():
                run.wait_for(min(waiting, 3_000) // 2)
                began, done = time.monotonic(), len(run.records())
                run.wait_for(min(waiting - 1_000, 60_000))
                took, more = time.monotonic() - began, len(run.records()) - done
            figures = {"jobs/s": round(more / took), "bytes each": round(each), "beyond body": round(each - body)}
            yield f"{waiting:,} waiting", figures


def places(folder, jobs):
    """A unix socket, as of the embedded server, and TCP."""
    for label, unix in (("unix", True), ("tcp", False)):
        with fresh(folder, unix=unix) as run:
            job = run.tasks.job
            few = jobs // 4
            began = time.perf_counter()
            for _ in range(few):
                job.delay(0.0)
            single = few / (time.perf_counter() - began)
            job.delay_many(job.call(0.0) for _ in range(jobs))
            yield label, {"push/s": round(single), **run.rate(jobs + few)}


def queues(folder, jobs):
    """How many queues one worker serves."""
    for count in (1, 8, 64):
        with fresh(folder, queues=count) as run:
            each = jobs // count
            for task in run.tasks.spread:
                task.delay_many(task.call(0.0) for _ in range(each))
            yield f"{count} queues", run.rate(each * count)


def threads(folder, jobs):
    """Threads that push one by one."""
    import threading

    first = 0.0
    for count in (1, 4, 16, 64):
        with fresh(folder) as run:
            job = run.tasks.job
            each = jobs // 2 // count
            job.delay(0.0)
            ready = threading.Barrier(count + 1)

            def push(ready=ready, job=job, each=each):
                ready.wait()
                for _ in range(each):
                    job.delay(0.0)

            running = [threading.Thread(target=push) for _ in range(count)]
            for one in running:
                one.start()
            ready.wait()
            began = time.perf_counter()
            for one in running:
                one.join()
            rate = each * count / (time.perf_counter() - began)
            first = first or rate
            yield f"{count} threads", {"push/s": round(rate), "ratio": round(rate / first, 2)}


def waiting(folder, jobs):
    """Tasks that wait: the share of what so many slots could do."""
    for label, name, seconds, count, slots, options in (
        ("1 ms on 2 x 8 threads", "nap", 0.001, 40_000, 16, ()),
        ("10 ms on 2 x 8 threads", "nap", 0.01, 4_000, 16, ()),
        ("10 ms async, concurrency 500", "anap", 0.01, 60_000, 1000, ("--async-concurrency", 500)),
    ):
        with fresh(folder) as run:
            task = getattr(run.tasks, name)
            task.delay_many(task.call(0.0, seconds) for _ in range(count))
            figures = run.rate(count, *options)
            yield label, {**figures, "of ideal": round(figures["jobs/s"] / (slots / seconds), 3)}


def fairness(folder, jobs):
    """Short tasks among long ones, on 2 x 4 threads: how long a short one waits for its start."""
    with fresh(folder) as run, run.workers("-t", 4):
        tasks = run.tasks
        tasks.nap.delay(-1.0, 0.0)
        run.wait_for(1)
        for _ in range(4):
            tasks.long_nap.delay(5.0)
        ends = time.monotonic() + 8
        sent = 1
        while time.monotonic() < ends:
            tasks.nap.delay(time.monotonic(), 0.001)
            sent += 1
            time.sleep(0.003)
        run.wait_for(sent)
        late = [(ran - at) * 1000 for at, ran in run.records() if at > 0]
        yield "1 ms beside four of 5 s", {"p50 ms": percentile(late, 0.5), "p99 ms": percentile(late, 0.99)}
    with fresh(folder) as run:
        tasks = run.tasks
        tasks.nap.delay_many(tasks.nap.call(-1.0, 0.0005) for _ in range(100_000))
        with run.workers():
            run.wait_for(1000)
            late = []
            for _ in range(20):
                began = time.monotonic()
                tasks.job.using(priority=10).delay(began)
                while not any(at == began for at, _ in run.records()[-3000:]):
                    if time.monotonic() - began > 10:
                        break
                late += [(ran - at) * 1000 for at, ran in run.records()[-6000:] if at == began]
            yield "urgent before 10⁵ others", {"p50 ms": percentile(late, 0.5), "max ms": max(late)}


def decay(folder, jobs):
    """Many tasks in one worker: does it slow down or grow?"""
    count = max(jobs * 10, 100_000)
    with fresh(folder) as run:
        job = run.tasks.job
        keys = run.client.dbsize()
        with run.workers() as pid:
            sent, early = 0, 0.0
            while sent < count:
                job.delay_many(job.call(0.0) for _ in range(10_000))
                sent += 10_000
                run.wait_for(sent - 20_000)
                if sent == 20_000:
                    run.wait_for(10_000)
                    early = max(map(memory, family([pid])[1:]))
            run.wait_for(sent)
            late = max(map(memory, family([pid])[1:]))
        ran = sorted(at for _, at in run.records())
        tenth = len(ran) // 10
        first, last = ran[tenth] - ran[0], ran[-1] - ran[-tenth - 1]
        yield (
            f"{count:,} tasks",
            {
                "MiB at 10⁴": early,
                "MiB at the end": late,
                "last tenth : first": first / last,
                "keys": f"{keys} → {run.client.dbsize()}",
            },
        )


def delayed(folder, jobs):
    """Messages whose time has not come: what they cost those who work."""
    for count in (0, 1_000_000):
        with fresh(folder) as run, QueueManager(url=run.url) as manager:
            queue = manager.get_queue("alone")
            queue.push_many(NewMessage(b"x" * 50, delay=86_400) for _ in range(count))
            run.tasks.job.delay_many(run.tasks.job.call(0.0) for _ in range(jobs))
            yield f"{count:,} delayed", run.rate(jobs)


def roundtrip(folder, jobs):
    """From delay() to result(), on workers that have nothing else to do."""
    with fresh(folder) as run, run.workers():
        task = run.tasks.kept
        task.delay(0.0).result(20)
        took = []
        for _ in range(200):
            time.sleep(0.02)
            began = time.perf_counter()
            task.delay(0.0).result(20)
            took.append((time.perf_counter() - began) * 1000)
        yield "delay() and result()", {"p50 ms": percentile(took, 0.5), "p99 ms": percentile(took, 0.99)}


def startup(folder, jobs):
    """Processor time until a command has ended, and time until a worker has run its first task."""
    psmq = "from psmq_tasks.cli import psmq; psmq()"
    environment = {**os.environ, "PSMQ_DB_DIR": str(folder / "data"), "PYTHONPATH": str(ROOT)}
    environment["PYTHONPYCACHEPREFIX"] = str(folder / "compiled")  # as where it is installed: compiled once
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with QueueManager(db_dir=folder / "data") as manager:
        manager.get_queue("alone").push(b"x")
        for label, code, words in (
            ("import psmq_tasks", "import psmq_tasks", ()),
            ("psmq --help", psmq, ("--help",)),
            ("psmq queues, embedded server", psmq, ("queues",)),
        ):
            used = []
            for _ in range(5):
                command = [sys.executable, "-c", code, *words]
                running = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, cwd=folder)
                _, _, usage = os.wait4(running.pid, 0)
                running.returncode = 0
                used.append(usage.ru_utime + usage.ru_stime)
            yield label, {"CPU s": round(sorted(used)[2], 3)}
    took = []
    for _ in range(5):
        with fresh(folder) as run:
            run.tasks.job.delay(0.0)
            began = time.monotonic()
            with run.workers():
                run.wait_for(1)
            took.append(run.records()[0][1] - began)
    yield "psmq-worker, its first task", {"s": round(sorted(took)[2], 2)}


SERIES = {
    one.__name__: one
    for one in (
        exchange, workers, kinds, sizes, backlog, places, queues, threads, waiting, fairness, delayed, decay,
        roundtrip, startup,
    )
}  # fmt: skip


def shown(value: object) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


@click.command(help=__doc__)
@click.argument("series", nargs=-1)
@click.option("--jobs", default=20_000, show_default=True, help="Jobs of one run; some series take a part or more.")
@click.option("--json", "as_json", is_flag=True)
@click.option("--plot", type=click.Path(dir_okay=False), help="PNG of throughput against backlog (needs matplotlib).")
def main(series: tuple[str, ...], jobs: int, as_json: bool, plot: str | None) -> None:
    for name in series:
        if name not in SERIES:
            raise click.BadParameter(f"{name!r} is unknown: there are {', '.join(SERIES)}")
    found: dict[str, dict[str, dict[str, object]]] = {}
    partial = False
    try:
        for name in series or SERIES:
            found[name] = {}
            if not as_json:
                click.echo(f"\n{name}: {SERIES[name].__doc__}")
            with tempfile.TemporaryDirectory(prefix="psmq-alone-") as folder:
                for label, figures in SERIES[name](Path(folder), jobs):
                    found[name][label] = figures
                    if not as_json:
                        click.echo(f"  {label:<32}" + "  ".join(f"{shown(v):>12} {k}" for k, v in figures.items()))
    except KeyboardInterrupt:
        partial = True
        click.echo(f"stopped: {name} is partial, and what came after it is missing", err=True)
    if as_json:
        click.echo(json.dumps(found, indent=1, ensure_ascii=False))
    if plot and "backlog" in found:
        draw_backlog(found["backlog"], plot)
    sys.exit(1 if partial else 0)


def draw_backlog(figures: dict[str, dict[str, object]], path: str) -> None:
    from plots import pyplot

    plt = pyplot()
    figure, axes = plt.subplots(figsize=(6, 4))
    waiting = [int(label.split()[0].replace(",", "")) for label in figures]
    axes.plot(waiting, [row["jobs/s"] for row in figures.values()], marker="o")
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("messages waiting")
    axes.set_ylabel("no-op jobs per second")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
