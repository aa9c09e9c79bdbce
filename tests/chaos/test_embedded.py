"""The embedded server and its sentinel, killed at named points and fed damaged logs: what was acknowledged is there."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal

import pytest
from embedded import db_dir, runtime  # noqa: F401
from support import processes, wait_until

from psmq import QueueManager, data_folder, server
from psmq.data_folder import DataFolder


@pytest.fixture
def token(tmp_path):
    return tmp_path / "token"


@pytest.fixture
def kill_at(monkeypatch, token):
    """The next sentinel that passes this point dies there, once: it inherits our environment, we have read ours."""

    def set_up(point):
        token.touch()
        monkeypatch.setenv("PSMQ_KILL_AT", f"{point}:1:{token}")

    return set_up


def redis_server():
    """The path of a server that is not the packaged one."""
    found = shutil.which("redis-server")
    if not found:
        pytest.skip("needs a redis-server beside the packaged one; .ci/run installs it")
    return found


def push(folder, words):
    """Push through a client of its own. → the ids"""
    with QueueManager(db_dir=folder, timeout=30) as manager:
        queue = manager.get_queue("letters")
        return [queue.push(word) for word in words]


def stored(folder):
    with QueueManager(db_dir=folder, timeout=30) as manager:
        return [message.message_id for message in manager.get_queue("letters").messages("ready", limit=1000)]


def kill(pid, lock):
    """SIGKILL, and wait until what it locked is free: its last thread lets go of that."""
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not data_folder.is_locked(lock))


@pytest.mark.parametrize("point", ["keeper.launched", "keeper.loaded", "keeper.replacing", "keeper.adopting"])
def test_a_sentinel_killed_at_a_named_point_costs_nothing(db_dir, kill_at, token, point):  # noqa: F811
    """In the middle of starting, restarting or adopting a server: the next client has one server and all messages."""
    ids = push(db_dir, [b"one", b"two"])
    status, folder = server.status(db_dir), DataFolder.at(db_dir)
    if point in ("keeper.launched", "keeper.loaded"):
        server.stop(db_dir)
        kill_at(point)
    elif point == "keeper.replacing":
        server.stop(db_dir)
        kill_at(point)  # in the environment of the sentinel that comes now
        ids += push(db_dir, [b"three"])
        kill(server.status(db_dir).pid, folder.server_lock)
    else:
        kill(status.sentinel_pid, folder.sentinel_lock)
        kill_at(point)
    ids += push(db_dir, [b"four"])
    wait_until(lambda: not token.exists())
    ids += push(db_dir, [b"five"])
    assert stored(db_dir) == ids
    assert len(processes(str(server.ensure(db_dir)))) == 1


def test_a_sentinel_killed_while_it_ends_an_idle_server_costs_nothing(db_dir, kill_at, token, monkeypatch):  # noqa: F811
    """Its socket is out of the way at that moment: the next client finds the same server, or a new one with all data."""
    monkeypatch.setenv("PSMQ_SERVER_LINGER", "0.2")
    kill_at("keeper.aside")
    ids = push(db_dir, [b"one", b"two"])
    wait_until(lambda: not token.exists())
    ids += push(db_dir, [b"three"])
    assert stored(db_dir) == ids


@pytest.mark.parametrize("flavour", ["valkey", "redis"])
def test_a_sentinel_killed_while_it_mends_a_cut_log_costs_nothing(db_dir, kill_at, token, monkeypatch, flavour):  # noqa: F811
    """The server has cut the tail off, and what is left was not written anew yet: whoever takes the server over does
    that, else a Redis 7.0 would take what is pushed next for the end of the block that was cut."""
    if flavour == "redis":
        monkeypatch.setenv("PSMQ_SERVER_BINARY", redis_server())
    ids = push(db_dir, [b"%d" % number for number in range(5)])
    server.stop(db_dir)
    (log,) = (db_dir / "appendonlydir").glob("*.incr.aof")
    os.truncate(log, log.stat().st_size - 30)
    kill_at("keeper.mending")
    push(db_dir, [])
    found = stored(db_dir)
    wait_until(lambda: not token.exists())
    assert found == ids[: len(found)]
    assert len(found) < 5
    later = push(db_dir, [b"later"])
    assert stored(db_dir) == [*found, *later]
    killed = server.status(db_dir).pid
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: server.status(db_dir).pid not in (0, killed))
    assert stored(db_dir) == [*found, *later]


def test_a_cut_log_loses_whole_trailing_operations_and_says_how_much(db_dir, tmp_path):  # noqa: F811
    """Whatever the number of bytes: what is left is the beginning of what was pushed, whole; a new push follows it."""
    seed = random.SystemRandom().randrange(10**6)
    print("seed", seed)
    ids = push(db_dir, [b"%d" % number for number in range(30)])
    server.stop(db_dir)
    (log,) = (db_dir / "appendonlydir").glob("*.incr.aof")
    size = log.stat().st_size
    for missing in sorted({1, 2, *random.Random(seed).sample(range(3, 3000), 4)}):
        folder = tmp_path / f"cut-{missing}"
        shutil.copytree(db_dir, folder, ignore=shutil.ignore_patterns("*.lock", "*.log"))
        os.truncate(folder / "appendonlydir" / log.name, size - missing)
        try:
            found = stored(folder)
            assert found == ids[: len(found)], missing
            assert len(found) < 30
            later = push(folder, [b"later"])
            (cut,) = re.findall(r": (\d+) bytes cut off, no whole operation", (folder / "sentinel.log").read_text())
            os.kill(server.status(folder).pid, signal.SIGKILL)
            assert stored(folder) == [*found, *later], missing
        finally:
            server.stop(folder)
        assert int(cut) < 3000
