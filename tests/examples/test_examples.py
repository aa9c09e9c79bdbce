"""The examples, run as their docstrings say, show what their docstrings show."""

from __future__ import annotations

import ast
import json
import textwrap

import pytest
from desk import EXAMPLES, matches, transcript

NAMES = sorted(path.name for path in EXAMPLES.glob("*.py") if path.name != "census.py")


def docstring(name):
    return ast.get_docstring(ast.parse((EXAMPLES / name).read_text()))


def commands_of(name):
    lines = [line for line in docstring(name).splitlines() if line.startswith("    ")]
    return transcript(textwrap.dedent("\n".join(lines)))


def test_all_examples_are_here():
    """A renamed example is noticed; a test of the README holds its list to the folder."""
    expected = "alerts async_tasks by_value dead_letters hello queue_only retries".split()
    assert [f"{name}.py" for name in expected] == NAMES


@pytest.mark.parametrize("name", [*NAMES, "census.py"])
def test_an_example_is_short(name):
    """One screen each; the census is a program."""
    lines = len((EXAMPLES / name).read_text().splitlines())
    assert lines <= (275 if name == "census.py" else 60)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_shows_what_it_says(desk, name):
    """The commands in the docstring, in the order given, show the lines beneath them."""
    desk.take(name)
    commands = commands_of(name)
    assert commands
    desk.act(commands)
    desk.stop_workers()


def test_hello_says_what_is_missing(desk):
    """Without a worker the script names the command that helps; the call waits, and a worker started later runs it."""
    desk.take("hello.py")
    shown = desk.run("python hello.py", code=1)
    (expected,) = [line.strip("`") for line in docstring("hello.py").splitlines() if "nothing serves" in line]
    assert matches(expected, shown)
    desk.run("psmq-worker hello.py --burst")
    assert json.loads(desk.run("psmq queues --json"))["queues"][0]["counters"]["deleted"] == 1
