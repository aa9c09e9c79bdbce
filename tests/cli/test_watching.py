"""psmq stats, workers, check and sentinel."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from support import ROOT, wait_until

from psmq_tasks.cli.showing import per_second

from .conftest import run_psmq
from .test_ending import PSMQ


def test_stats_tell_what_was_done(manager, run, read):
    """Of one queue or each; the same numbers as JSON."""
    queue = manager.get_queue("mail")
    manager.get_queue("empty")
    queue.push_many([b"x"] * 12)
    for message in queue.get_many(10):
        queue.delete(message)
    header, empty, mail = run("stats").stdout.splitlines()
    assert header.split("  ")[0] == "QUEUE"
    assert max(map(len, (header, empty, mail))) <= 80
    assert empty.split() == ["empty", "0", "0", "0", "0", "-", "-", "-", "-"]
    assert mail.split()[0] == "mail"
    (found,) = read("stats", "mail")["queues"]
    assert (found["pushed"], found["delivered"], found["done"], found["failed"]) == (12, 10, 10, 0)
    assert 0 < found["done_rate"] < found["pushed_rate"] < 1
    assert 0 < found["wait_p50"] <= found["wait_p95"] <= found["wait_p99"] < 60


@pytest.mark.parametrize(
    ("rate", "shown"), [(0, "0"), (0.0031, "<0.01"), (0.005, "0.01"), (0.03, "0.03"), (2.5, "2.5"), (140.2, "140")]
)
def test_a_rate_is_0_only_if_nothing_happened(rate, shown):
    """One message in five minutes is not none."""
    assert per_second(rate) == shown


def test_what_is_not_there_is_said_in_one_line(run):
    """Queues, workers, a queue of that name, rules, a server."""
    assert "There are no queues on" in run("stats").stderr
    assert "psmq-worker APP starts one" in run("workers").stderr
    assert "no queue 'nope'" in run("stats", "nope", code=4).stderr
    assert "no queue 'nope'" in run("check", "nope: ready > 5", code=4).stderr
    assert "no rule is given" in run("check", code=2).stderr
    assert "write dead_rate > 5/min" in run("check", "dead_rate > 5", code=2).stderr
    for words in (["workers"], ["stats"], ["check", "ready > 5"], ["sentinel", "ready > 5"], ["top"]):
        result = run_psmq(*words, "-u", "unix:///nonexistent/socket", code=3)
        assert len(result.stderr.splitlines()) == 1


def test_strangers_in_the_registry_of_workers_stop_nobody(manager, run, read):
    """Notes that no worker of ours wrote are left out."""
    for number, note in enumerate((b"", b"{}", b"[]", b"\xff", b'{"host": 1}', b"[" * 5000, b"1e999")):
        manager.note_worker(f"w{number}", note, seconds=60)
    assert len(manager.worker_notes()) == 7
    assert read("workers") == {"workers": []}
    run("workers")
    for number in range(7):
        manager.forget_worker(f"w{number}")
    assert manager.worker_notes() == {}


def test_a_check_is_0_or_1(manager, run, read, monkeypatch, tmp_path):
    """With what is broken; rules from the line, the environment, or a file."""
    queue = manager.get_queue("mail")
    assert run("check", "ready > 5").stdout == "1 rule kept by 1 queue.\n"
    queue.push_many([b"x"] * 7)
    line = "queue 'mail': ALERT 'ready > 5': ready is 7\n"
    assert run("check", "ready > 5", "ready > 50", code=1).stdout == line
    (alert,) = read("check", "ready > 5", code=1)["alerts"]
    assert alert == {"queue": "mail", "rule": "ready > 5", "firing": True, "value": 7, "message": "ready is 7"}
    monkeypatch.setenv("PSMQ_RULES", "ready > 5; m*: unserved")
    assert run("check", code=1).stdout.startswith(line)
    monkeypatch.delenv("PSMQ_RULES")
    (tmp_path / "rules.toml").write_text('rules = ["ready > 5"]')
    assert run("check", "-f", tmp_path / "rules.toml", code=1).stdout == line


@pytest.fixture
def watching(server_url, namespace, tmp_path):
    """Starts psmq in the background: watching(words) → what it has printed so far."""
    started = []

    def start(*words):
        path = tmp_path / f"out{len(started)}"
        with path.open("w") as out:
            program = subprocess.Popen(
                [sys.executable, "-W", "error", "-c", PSMQ, *words, "-u", server_url, "--namespace", namespace],
                stdout=out, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
        started.append(program)
        return path.read_text

    yield start
    for program in started:
        program.send_signal(signal.SIGINT)
        assert program.wait(10) == 130


def test_the_sentinel_says_each_change_once(manager, watching, tmp_path):
    """On a line, and to a command as JSON; a queue made later is seen too."""
    told = tmp_path / "told"
    said = watching("sentinel", "ready > 2", "--every", "0.1", "-c", f"cat >> {told}; printf '\\n\\n' >> {told}")
    wait_until(lambda: "Ctrl-C ends it" in said())
    queue = manager.get_queue("mail")
    queue.push_many([b"x"] * 3)
    wait_until(lambda: "ALERT 'ready > 2': ready is 3" in said())
    queue.purge()
    wait_until(lambda: "fine again 'ready > 2'" in said())
    assert said().count("ALERT") == 1
    documents = wait_until(lambda: (lines := told.read_text().split("\n\n"))[-1] == "" and len(lines) > 2 and lines)
    first, second = map(json.loads, filter(None, documents))
    assert (first["firing"], first["value"], second["firing"]) == (True, 3, False)


def test_stats_are_watched_line_by_line(manager, watching):
    """With --json each look is a document on a line."""
    queue = manager.get_queue("mail")
    said = watching("stats", "mail", "--watch", "--every", "0.1", "--json")
    queue.push(b"x")
    wait_until(lambda: len(said().splitlines()) > 2 and json.loads(said().splitlines()[-1])["queues"][0]["pushed"] == 1)
