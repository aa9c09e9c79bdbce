"""On a terminal: tables as wide as that, cut where they must be; and questions."""

from __future__ import annotations

import os
import pty
import select
import struct
import subprocess
import sys
import time
from fcntl import ioctl
from termios import TIOCSWINSZ

import pytest
from mishaps import failure, kill
from support import ROOT

from psmq import Bury, Release

from .test_ending import PSMQ


class Screen:
    """A command on a terminal of this width."""

    def __init__(self, words, width):
        ours, theirs = pty.openpty()
        ioctl(theirs, TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        environment |= {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PSMQ, *words],
            stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        self._ours = ours
        self.text = ""

    def read_until(self, text=None, seconds=20):
        """Until this is shown, or (None) the command has ended."""
        deadline = time.monotonic() + seconds
        while text is None or text not in self.text:
            assert time.monotonic() < deadline, self.text
            if not select.select([self._ours], [], [], 0.1)[0]:
                continue
            try:
                self.text += os.read(self._ours, 65536).decode()
            except OSError:  # Linux says so when the other end is closed
                break
        return self.text.replace("\r\n", "\n")

    def type(self, text):
        os.write(self._ours, text.encode())

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


@pytest.fixture
def screen(server_url, namespace):
    opened = []

    def show(*words, width=80):
        opened.append(Screen([*words, "-u", server_url, "--namespace", namespace], width))
        return opened[-1]

    yield show
    for one in opened:
        one.close()


def without_colours(text):
    import re

    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_table_fits_the_terminal(manager, screen, width):
    """Long cells give way: tasks at their start, reasons at their end; ids and numbers never do."""
    queue = manager.get_queue("orders")
    task = "a.very.long.package.name.of.somebody:send_the_confirmation"
    (message_id,) = kill(queue, task=task, message="界" * 20 + " the gateway did not answer in time " * 5)
    shown = without_colours(screen("dead", width=width).read_until()).splitlines()
    assert [line.split()[0] for line in shown] == ["ID", message_id[-8:]]
    from rich.cells import cell_len

    assert max(map(cell_len, shown)) <= width
    assert "onfirmation" in shown[1]
    assert "…" in shown[1]
    assert "orders" in shown[1]


def test_no_colour_where_none_is_wanted(manager, screen, monkeypatch):
    """NO_COLOR is heeded."""
    kill(manager.get_queue("q"))
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in screen("queues").read_until()


@pytest.mark.parametrize(("answer", "left", "code"), [("y", 0, 0), ("n", 2, 1)])
def test_what_cannot_be_undone_is_asked_for(manager, screen, answer, left, code):
    """Yes does it, no does nothing."""
    queue = manager.get_queue("q")
    kill(queue, 2)
    one = screen("dead", "purge", "--all")
    one.read_until("Delete 2 dead letters for good? [y/N]: ")
    one.type(answer + "\n")
    shown = one.read_until()
    assert one.process.wait(10) == code
    assert ("2 dead letters purged." in shown) == (left == 0)
    assert ("Nothing was done." in shown) == (left == 2)
    assert queue.info().dead == left


@pytest.mark.parametrize("words", [("dead", "import"), ("push", "q")])
def test_nobody_is_left_before_a_terminal_that_waits_for_lines(manager, screen, words):
    """What reads files or pipes says so where there is neither."""
    one = screen(*words)
    assert "lines on stdin" in one.read_until()
    assert one.process.wait(10) == 2


def test_json_is_for_people_too(manager, screen):
    """Indented on a terminal, without colours."""
    manager.get_queue("q")
    shown = screen("queues", "--json").read_until()
    assert shown.startswith('{\n  "queues"')
    assert "\x1b" not in shown


def test_values_that_are_too_long_go_on_below_themselves(manager, screen):
    """Not below their names, where the next name is looked for."""
    queue = manager.get_queue("q")
    queue.push(b"x")
    queue.get().bury("word " * 40)
    one = screen("dead", "show", queue.dead_letters()[0].message.message_id, width=60)
    lines = [line.rstrip() for line in without_colours(one.read_until()).splitlines()]
    at = next(number for number, line in enumerate(lines) if line.startswith("reason"))
    assert max(map(len, lines[at : at + 4])) <= 60
    assert lines[at + 1].startswith(" " * 10 + "word")


def test_what_was_decided_stands_below_each_attempt(manager, screen):
    """Under the row, whole, however narrow the columns are."""
    queue = manager.get_queue("q")
    queue.push(b"x")
    why = "wait_exponential_jitter(max=60) → 1.5 s; stop_after_attempt(5): 1 of 5"
    queue.exchange([(queue.get(), Release(60, failure=failure(why=why, worker="w:1", extensions=2, message="m" * 90)))])
    text = without_colours(screen("trace", queue.messages("delayed")[0].message_id, width=80).read_until())
    text, traceback, _ = text.partition("Traceback of attempt 1:")
    assert traceback
    assert " ".join(text.split()).endswith(f"{why}; lease extended 2 times; worker w:1")
    assert max(map(len, text.splitlines())) <= 80
    text = without_colours(screen("retries", width=60).read_until())
    assert why in " ".join(text.split())


def columns_of(lines, title):
    """What stands below the title, from its row on, put together again."""
    at = next(number for number, line in enumerate(lines) if title in line)
    begin = lines[at].index(title)
    return "".join(line[begin:].strip() for line in lines[at + 1 :])


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("words", [("dead", "show"), ("trace",)])
def test_what_shows_one_message_cuts_nothing(manager, screen, words, width):
    """Long cells go on below themselves: the last words are often those that one looks for."""
    queue = manager.get_queue("q")
    (message_id,) = kill(queue)
    queue.redrive([message_id])
    message = queue.get()
    record = failure(message="the till of shop 7 is shut", decision="not an error that its policy retries")
    queue.exchange([(message, Bury("ValueError: the till of shop 7 is shut", failure=record))])
    text = without_colours(screen(*words, message_id, width=width).read_until())
    text = text.partition("\nTraceback")[0]
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    shown = columns_of(text.splitlines(), "THEN").replace(" ", "")
    assert "notanerrorthatitspolicyretries" in shown


def test_a_timeline_cuts_nothing_either(manager, screen):
    """Looked at, and followed."""
    queue = manager.get_queue("q", event_log=100)
    message_id = queue.push(b"x")
    queue.bury(queue.get(), "no " * 40 + "end")
    for words in (["trace"], ["trace", "--follow"]):
        text = without_colours(screen(*words, message_id, width=60).read_until())
        table = text.partition("\n\n")[2].partition("\ndead since")[0]
        what = columns_of(table.splitlines(), "WHAT")
        assert "…" not in text
        assert max(map(len, table.splitlines())) <= 60
        assert what.replace(" ", "").count("no") >= 40
        assert "end" in what


@pytest.mark.parametrize("width", [40, 60, 80])
@pytest.mark.parametrize("words", [("queues",), ("stats",)])
def test_names_of_queues_are_whole_and_numbers_too(manager, screen, words, width):
    """Where there is no room for all columns, those that matter least are left out."""
    manager.get_queue("default").push_many([b"x"] * 12)
    manager.get_queue("letters").pause()
    text = without_colours(screen(*words, width=width).read_until())
    header, default, letters = text.splitlines()
    assert "…" not in text
    assert max(map(len, (header, default, letters))) <= width
    assert [default.split()[0], letters.split()[0]] == ["default", "letters"]
    assert len(header.replace(" 50%", "").split()) == len(default.split()) == len(letters.split())
    assert "DEAD" in header
    if words == ("queues",):
        assert ["READY", "12", "paused"] == [header.split()[1], default.split()[1], letters.split()[-1]]
        assert ("IN/S" in header) == (width == 80)


def test_a_long_name_takes_no_column_away_that_fits_beside_most_of_it(manager, screen):
    """It is cut instead."""
    manager.get_queue("n" * 60)
    header, row = without_colours(screen("queues", width=80).read_until()).splitlines()
    assert header.split()[-1] == "CONSUMERS"
    assert row.startswith("n" * 15)
    assert "…" in row
