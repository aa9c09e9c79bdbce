"""``psmq torture``: a verdict on a server, and nothing left behind."""

from __future__ import annotations

import json

import pytest
from cli.conftest import run_psmq

from psmq_tasks.torture import Verdict
from psmq_tasks.torture.ordeal import Ordeal, Outcome


def test_a_server_is_tortured_and_nothing_is_left(server_url, manager, namespace):
    """Jobs were done while workers were killed; the queue is gone, and the exit status is 0."""
    found = json.loads(
        run_psmq("torture", server_url, "--namespace", namespace, "--seconds", 3, "--seed", 5, "--json").stdout
    )
    assert found["holds"]
    assert found["pushed"] > 50
    assert found["done"] >= found["pushed"]
    assert (found["lost"], found["phantom"], found["copied"], found["queued"], found["dead"]) == (0, 0, 0, 0, 0)
    assert sum(found["faults"].values()) >= 1
    assert found["seed"] == 5
    assert manager.list_queues() == []


@pytest.mark.parametrize("trouble", [{"lost": ["a"]}, {"copied": ["a"]}, {"queued": 1}, {"missing": 1}])
def test_what_does_not_hold_is_status_1(monkeypatch, run, server_url, trouble):
    """With the seed that repeats it."""
    verdict = Verdict(**{"pushed": 3, "done": 2, "twice": 0, "overlapping": 0, "dead": 0, "queued": 0, **trouble})
    monkeypatch.setattr(Ordeal, "run", lambda self, on_progress: Outcome(verdict, {"workers killed": 1}, 77))
    result = run("torture", "--seconds", 1, code=1)
    assert "--seed 77" in result.stdout
    assert "workers killed" in result.stdout


def test_a_server_that_is_not_there_is_status_3(tmp_path):
    run_psmq("torture", f"unix://{tmp_path}/none", "--seconds", 1, code=3)


def test_a_server_inside_one_program_cannot_be_tortured():
    assert "memory:" in run_psmq("torture", "memory:", code=2).stderr
