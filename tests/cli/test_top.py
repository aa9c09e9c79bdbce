"""psmq top, on a terminal."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import pytest
from rich.console import Console
from support import wait_until

from psmq_tasks.cli.top_view import View, look, render
from psmq_tasks.inspection import Inspector

from .test_terminal import screen as screen  # noqa: PLC0414  # the fixture
from .test_terminal import without_colours


@pytest.fixture
def busy(manager):
    """Queues in every condition, and a worker that runs something."""
    for name, count in (("mail", 12), ("a-queue-with-quite-a-long-name-in-it", 20_000), ("empty", 0)):
        queue = manager.get_queue(name)
        queue.push_many([b"x"] * count)
        for message in queue.get_many(3 if count else 1):
            queue.bury(message, "why")
    manager.find_queue("empty").pause()
    now = datetime.now(UTC).timestamp()
    task = {
        "id": "1p018wh5g00aaaaaaaaaaa",
        "task": "mail:send",
        "queue": "mail",
        "attempt": 1,
        "pid": 7,
        "slot": 2,
        "since": now - 5,
    }
    note = {
        "host": "a-host.example.org", "pid": 4, "version": "1", "started": now - 90, "beat": now, "queues": ["mail"],
        "processes": 1, "slots": 8, "running": 3, "done": 12, "failed": 1, "memory": 2**26, "tasks": [task, task],
    }  # fmt: skip
    manager.note_worker("w", json.dumps(note).encode(), seconds=60)
    yield Inspector(manager)
    manager.forget_worker("w")


def shown(inspector, width, height=24, view=None, trouble=""):
    seen = look(inspector)
    view = view or View(chosen="mail")
    console = Console(width=width, height=height, record=True, force_terminal=True, file=open("/dev/null", "w"))
    with console.file:
        console.print(render(seen, view, width=width, height=height, where="somewhere", trouble=trouble))
    return console.export_text().splitlines()


@pytest.mark.parametrize("width", [60, 80])
def test_a_narrow_screen_names_what_it_shows(busy, manager, width, screen):
    """Columns are left out, and no name of a queue or title is cut for them; psmq workers does the same."""
    manager.delete_queue("a-queue-with-quite-a-long-name-in-it")
    manager.get_queue("a-queue-of-18-chars")
    text = "\n".join(shown(busy, width))
    for name in ("a-queue-of-18-chars", "empty (paused)", "READY", "DEAD", "RUNNING", "a-host.example.o"):
        assert name in text
    assert "…" not in text.partition("WORKER")[0]
    header, row, _ = without_colours(screen("workers", width=width).read_until()).splitlines()
    assert max(len(header), len(row)) <= width
    assert header.split()[:2] == ["WORKER", "QUEUES"]
    assert {"RUNNING", "FAILED"} <= {*header.split()}
    assert "mail" in row.split()


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_a_screen_fits_its_terminal(busy, width):
    """Numbers whole, names cut; what runs is named with its queue, its slot and since when."""
    lines = shown(busy, width)
    assert max(map(len, lines)) <= width
    assert len(lines) <= 24
    text = "\n".join(lines)
    if width >= 80:
        for words in (
            *("QUEUE", "READY", "OUT/S", "20k", "paused", "a-host.example.org:4"),
            *("aaaaaaaa", "mail:send", ":7/2", "1 more"),
        ):
            assert words in text, words


def test_workers_names_what_runs_below_each(busy, run, read):
    """The task and for how long, the longest first; how many more there are."""
    header, row, note = run("workers").stdout.splitlines()
    assert row.startswith("a-host.example.org:4")
    assert re.fullmatch(r" +2 x mail:send up to \d+s, 1 more", note)
    assert [task["task"] for task in read("workers")["workers"][0]["tasks"]] == ["mail:send"] * 2


def test_what_does_not_fit_is_counted(busy, manager):
    """The chosen queue is among those that are shown."""
    for number in range(40):
        manager.get_queue(f"q{number:02}")
    lines = shown(busy, 80, view=View(chosen="q39"))
    assert len(lines) <= 24
    assert any(line.startswith("q39") for line in lines)
    assert any("more queues" in line for line in lines)


def test_queues_are_sorted_by_what_is_chosen(busy):
    """Largest first; equals by name."""
    seen, view, found = look(busy), View(), {}
    for _ in range(6):
        found[view.sort] = [info.name[:1] for info, _ in view.order(seen.queues)]
        view.next_sort()
    assert view.sort == "name"
    assert found["name"] == ["a", "e", "m"]
    assert found["ready"] == found["in"] == ["a", "m", "e"]
    assert found["dead"] == ["a", "m", "e"]


def test_keys_do_what_is_written_below(busy, manager, screen):
    """Down chooses, p pauses, and again resumes; q ends it and gives the terminal back."""
    one = screen("top", "--every", "0.2")
    one.read_until("p pause or resume a-queue")
    one.type("jj")
    one.type("\x1b[B")
    one.read_until("p pause or resume mail")
    one.type("p")
    wait_until(lambda: (one.read_until("mail (paused)"), manager.queue_info("mail").paused)[1])
    one.type("p")
    wait_until(lambda: not manager.queue_info("mail").paused)
    one.type("s")
    one.read_until("sort (ready)")
    one.type("q")
    one.read_until()
    assert one.process.wait(10) == 0
    assert "\x1b[?1049l" in one.text
    assert "Traceback" not in without_colours(one.text)


def test_without_a_terminal_it_says_what_does_without(manager, run):
    """Exit status 2."""
    assert "psmq stats --watch" in run("top", code=2).stderr
