"""Commands that are killed in the middle: nothing is lost or doubled, and the same command finishes what is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sysconfig
from pathlib import Path

import pytest
from mishaps import kill
from support import wait_until

PSMQ = Path(sysconfig.get_path("scripts"), "psmq")


@pytest.fixture
def queue(manager):
    return manager.get_queue("q")


@pytest.fixture
def killed(server_url, namespace):
    """Runs psmq until something has happened, and kills it."""

    def killed(*words, until):
        command = [PSMQ, *map(str, words), "-u", server_url, "--namespace", namespace]
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ
        ) as process:
            wait_until(until, 30)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL, "it was faster than the test"

    return killed


def ids(queue, state):
    found, after = [], None
    while page := queue.messages(state, limit=1000, after=after, data=False):
        found += [message.message_id for message in page]
        after = page[-1]
    return found


def test_a_redrive_that_is_killed_goes_on_where_it_was(queue, run, killed):
    """Each letter is dead or ready, never both and never neither."""
    made = kill(queue, 300)
    killed("dead", "redrive", "--all", "--rate", 100, "-y", until=lambda: queue.info().ready >= 20)
    ready, dead = ids(queue, "ready"), ids(queue, "dead")
    assert len(dead) > 0
    assert sorted(ready + dead) == sorted(made)
    run("dead", "redrive", "--all", "-y")
    assert sorted(ids(queue, "ready")) == sorted(made)


def test_a_purge_that_is_killed_deletes_only_what_was_meant(queue, run, killed):
    """What does not fit the filter stays, whole."""
    made = kill(queue, 20_000, message="old")
    kept = kill(queue, 3, message="new")
    killed("dead", "purge", "--error", "old", "-y", until=lambda: queue.info().dead < 20_000)
    left = ids(queue, "dead")
    assert set(kept) < set(left) <= {*kept, *made}
    run("dead", "purge", "--error", "old", "-y")
    assert sorted(ids(queue, "dead")) == sorted(kept)
    assert [letter.message.data for letter in queue.dead_letters()] == [b"body"] * 3


def test_an_import_that_is_killed_is_simply_run_again(queue, run, killed, tmp_path):
    """No letter twice, none forgotten, and each as it was."""
    made = kill(queue, 5_000)
    file = tmp_path / "dead.jsonl"
    run("dead", "export", "-o", file)
    before = queue.dead_letters(limit=1000)
    run("dead", "purge", "--all", "-y")
    killed("dead", "import", file, until=lambda: queue.info().dead > 0)
    assert 0 < queue.info().dead < 5_000
    assert "were there already" in run("dead", "import", file).stderr
    assert sorted(ids(queue, "dead")) == sorted(made)
    after = queue.dead_letters(limit=1000)
    assert [(one.message.message_id, one.message.value, one.failures) for one in after] == [
        (one.message.message_id, one.message.value, one.failures) for one in before
    ]


def test_an_export_that_is_killed_leaves_no_half_file(queue, killed, tmp_path):
    """The file is there when it is whole."""
    kill(queue, 20_000)
    file = tmp_path / "dead.jsonl"
    killed("dead", "export", "-o", file, until=lambda: any(tmp_path.iterdir()))
    assert not file.exists()
