"""psmq server, and what looking does where no server runs."""

# ruff: noqa: F811  # fixtures come by import, and a test asks for them by an argument of the same name

from __future__ import annotations

import json
import shlex

import pytest
from embedded import db_dir, runtime  # noqa: F401
from support import processes

from psmq import QueueManager, server

from .conftest import run_psmq


@pytest.mark.parametrize("words", [["queues"], ["dead"], ["retries"], ["peek", "q"], ["dead", "redrive", "abc"]])
def test_looking_where_nothing_is_makes_nothing(tmp_path, monkeypatch, words):
    """No folder, no server: one line that names the ways on, exit 3."""
    home = tmp_path / "home"
    monkeypatch.setenv("PSMQ_DB_DIR", str(home))
    result = run_psmq(*words, code=3)
    assert len(result.stderr.splitlines()) == 1
    for words_to_find in (str(home), "psmq server start starts one", "psmq-worker APP", "PSMQ_URL"):
        assert words_to_find in result.stderr
    assert not home.exists()
    home.mkdir()
    run_psmq(*words, code=3)
    assert list(home.iterdir()) == []
    run_psmq(*words, "-u", f"embedded://{tmp_path}/other", code=3)
    assert not (tmp_path / "other").exists()


def test_who_has_no_tasks_is_told_how_to_start_a_server(db_dir):
    """And the line that is named does it: then a message can be pushed."""
    told = run_psmq("push", "q", "hello", "--db-dir", db_dir, code=3).stderr
    words = shlex.split(told.partition("holds no data. psmq ")[2].partition(" starts one")[0])
    assert words == ["server", "start", "--db-dir", str(db_dir)]
    run_psmq(*words)
    assert run_psmq("push", "q", "hello", "--db-dir", db_dir).stdout


def test_looking_starts_a_server_that_has_data(db_dir):
    """The folder is there: what is in it is shown, though nobody runs the server at the moment."""
    with QueueManager(db_dir=db_dir) as manager:
        manager.get_queue("kept").push(b"x")
    server.stop(db_dir)
    for words in (["--db-dir", db_dir], ["-u", f"embedded://{db_dir}"]):
        assert "kept" in run_psmq("queues", *words).stdout


def test_a_server_is_started_shown_and_stopped(db_dir):
    """start, status, stop; each may be said twice."""
    assert f"There is no data folder {db_dir}" in run_psmq("server", "status", "--db-dir", db_dir, code=3).stdout
    assert not db_dir.exists()
    started = run_psmq("server", "start", "--db-dir", db_dir)
    assert "runs (process" in started.stdout
    assert "ends 30s after its last client" in started.stderr
    assert "runs already" in run_psmq("server", "start", "--db-dir", db_dir).stdout
    shown = run_psmq("server", "status", "--db-dir", db_dir).stdout
    for word in ("folder", "server", "socket", "clients", "memory", "sentinel", "everysec"):
        assert f"\n{word}" in f"\n{shown}" or word in shown
    assert "has stopped; the next use starts it again" in run_psmq("server", "stop", "--db-dir", db_dir).stdout
    assert "No server runs on" in run_psmq("server", "stop", "--db-dir", db_dir).stdout
    assert "not running" in run_psmq("server", "status", "--db-dir", db_dir, code=3).stdout
    assert not processes(str(db_dir))


def test_programs_read_the_same_as_json(db_dir):
    """Stable keys; exists and running say which of the three it is."""

    def read(*words, code=0):
        return json.loads(run_psmq("server", *words, "--db-dir", db_dir, "--json", code=code).stdout)

    assert read("status", code=3) == {"db_dir": str(db_dir), "exists": False, "running": False}
    assert read("start")["running"] is True
    status = read("status")
    assert (status["exists"], status["running"], status["db_dir"]) == (True, True, str(db_dir))
    assert status["pid"] > 0
    assert read("stop") == {"db_dir": str(db_dir), "stopped": True}
    assert read("stop")["stopped"] is False
    assert read("status", code=3)["running"] is False


def test_a_file_in_the_folder_s_place_is_refused(tmp_path):
    """Untouched, in one line."""
    place = tmp_path / "file"
    place.write_text("mine")
    for words, code in ((["queues"], 3), (["server", "status"], 3), (["server", "start"], 2)):
        result = run_psmq(*words, "--db-dir", place, code=code)
        assert "is a file" in result.stderr
    assert place.read_text() == "mine"


def test_other_servers_are_only_asked(server_url):
    """Status says that they answer; starting and stopping is not ours."""
    assert "answers; it has" in run_psmq("server", "status", "-u", server_url).stdout
    assert json.loads(run_psmq("server", "status", "-u", server_url, "--json").stdout)["running"] is True
    for verb in ("start", "stop"):
        assert "its own tools" in run_psmq("server", verb, "-u", server_url, code=2).stderr


def test_an_administrator_loads_the_library_once(own_server):
    """For users who may not: afterwards it is there."""
    import redis

    assert "has psmq's function library" in run_psmq("server", "load", own_server).stdout
    with redis.Redis.from_url(own_server) as client:
        assert client.function_list(library="psmq_v1")
        assert client.keys("*") == []
    run_psmq("server", "load", "memory:", code=2)
