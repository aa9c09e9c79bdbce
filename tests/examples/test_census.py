"""The main job: thousands of real files through real processes, and nothing left behind."""

from __future__ import annotations

import ast
import contextlib
import json
import re
import signal
import subprocess
import sys
import sysconfig
import warnings
from pathlib import Path

import pytest
from support import processes, wait_until

STANDARD_LIBRARY = Path(sysconfig.get_path("stdlib"))


def counted_directly(folder):
    """The same numbers without psmq, by other means: a visitor, and bytes instead of trees for the lines."""
    totals = {"files": 0, "lines": 0, "functions": 0, "classes": 0}
    longest, broken = 0, set()
    with warnings.catch_warnings(action="ignore"):
        for path in folder.rglob("*.py"):
            if {"site-packages", "dist-packages"} & set(path.parts):
                continue
            source = path.read_bytes()
            try:
                tree = ast.parse(source)
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                broken.add(str(path.relative_to(folder)))
                continue
            totals["files"] += 1
            totals["lines"] += len(re.findall(rb"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z", source))
            todo = [tree]
            while todo:
                node = todo.pop()
                kind = type(node).__name__
                totals["classes"] += kind == "ClassDef"
                if kind in ("FunctionDef", "AsyncFunctionDef"):
                    totals["functions"] += 1
                    longest = max(longest, node.end_lineno - node.lineno + 1)
                todo += ast.iter_child_nodes(node)
    return totals, longest, broken


def section(shown, begins, ends):
    return re.search(rf"^{begins}[^\n]*\n(.*?)^{ends}", shown, re.DOTALL | re.MULTILINE)[1]


def check(shown, totals, longest, broken):
    """What the census showed is right."""
    table = section(shown, "Census of", "Entering")
    numbers = {
        word: int(number.replace(",", "")) for word, number in re.findall(r"^ (\w+) +([\d,]+) *$", table, re.MULTILINE)
    }
    assert numbers == totals
    assert int(re.search(r"longest function .*? ([\d,]+) lines", table)[1].replace(",", "")) == longest
    letters = dict(
        re.findall(r"^ (\S.*?\.py) {2,}(\S.*?) *$", section(shown, "Dead letters", "The traceback"), re.MULTILINE)
    )
    own = {f"made up/{name}.py" for name in ("encoding", "nested", "syntax")}
    assert set(letters) == broken | own
    assert letters["made up/encoding.py"].startswith("SyntaxError: unknown encoding: klingon")
    assert letters["made up/nested.py"].startswith("RecursionError")
    assert letters["made up/syntax.py"].startswith("SyntaxError: expected ':'")
    assert re.findall(r"^attempt (\d): (\w+)", shown, re.MULTILINE) == [
        ("1", "BlockingIOError"),
        ("2", "BlockingIOError"),
        ("3", "done"),
    ]
    assert 'made up/syntax.py", line 1\n    def greet(name)\n' in shown
    assert "Mended and redriven: syntax.py has 1 function" in shown
    calls, dead = totals["files"] + len(broken) + 3, len(broken) + 2
    assert f"{calls:,} calls: {calls - dead:,} done, {dead} dead" in shown
    assert "Warning" not in shown


def left_behind(desk):
    """Folders of the census, and its processes."""
    return [*(desk.home / "tmp").iterdir(), *(desk.home / "run").iterdir(), *processes(str(desk.home / "tmp"))]


@contextlib.contextmanager
def census(desk, *arguments, **environment):
    """Runs it in the empty folder; ends it, as Ctrl-C would, when the test does not see its end."""
    desk.environment |= {"COLUMNS": "240", **environment}
    desk.take("census.py")
    script = (desk.folder / "census.py").rename(desk.home / "census.py")
    with subprocess.Popen(
        [sys.executable, str(script), *arguments],
        cwd=desk.folder,
        env=desk.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as running:
        try:
            yield running
        finally:
            running.terminate()


def small_folder(desk):
    """Part of the standard library, copied: 4 files that parse, and one with a null character."""
    folder = desk.home / "small"
    folder.mkdir()
    for name in ("bisect.py", "colorsys.py", "heapq.py", "queue.py"):
        (folder / name).write_bytes((STANDARD_LIBRARY / name).read_bytes())
    (folder / "null.py").write_bytes(b"x = '\0'\n")
    return folder


@pytest.mark.timeout(300)
def test_a_census_of_the_standard_library_is_right(desk):
    """In an empty folder, with nothing running: totals as counted directly, dead letters with reasons, nothing left."""
    with census(desk) as running:
        totals, longest, broken = counted_directly(STANDARD_LIBRARY)
        shown, _ = running.communicate(timeout=200)
    assert running.returncode == 0, shown
    assert totals["files"] > 400
    check(shown, totals, longest, broken)
    assert list(desk.folder.iterdir()) == []
    assert left_behind(desk) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_census_leaves_nothing(desk, number):
    """Ctrl-C while the workers count ends them and the server, and removes the folder."""
    with census(desk) as running:
        wait_until(lambda: any(len(log.read_text()) for log in (desk.home / "tmp").glob("*/worker.log")), 30)
        running.send_signal(number)
        shown, _ = running.communicate(timeout=30)
    assert (running.returncode, shown.splitlines()[-1]) == (130, "stopped")
    assert left_behind(desk) == []


def test_a_census_without_a_worker_waits_for_yours(desk):
    """--no-worker: on the usual server; says what is missing, goes on when it comes, leaves its dead letters there."""
    folder = small_folder(desk)
    with census(desk, str(folder), "--no-worker") as running:
        assert "nothing serves queue 'census': psmq-worker ../census.py" in running.stdout.readline()
        desk.start("psmq-worker ../census.py")
        shown, _ = running.communicate(timeout=60)
    assert running.returncode == 0, shown
    check(shown, *counted_directly(folder))
    dead = json.loads(desk.run("psmq dead list --queue census --json"))["dead"]
    assert sorted(letter["reason"].split(":")[0] for letter in dead) == sorted(
        ["SyntaxError", "RecursionError", "SyntaxError" if sys.version_info >= (3, 12) else dead_reason_of_null()]
    )
    desk.stop_workers()


def dead_reason_of_null():
    """Python changed its mind in patch releases of 3.11."""
    try:
        ast.parse(b"x = '\0'\n")
    except (SyntaxError, ValueError) as error:
        return type(error).__name__


def test_a_census_on_a_server_of_yours(desk):
    """With PSMQ_URL the script's own worker serves that server, which stays."""
    folder = small_folder(desk)
    with census(desk, str(folder), PSMQ_URL=f"embedded://{desk.home}/data") as running:
        shown, _ = running.communicate(timeout=60)
    assert running.returncode == 0, shown
    check(shown, *counted_directly(folder))
    (queue,) = json.loads(desk.run("psmq queues --json"))["queues"]
    assert (queue["name"], queue["ready"], queue["leased"], queue["dead"]) == ("census", 0, 0, 3)


def test_a_census_of_nothing_is_refused(desk):
    """A folder without Python files, or none at all: one line, before anything is started."""
    desk.take("census.py")
    shown = desk.run("python census.py /nowhere", code=2)
    assert "there are no Python files in /nowhere" in shown
    assert left_behind(desk) == []


def test_a_worker_that_cannot_start_is_shown(desk):
    """The census does not wait for a worker that is gone: it shows its last words."""
    folder = small_folder(desk)
    with census(desk, str(folder), PSMQ_WORKER_PROCESSES="none") as running:
        shown, _ = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "the worker has ended" in shown
    assert "must be a whole number from 1 to 1024, not 'none' (psmq-worker --help)" in shown
    assert left_behind(desk) == []
