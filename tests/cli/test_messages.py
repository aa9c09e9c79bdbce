"""psmq push, get, purge, configure, delete-queue and completion."""

from __future__ import annotations

from dataclasses import fields

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from mishaps import kill, retry_later

from psmq import QueueConfig
from psmq_tasks.cli import psmq, worker


def test_data_is_pushed_by_argument_or_line(manager, run, read):
    """The ids are printed; the queue is made."""
    message_id = run("push", "q", "hello", "--priority", 5, "--metadata", "a=b=c", "--ttl", "1h").stdout.strip()
    record = manager.find_queue("q").peek()
    assert (record.message_id, record.data, record.priority, record.metadata) == (message_id, b"hello", 5, {"a": "b=c"})
    assert record.expires is not None
    ids = read("push", "q", input="one\ntwo\r\n")["ids"]
    assert [one.data for one in manager.find_queue("q").messages("ready")] == [b"hello", b"one", b"two"]
    assert len(ids) == 2
    run("push", "q", "later", "--delay", "2h")
    assert manager.find_queue("q").info().delayed == 1


def test_a_bad_push_stores_nothing(manager, run):
    """Said before anything is sent."""
    for words in (["--priority", 101], ["--metadata", "x"], ["--delay", "soon"]):
        run("push", "q", "x", *words, code=2)
    assert manager.list_queues() == []


def test_a_deduplication_id_is_that_of_one_message(manager, run):
    """DATA, or one line; of several all but the first would be lost without a word."""
    result = run("push", "q", "--deduplication-id", "x", code=2, input="one\ntwo\nthree\n")
    assert len(result.stderr.splitlines()) == 1
    assert "--deduplication-id" in result.stderr
    assert manager.list_queues() == []
    first = run("push", "q", "--deduplication-id", "x", input="one\n").stdout
    assert run("push", "q", "two\r\n", "--deduplication-id", "x").stdout == first
    run("push", "q", "two\r\n", "--deduplication-id", "y")
    assert [one.data for one in manager.find_queue("q").messages("ready")] == [b"one", b"two\r\n"]


def test_a_message_is_got_printed_and_deleted(manager, run, read):
    """--release hands it back, uncounted; an empty queue is exit 1, an unknown one 4."""
    queue = manager.get_queue("q")
    queue.push_many([b"one", b"two", b"\xff"])
    assert run("get", "q", "--release").stdout == "one\n"
    assert run("get", "q", "-n", 2).stdout == "one\ntwo\n"
    got = read("get", "q")["messages"][0]
    assert (got["state"], got["due"], got["data_base64"]) == ("leased", None, "/w==")
    assert run("get", "q", code=1).stderr == "Queue 'q' has nothing ready.\n"
    run("get", "nope", code=4)
    assert (queue.info().leased, queue.info().counters["deleted"]) == (0, 3)


def test_a_purge_asks_and_names_what_goes(manager, run, read):
    """Ready and delayed unless told otherwise; --dry-run only counts."""
    queue = manager.get_queue("q")
    queue.push_many([b"x"] * 3)
    queue.push(b"x", delay=60)
    kill(queue)
    queue.push_many([b"x"] * 2)
    refused = run("purge", "q", code=2)
    assert "Delete 6 ready and delayed messages of queue 'q' for good?" in refused.stderr
    assert read("purge", "q", "--dry-run") == {"purged": 0, "found": 6, "dry_run": True}
    assert run("purge", "q", "-y").stdout == "6 messages deleted.\n"
    assert run("purge", "q", "--state", "dead", "-y").stdout == "1 message deleted.\n"


def test_settings_are_shown_and_changed(manager, run, read):
    """Durations as people write them; what is none of them changes nothing."""
    queue = manager.get_queue("q")
    shown = run("configure", "q", "visibility_timeout=2m", "max_length=10", "on_expiry=bury").stdout
    values = dict(line.split() for line in shown.splitlines())
    assert (values["visibility_timeout"], values["max_size"], values["ttl"]) == ("2m", "1MiB", "none")
    assert (values["max_length"], values["delay"], values["on_expiry"]) == ("10", "0s", "bury")
    config = queue.info().config
    assert (config.visibility_timeout, config.max_length, config.on_expiry) == (120, 10, "bury")
    assert read("configure", "q", "max_length=none")["config"]["max_length"] is None
    run("configure", "q", "max_size=64KiB", "ttl=0.25", "dead_retention=30d", "event_log=1000")
    values = dict(line.split() for line in run("configure", "q").stdout.splitlines()[1:])
    assert [values[name] for name in ("max_size", "ttl", "dead_retention", "event_log")] == [
        "64KiB", "0.25s", "30d", "1000",
    ]  # fmt: skip
    del values["clock"]
    run("configure", "q", *(f"{name}={value}" for name, value in values.items()))  # as it is shown
    assert queue.info().config.max_size == 65_536
    for bad in ("visibility_timeout=x", "max_size=xMiB", "max_length", "nonsense=1", "max_retrievals=0", "on_expiry=x"):
        run("configure", "q", bad, "delay=5", code=2)
    assert queue.info().config.delay == 0


def test_the_help_lists_the_settings(run):
    """All there are, each with its default."""
    lines = [
        line.split(maxsplit=2) for line in run("configure", "--help").stdout.splitlines() if line.startswith("    ")
    ]
    listed = {line[0]: line[1] for line in lines if line[0] in {field.name for field in fields(QueueConfig)}}
    assert [*listed] == [field.name for field in fields(QueueConfig)]
    assert (listed["visibility_timeout"], listed["max_size"], listed["ttl"]) == ("30s", "1MiB", "none")


def test_a_queue_is_deleted_when_that_was_meant(manager, run):
    """It asks, and says what went."""
    kill(manager.get_queue("q"), 2)
    assert "2 dead letters" in run("delete-queue", "q", code=2).stderr
    assert manager.list_queues() == ["q"]
    assert run("delete-queue", "q", "-y").stdout == "Queue 'q' is deleted, with 0 messages and 2 dead letters.\n"
    run("delete-queue", "q", "-y", code=4)
    kill(manager.get_queue("one"))
    manager.get_queue("one").push(b"x")
    assert "with 1 message and 1 dead letter for good?" in run("delete-queue", "one", code=2).stderr
    assert run("delete-queue", "one", "-y").stdout == "Queue 'one' is deleted, with 1 message and 1 dead letter.\n"


@pytest.fixture
def complete(server_url, namespace, monkeypatch):
    """What the Tab key offers behind these words."""
    monkeypatch.setenv("PSMQ_URL", server_url)
    monkeypatch.setenv("PSMQ_NAMESPACE", namespace)

    def complete(*words, start=""):
        return [one.value for one in ShellComplete(psmq, {}, "psmq", "_PSMQ_COMPLETE").get_completions([*words], start)]

    return complete


def test_names_and_ids_are_completed_from_the_server(manager, complete):
    """Queues, tasks of dead letters, ends of ids; those that begin as typed."""
    dead = kill(manager.get_queue("mail"))[0][-8:]
    waiting = retry_later(manager.get_queue("shop"))[-8:]
    assert complete("peek") == ["mail", "shop"]
    assert complete("peek", start="s") == ["shop"]
    assert complete("dead", "list", "--queue") == ["mail", "shop"]
    assert complete("dead", "list", "--task") == ["mail:send"]
    assert complete("dead", "show") == [dead]
    assert complete("dead", "redrive", start=dead[:3]) == [dead]
    assert complete("retries", "now") == [waiting]
    assert "visibility_timeout=" in complete("configure", "mail", start="vis")


def test_a_worker_is_completed_too(manager, complete):
    """Files and folders for APP, as the shell has them; queues for -q."""
    manager.get_queue("mail")

    def offered(words, start):
        return ShellComplete(worker, {}, "psmq-worker", "_PSMQ_WORKER_COMPLETE").get_completions(words, start)

    assert [(one.value, one.type) for one in offered([], "sh")] == [("sh", "file")]
    assert [one.value for one in offered(["shop.py", "-q"], "")] == ["mail"]
    for shell in ("bash", "zsh", "fish"):
        script = CliRunner().invoke(psmq, ["completion", shell, "psmq-worker"]).stdout
        assert "_PSMQ_WORKER_COMPLETE" in script
        assert "psmq-worker" in script


def test_completion_is_silent_where_there_is_no_server(complete, monkeypatch, tmp_path, capfd):
    """A key that is pressed must not print an error."""
    monkeypatch.setenv("PSMQ_URL", f"unix://{tmp_path}/none")
    assert complete("peek") == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_scripts_of_the_shells_are_printed(shell):
    """They call psmq itself for what to offer."""
    result = CliRunner().invoke(psmq, ["completion", shell])
    assert result.exit_code == 0
    assert "_PSMQ_COMPLETE" in result.stdout
