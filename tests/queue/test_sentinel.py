"""What keeps the embedded server alive, what ends it, and what is said about queues meanwhile."""

# ruff: noqa: F811  # fixtures come by import, and a test asks for them by an argument of the same name

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from embedded import db_dir, runtime  # noqa: F401
from support import ROOT, processes, python, wait_until

from psmq import data_folder, sentinel_log, server, server_keeper, server_process
from psmq.data_folder import DataFolder
from psmq.sentinel import Notice, notices


def ask(db_dir, *words):
    return server_process.ask(server.ensure(db_dir), *words, timeout=5)


def started(db_dir):
    """(server, sentinel)"""
    server.ensure(db_dir)
    found = server.status(db_dir)
    return found.pid, found.sentinel_pid


def is_there(pid):
    """A process that has not yet let go of its files and locks; init may take its time to bury it."""
    try:
        threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
        return threads > 1 or Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return sys.platform != "linux" and data_folder.is_process(pid, "s")


def kill(*pids):
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(map(is_there, pids)))


def log(db_dir):
    return (db_dir / "sentinel.log").read_text()


def is_running(db_dir):
    return server.status(db_dir).running


# ---- kills ---------------------------------------------------------------------------------------------------------


def test_a_killed_server_comes_back_by_itself_with_its_data(db_dir):
    """Nobody has to ask: the sentinel restarts it on the same files, within 2 s."""
    assert ask(db_dir, "SET", "kept", "yes") == "OK"
    pid, sentinel = started(db_dir)
    path = server.ensure(db_dir)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: server_process.serving_pid(path, 1.0) not in (0, pid), timeout=2)
    assert server_process.ask(path, "GET", "kept", timeout=5) == "yes"
    assert server.status(db_dir).sentinel_pid == sentinel
    assert f"server {pid}: it ended with exit code -9; starting it again" in log(db_dir)


def test_a_server_that_was_shut_down_by_hand_comes_back(db_dir):
    """Its clients want it; to end it there is stop()."""
    pid, _ = started(db_dir)
    path = server.ensure(db_dir)
    with pytest.raises(OSError):
        server_process.ask(path, "SHUTDOWN", timeout=5)
    wait_until(lambda: server_process.serving_pid(path, 1.0) not in (0, pid))


def test_a_server_killed_again_and_again_comes_back_each_time(db_dir):
    """After a pause that grows to 5 s, so that a crash loop leaves the machine some air."""
    path = server.ensure(db_dir)
    for _ in range(4):
        pid = wait_until(lambda: server_process.serving_pid(path, 1.0))
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda pid=pid: server_process.serving_pid(path, 1.0) not in (0, pid))
    assert "starting it again" in log(db_dir)


def test_a_killed_sentinel_leaves_the_server_and_the_next_client_brings_another(db_dir):
    """The server holds server.lock itself; the new sentinel adopts it."""
    pid, sentinel = started(db_dir)
    kill(sentinel)
    assert is_running(db_dir)
    assert ask(db_dir, "PING") == "PONG"
    after, other = started(db_dir)
    assert after == pid
    assert other not in (0, sentinel)
    assert f"server {pid} adopted" in log(db_dir)


def test_an_adopted_server_is_kept_like_any_other(db_dir):
    """The new sentinel cannot wait for it as a parent does; it notices all the same."""
    ask(db_dir, "SET", "kept", "yes")
    pid, sentinel = started(db_dir)
    kill(sentinel)
    path = server.ensure(db_dir)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: server_process.serving_pid(path, 1.0) not in (0, pid), timeout=5)
    assert ask(db_dir, "GET", "kept") == "yes"
    assert server.stop(db_dir)


def test_when_both_are_killed_the_next_client_brings_both_back(db_dir):
    """With what was acknowledged before."""
    ask(db_dir, "SET", "kept", "yes")
    pid, sentinel = started(db_dir)
    kill(sentinel, pid)
    assert not is_running(db_dir)
    assert ask(db_dir, "GET", "kept") == "yes"


def test_a_sentinel_killed_while_its_server_starts_leaves_no_second_server(db_dir):
    """The lock's descriptor is in the server from its first moment."""
    folder = DataFolder.at(db_dir)
    code = "import sys; from pathlib import Path; from psmq import server; server.ensure(Path(sys.argv[1]))"
    with python(code, db_dir) as program:
        wait_until(lambda: data_folder.is_locked(folder.server_lock))
        kill(data_folder.lock_pid(folder.sentinel_lock))
        program.communicate(timeout=60)
    assert program.returncode == 0
    assert ask(db_dir, "PING") == "PONG"
    assert len(processes(str(server.ensure(db_dir)))) == 1


def test_nothing_acknowledged_is_lost_while_servers_and_sentinels_are_killed(db_dir):
    """A client that ensures and repeats sees every INCR that was answered: with "always", because with "everysec" a
    server that is killed may hold what it answered while an fsync runs.
    """
    code = """
    import sys
    from pathlib import Path
    from psmq import errors, server, server_process
    folder, acknowledged = Path(sys.argv[1]), 0
    print("ready", flush=True)
    while acknowledged < 300:
        try:
            with server_process.Connection(server.ensure(folder, durability="always"), timeout=5) as connection:
                while acknowledged < 300:
                    now = int(connection.ask("INCR", "counter"))
                    assert now > acknowledged, (now, acknowledged)
                    acknowledged += 1
                    if acknowledged % 100 == 50:
                        print(acknowledged, flush=True)
                        input()
        except (OSError, errors.ServerUnreachable):
            pass
    print(int(server_process.ask(server.ensure(folder, durability="always"), "GET", "counter", timeout=5)) >= acknowledged)
    """
    with python(code, db_dir) as program:
        lines = []
        for line in program.stdout:
            lines.append(line.strip())
            if line.strip().isdecimal():
                pid, sentinel = started(db_dir)
                kill(*{"50": [pid], "150": [sentinel], "250": [sentinel, pid]}[line.strip()])
                program.stdin.write("\n")
                program.stdin.flush()
        assert program.wait(timeout=60) == 0, program.stderr.read()
    assert lines == ["ready", "50", "150", "250", "True"]


# ---- sockets and folders -------------------------------------------------------------------------------------------


def test_a_removed_socket_comes_back_with_the_data(db_dir):
    """Cleaners of temporary folders remove what looks old; no client finds such a server any more."""
    ask(db_dir, "SET", "kept", "yes")
    path = server.ensure(db_dir)
    path.unlink()
    wait_until(path.exists)
    assert ask(db_dir, "GET", "kept") == "yes"
    assert "its socket is gone" in log(db_dir)


def test_a_removed_runtime_folder_comes_back(db_dir, runtime):
    """The whole of it may be cleaned."""
    path = server.ensure(db_dir)
    shutil.rmtree(path.parent)
    wait_until(path.exists)
    assert ask(db_dir, "PING") == "PONG"


def test_a_stranger_at_the_socket_path_is_replaced(db_dir):
    """What clients reach there must be our server."""
    path = server.ensure(db_dir)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.bind(str(path))
        stranger.listen()
        wait_until(lambda: " started: " in log(db_dir).split("its socket is gone")[-1] and "gone" in log(db_dir))
    assert ask(db_dir, "PING") == "PONG"


def test_a_server_that_lost_socket_and_sentinel_is_replaced(db_dir):
    """It holds the lock, and nobody can reach it: it is ended by its process id, cleanly."""
    ask(db_dir, "SET", "kept", "yes")
    pid, sentinel = started(db_dir)
    kill(sentinel)
    server.ensure(db_dir)  # adopted
    kill(server.status(db_dir).sentinel_pid)
    DataFolder.at(db_dir).record()
    Path(DataFolder.at(db_dir).record().socket).unlink()
    assert ask(db_dir, "GET", "kept") == "yes"
    assert server.status(db_dir).pid != pid
    assert f"server {pid} has lost its socket" in log(db_dir)


def test_a_removed_data_folder_ends_its_server(db_dir):
    """A server without files keeps nothing; a new folder of that name gets a new one at once."""
    path = server.ensure(db_dir)
    first, _ = started(db_dir)
    shutil.rmtree(db_dir)
    assert ask(db_dir, "PING") == "PONG"
    assert server.status(db_dir).pid != first
    wait_until(lambda: len(processes(str(path))) == 1)
    assert ask(db_dir, "PING") == "PONG"
    shutil.rmtree(db_dir)
    wait_until(lambda: not processes(str(path)))


# ---- idle ----------------------------------------------------------------------------------------------------------


def test_an_idle_server_ends_and_the_next_use_starts_it_again(db_dir, monkeypatch):
    """Both processes, cleanly, and with the data."""
    monkeypatch.setenv("PSMQ_SERVER_LINGER", "0.3")
    assert ask(db_dir, "SET", "kept", "yes") == "OK"
    wait_until(lambda: not is_running(db_dir) and not server.status(db_dir).sentinel_pid)
    assert "no client for 0.3 s, ending it" in log(db_dir)
    assert "bye bye" in (db_dir / "server.log").read_text()
    assert ask(db_dir, "GET", "kept") == "yes"


def test_a_connected_client_keeps_the_server(db_dir, monkeypatch):
    """However silent it is; the time runs from its leaving."""
    monkeypatch.setenv("PSMQ_SERVER_LINGER", "0.2")
    with server_process.Connection(server.ensure(db_dir), timeout=5) as client:
        pid = int(server_process.info(client, "server")["process_id"])
        # ten times the linger: there is no event for what does not happen
        with pytest.raises(TimeoutError):
            wait_until(lambda: not is_running(db_dir), timeout=2)
        assert int(server_process.info(client, "server")["process_id"]) == pid
    wait_until(lambda: not is_running(db_dir))


def test_clients_that_come_at_the_very_end_lose_nothing(db_dir, monkeypatch):
    """With no linger at all it ends between any two connections; each use finds or starts it."""
    monkeypatch.setenv("PSMQ_SERVER_LINGER", "0")
    code = """
    import random, sys, time
    from pathlib import Path
    from psmq import errors, server, server_process
    folder, acknowledged = Path(sys.argv[1]), 0
    end = time.monotonic() + 4
    while time.monotonic() < end:
        try:
            server_process.ask(server.ensure(folder), "INCR", "counter", timeout=5)
        except OSError:
            continue
        acknowledged += 1
        time.sleep(random.random() * 0.12)
    print(acknowledged)
    """
    programs = [python(code, db_dir) for _ in range(2)]
    answers = [program.communicate(timeout=60) for program in programs]
    assert [err for _, err in answers] == ["", ""]
    monkeypatch.setenv("PSMQ_SERVER_LINGER", "30")
    wait_until(lambda: not is_running(db_dir))
    assert int(ask(db_dir, "GET", "counter")) >= sum(int(out) for out, _ in answers)
    assert log(db_dir).count("ending it") >= 2


def test_a_sentinel_killed_in_the_middle_of_an_idle_end_does_no_harm(db_dir):
    """The socket was renamed away by then; its successor puts it back."""
    ask(db_dir, "SET", "kept", "yes")
    pid, sentinel = started(db_dir)
    path = server.ensure(db_dir)
    os.kill(sentinel, signal.SIGSTOP)
    path.rename(server_keeper._aside(path))
    kill(sentinel)
    assert ask(db_dir, "GET", "kept") == "yes"
    assert server.status(db_dir).pid == pid


# ---- signals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_sentinel_ends_both_cleanly(db_dir, number):
    """As service managers and Ctrl-C do it."""
    _, sentinel = started(db_dir)
    os.kill(sentinel, number)
    wait_until(lambda: not is_running(db_dir) and not server.status(db_dir).sentinel_pid)
    assert "bye bye" in (db_dir / "server.log").read_text()
    assert DataFolder.at(db_dir).record().pid == 0


def test_by_hand_it_stays_in_the_foreground_and_says_when_it_is_ready(db_dir):
    """For service managers: `python -m psmq.sentinel DIR`."""
    with subprocess.Popen(
        [sys.executable, "-m", "psmq.sentinel", str(db_dir)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as program:  # fmt: skip
        assert '"ready": "' in program.stdout.readline()
        assert server.status(db_dir).sentinel_pid == program.pid
        program.terminate()
        _, err = program.communicate(timeout=20)
    assert program.returncode == 0
    assert " started: " in err
    assert not is_running(db_dir)


def test_a_second_sentinel_of_a_folder_leaves_it_to_the_first(db_dir):
    """One lock, one sentinel."""
    _, sentinel = started(db_dir)
    second = subprocess.run(
        [sys.executable, "-m", "psmq.sentinel", str(db_dir)],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert second.stdout == '{"ready": ""}\n'
    assert server.status(db_dir).sentinel_pid == sentinel


def test_it_ends_what_it_began_when_asked_to_stop_while_starting(db_dir):
    """A server that loads long is no reason to wait."""
    server.ensure(db_dir)
    server.stop(db_dir)
    increment = next((db_dir / "appendonlydir").glob("*.incr.aof"))
    with increment.open("ab") as file:
        chunk = b"".join(b"*3\r\n$3\r\nSET\r\n$8\r\n%08d\r\n$1\r\nx\r\n" % key for key in range(10_000))
        for _ in range(200):
            file.write(chunk)
    with pytest.raises(server.ServerUnreachable, match="did not answer in time"):
        server.ensure(db_dir, timeout=0.5)
    assert server.stop(db_dir)
    assert not is_running(db_dir)


# ---- logs ----------------------------------------------------------------------------------------------------------


def test_logs_are_bounded_and_keep_their_end(tmp_path):
    """In whole lines."""
    path = tmp_path / "log"
    lines = [f"line {number}" for number in range(200_000)]
    path.write_text("\n".join(lines) + "\n")
    sentinel_log.trim(path)
    kept = path.read_text().splitlines()
    assert path.stat().st_size <= sentinel_log.MAX_LOG // 2
    assert kept == lines[-len(kept) :]
    before = path.read_bytes()
    sentinel_log.trim(path)
    assert path.read_bytes() == before


# ---- looking at queues ---------------------------------------------------------------------------------------------


@dataclass
class Info:
    """What notices() reads of a QueueInfo."""

    name: str = "mail"
    ready: int = 0
    dead: int = 0
    paused: bool = False
    consumers: int = 1
    oldest_ready: float | None = None


def said(*samples):
    """The lines for one queue over several looks."""
    state, lines = {}, []
    for sample in samples:
        state, new = notices(state, [sample])
        lines.append(new)
    return lines


def test_nothing_is_said_about_a_queue_that_is_well():
    """Silence is the normal case."""
    assert said(Info(), Info(ready=5, oldest_ready=59.0), Info(ready=0)) == [[], [], []]


def test_dead_letters_are_told_when_they_appear_and_when_more_do():
    """Not again at each look, nor when they become fewer."""
    first, again, more, fewer, new = said(Info(dead=2), Info(dead=2), Info(dead=3), Info(dead=0), Info(dead=1))
    assert first == ["queue 'mail': 2 more dead letters, 2 in all; psmq dead list --queue mail"]
    assert again == fewer == []
    assert more == ["queue 'mail': 1 more dead letter, 3 in all; psmq dead list --queue mail"]
    assert new == ["queue 'mail': 1 more dead letter, 1 in all; psmq dead list --queue mail"]


def test_a_queue_that_falls_behind_is_told_once_and_its_recovery_too():
    """Past 60 s."""
    behind = Info(ready=7, oldest_ready=61.0)
    assert said(behind, behind, Info(), behind) == [
        ["queue 'mail': the oldest of 7 ready messages waits for 61 s, with 1 consumer"],
        [],
        ["queue 'mail': no message waits for long any more"],
        ["queue 'mail': the oldest of 7 ready messages waits for 61 s, with 1 consumer"],
    ]


def test_messages_without_a_consumer_are_told_once():
    """The commonest reason why nothing happens."""
    alone = Info(ready=3, consumers=0, oldest_ready=1.0)
    assert said(alone, alone, Info(ready=2)) == [
        ["queue 'mail': 3 messages wait and nobody asks for them; start a psmq-worker"],
        [],
        ["queue 'mail': it is served again"],
    ]


def test_a_paused_queue_waits_on_purpose():
    """Its dead letters are told all the same."""
    assert said(Info(ready=3, consumers=0, oldest_ready=900.0, paused=True)) == [[]]
    assert len(said(Info(dead=1, paused=True))[0]) == 1


def test_a_deleted_queue_is_forgotten():
    """One of the same name later is a new one."""
    state, _ = notices({}, [Info(dead=2)])
    state, lines = notices(state, [])
    assert (state, lines) == ({}, [])
    _, lines = notices(state, [Info(dead=2)])
    assert len(lines) == 1
    assert notices({"mail": Notice(dead=2)}, [Info(dead=2)])[1] == []


def test_the_sentinel_looks_at_the_queues_and_is_no_client_of_its_own(db_dir, monkeypatch):
    """Its looks neither keep an idle server nor count as somebody who is served."""
    from psmq import QueueManager

    monkeypatch.setenv("PSMQ_SAMPLE_INTERVAL", "0.05")
    monkeypatch.setenv("PSMQ_SERVER_LINGER", "1.5")
    with QueueManager(db_dir=db_dir) as manager:
        manager.get_queue("mail").push(b"hello")
        wait_until(lambda: "queue 'mail': 1 message waits and nobody asks for it" in log(db_dir))
    wait_until(lambda: not is_running(db_dir))
    assert "cannot be looked at" not in log(db_dir)


def test_a_queue_that_cannot_be_looked_at_keeps_no_server_down(db_dir, monkeypatch):
    """It is said once, and the server is restarted as ever."""
    monkeypatch.setenv("PSMQ_SAMPLE_INTERVAL", "0.05")
    ask(db_dir, "HSET", "psmq:{newer}", "layout", "99")
    ask(db_dir, "SADD", "psmq:queues", "newer")
    wait_until(lambda: "the queues cannot be looked at" in log(db_dir))
    pid, _ = started(db_dir)
    path = server.ensure(db_dir)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: server_process.serving_pid(path, 1.0) not in (0, pid))
