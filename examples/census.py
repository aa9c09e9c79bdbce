"""A census of Python source code: one task per file, counted by real worker processes, mistakes and all.

    $ python census.py [FOLDER] [--no-worker]

Counts the running Python's standard library (or FOLDER), and three files of its own making that nobody can parse. They
fail for good and become dead letters; then one of them is mended and redriven. The register that takes the totals down
is locked by others at first, so that entry is retried. A server and a worker are started for it, in a temporary folder,
and stopped at the end, also by Ctrl-C. With PSMQ_URL the work goes to that server; with --no-worker to the usual one,
for a worker of yours: psmq-worker census.py
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from tenacity import retry_if_exception_type, retry_if_not_exception_type, stop_after_attempt, wait_fixed

from psmq import PsmqError, server
from psmq_tasks import ResultTimeout, TaskApp, TaskHandle, current_message
from psmq_tasks.inspection import Filter, Inspector

if TYPE_CHECKING:
    from collections.abc import Iterator

app = TaskApp("census")
console = Console(highlight=False)

for category in (SyntaxWarning, DeprecationWarning):  # other people's code may be as odd as it likes
    warnings.simplefilter("ignore", category)

# ---- the tasks -----------------------------------------------------------------------------------------------------


class Count(TypedDict):
    """What is in one file."""

    lines: int
    functions: int
    classes: int
    longest: tuple[int, str]  # lines and name of its longest function


#: what does not parse now will not parse in a minute; trouble with the disk may pass
HOPELESS = (SyntaxError, ValueError, RecursionError, MemoryError)


@app.task(retry=retry_if_not_exception_type(HOPELESS), stop=stop_after_attempt(3), time_limit=60)
def count(file: str) -> Count:
    """Reads and parses one source file."""
    source = Path(file).read_bytes()
    nodes = list(ast.walk(ast.parse(source, file)))
    functions = [node for node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return {
        "lines": len(source.splitlines()),
        "functions": len(functions),
        "classes": sum(isinstance(node, ast.ClassDef) for node in nodes),
        "longest": max([(lines_of(node), node.name) for node in functions], default=(0, "")),
    }


def lines_of(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


@app.task(retry=retry_if_exception_type(BlockingIOError), wait=wait_fixed(0.5))
def enter(register: str, entry: str) -> int:
    """Writes into a register that others use too: whoever finds it locked comes again."""
    lock = Path(register).with_suffix(".lock")
    holder, *waiting = lock.read_text().split() or [""]
    if holder:
        lock.write_text(" ".join(waiting))  # by the time we come again, the holder will have gone
        raise BlockingIOError(f"{lock.name} is held by {holder}")
    with Path(register).open("a") as file:
        file.write(f"{entry}\n")
    return current_message().attempt


# ---- what is counted -----------------------------------------------------------------------------------------------

MISTAKES = {
    "encoding.py": b"# -*- coding: klingon -*-\n",
    "nested.py": b"total = 0" + b" + 1" * 50_000,  # (((0 + 1) + 1) + …
    "syntax.py": b"def greet(name)\n    return name\n",
}
MENDED = b"def greet(name):\n    return name\n"


def sources(folder: Path) -> list[Path]:
    """The Python files below, without installed packages."""
    installed = {"site-packages", "dist-packages"}
    return sorted(path for path in folder.rglob("*.py") if path.is_file() and not installed.intersection(path.parts))


# ---- where it happens ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def private_server(folder: Path) -> Iterator[None]:
    """A server with its data and its socket in this folder; its first use starts it."""
    data = folder / "server"
    os.environ |= {"PSMQ_URL": f"embedded://{data}", "XDG_RUNTIME_DIR": str(folder), "PSMQ_SERVER_LINGER": "10"}
    try:
        yield
    finally:
        app.close()
        server.stop(data)


@contextlib.contextmanager
def worker(log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """``psmq-worker census.py``, by this Python and out of the reach of Ctrl-C: stopping it is up to us."""
    start = "from psmq_tasks.cli import worker; worker(prog_name='psmq-worker')"
    command = [sys.executable, "-c", start, __file__, "--threads=1"]  # parsing keeps a processor busy, not a disk
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
    try:
        yield process
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # tidying up takes a moment, and is not to be cut short
        if process.poll() is not None:
            console.print(f"[red]the worker has ended:[/] {log.read_text()}")
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
        process.kill()
        process.wait()


# ---- the main job --------------------------------------------------------------------------------------------------


class Census:
    """One run: what was sent, and what became of it."""

    def __init__(self, folder: Path, own: Path, process: subprocess.Popen[bytes] | None) -> None:
        self.folder = folder
        self.own = own
        self.process = process
        self.inspector = Inspector(app.manager)
        self.calls: dict[Path, TaskHandle[Count]] = {}
        self.said = ""

    def take(self) -> None:
        """Sends a call for each file, and waits until all have ended."""
        files = [*sources(self.folder), *sources(self.own)]
        columns = TextColumn("counting"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        with Progress(*columns, console=console) as progress:
            handles = count.delay_many(count.call(str(file)) for file in files)
            self.calls = dict(zip(files, handles, strict=True))
            for call in progress.track(handles):
                self.wait_for(call)

    def wait_for(self, call: TaskHandle[Count]) -> None:
        """Until it has ended, one way or the other; says what is missing while nobody works."""
        while self.is_worked_on():
            try:
                call.exception(timeout=2)
                return
            except ResultTimeout as nothing:
                if nothing.hint != self.said:
                    self.said = nothing.hint
                    console.print(self.said)

    def is_worked_on(self) -> bool:
        if self.process is not None and self.process.poll() is not None:
            sys.exit(1)  # our worker could not start; its words are shown on the way out
        return True

    def show_totals(self) -> str:
        counts = {path: call.result() for path, call in self.calls.items() if call.exception() is None}
        totals = {word: sum(found[word] for found in counts.values()) for word in ("lines", "functions", "classes")}
        lines, name, path = max((*found["longest"], path) for path, found in counts.items())
        table = Table(title=f"\nCensus of {self.folder}", title_justify="left", show_header=False, box=None)
        for word, number in {"files": len(counts), **totals}.items():
            table.add_row(word, f"{number:,}")
        table.add_row("longest function", f"{name}, {lines:,} lines, in {self.name(path)}")
        console.print(table)
        return f"{len(counts)} files, {totals['lines']} lines"

    def enter(self, entry: str) -> None:
        """Into the register; each time it is refused, that is shown."""
        self.own.joinpath("register.lock").write_text("Ada Grace")
        call = enter.delay(str(self.own / "register.txt"), entry)
        console.print("\nEntering that into the register")
        seen = 0
        while not call.done() and self.is_worked_on():
            for retry in self.inspector.retries(app.name).items:
                if retry.id == call.id and retry.attempts > seen:
                    seen, last = retry.attempts, retry.failures[-1]
                    console.print(f"attempt {seen}: {last.type}: {last.message}; {last.decision}")
            time.sleep(0.02)
        console.print(f"attempt {call.result()}: done")

    def show_dead_letters(self) -> None:
        names = {call.id: self.name(path) for path, call in self.calls.items()}
        letters = [letter for letter in self.inspector.dead(Filter(queue=app.name)) if letter.id in names]
        table = Table(title="\nDead letters", title_justify="left", show_header=False, box=None)
        for letter in sorted(letters, key=lambda letter: names[letter.id]):
            table.add_row(names[letter.id], letter.reason)
        console.print(table)

    def mend(self, file: Path) -> None:
        """Shows why this one died, mends it and sends the call back."""
        message_id = self.calls[file].id
        last = self.inspector.find(message_id).failures[-1]
        console.print(f"\nThe traceback of {file.name}", last.traceback, sep="\n", markup=False)
        file.write_bytes(MENDED)
        self.inspector.redrive([(app.name, message_id)])
        self.calls[file] = TaskHandle(app, message_id, app.name, count.name)
        self.wait_for(self.calls[file])
        console.print(f"Mended and redriven: {file.name} has {self.calls[file].result()['functions']} function")

    def balance(self) -> None:
        """Each call is done or dead."""
        done = sum(call.exception() is None for call in self.calls.values())
        console.print(f"{len(self.calls):,} calls: {done:,} done, {len(self.calls) - done:,} dead")

    def name(self, path: Path) -> str:
        return os.path.relpath(path, self.own.parent if path.is_relative_to(self.own) else self.folder)


def main() -> int:
    parser = argparse.ArgumentParser(description="Counts Python source code, one task per file.")
    parser.add_argument("folder", metavar="FOLDER", nargs="?", type=Path, default=Path(sysconfig.get_path("stdlib")))
    parser.add_argument("--no-worker", action="store_true", help="for a worker of yours: psmq-worker census.py")
    options = parser.parse_args()
    if not sources(options.folder):
        parser.error(f"there are no Python files in {options.folder}")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # they end it as Ctrl-C does
    try:
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="psmq-census-")))
            own = folder / "made up"
            own.mkdir()
            for name, source in MISTAKES.items():
                own.joinpath(name).write_bytes(source)
            if not options.no_worker and not os.environ.get("PSMQ_URL"):
                stack.enter_context(private_server(folder))
            process = None if options.no_worker else stack.enter_context(worker(folder / "worker.log"))
            census = Census(options.folder.resolve(), own, process)
            census.take()
            census.enter(census.show_totals())
            census.show_dead_letters()
            census.mend(own / "syntax.py")
            census.balance()
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
    except PsmqError as error:
        console.print(f"{error}", markup=False)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
