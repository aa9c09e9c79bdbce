"""The benchmarks as programs: what is measured is real, and what goes wrong is said by name."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT, children, wait_until

HERE = ROOT / "tests" / "benchmarks"


def bench(*words, **environment):
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=HERE,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def family(pid):
    return [one for child in children(pid) for one in (child, *family(child))]


@pytest.mark.parametrize("program", ["run.py", "alone.py"])
def test_an_unknown_name_is_an_error_that_lists_the_known_ones(program):
    """A typo measures nothing."""
    done = bench(program, "psqm")
    assert done.returncode == 2
    assert "'psqm' is unknown: there are" in done.stderr


def test_a_round_measures_every_column_and_skips_by_name_what_does_not_install(tmp_path):
    """Figures are of the runner's own processes and server; a peer that is not to be had does not stop the others."""
    words = ("run.py", "psmq", "rq", "--rounds", 1, "--jobs", 100, "--json")
    done = bench(*words, PSMQ_BENCH_ENV=str(tmp_path / "e"), PIP_NO_INDEX="1", PIP_FIND_LINKS="")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["psmq"]["problem"] == ""
    for name in ("jobs", "single", "bulk", "p50", "p99", "commands", "client_us", "memory", "queued"):
        assert found["psmq"][name][0] > 0, name
    assert "No matching distribution" in found["rq"]["problem"]
    assert found["rq"]["jobs"] == []


def test_an_interrupted_run_stops_what_it_started_and_says_what_is_partial(tmp_path):
    """Ctrl-C reaches the runner; its workers and its server are its own to end."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    words = [sys.executable, "run.py", "psmq", "--rounds", "50", "--jobs", "300"]
    running = subprocess.Popen(
        words, cwd=HERE, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in running.stderr:
        if line.startswith("round 2"):
            break
    wait_until(lambda: len(family(running.pid)) > 3)  # the server, a worker and its children
    pids = family(running.pid)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "the figures below are of the rounds that were finished" in err
    assert out.splitlines()[1].startswith("psmq ")
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
