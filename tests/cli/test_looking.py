"""psmq queues, peek, retries, pause and resume."""

from __future__ import annotations

import re

from mishaps import kill, retry_later

TABLE = """\
QUEUE  READY  DELAYED  LEASED  DEAD  IN/S  OUT/S  OLDEST  CONSUMERS
mail       0        0       0     2  0.0N      0       -          1
shop       0        1       0     0  0.0N      0       -     paused
"""


def test_queues_are_listed_with_their_counts(manager, run, read):
    """Plain and whole where nobody watches; the same numbers as JSON."""
    kill(manager.get_queue("mail"), 2)
    shop = manager.get_queue("shop")
    shop.push(b"x", delay=60)
    shop.pause()
    # One or two in the last minute or two.
    assert re.sub(r"0\.0\d", "0.0N", run("queues").stdout) == TABLE
    mail, shop = read("queues")["queues"]
    assert 1 / 60 <= mail["pushed_rate"] <= 2 / 60
    assert shop["done_rate"] == 0
    assert (mail["name"], mail["dead"], shop["delayed"], shop["paused"]) == ("mail", 2, 1, True)


def test_a_server_without_queues_is_no_error(run, read, server_url, namespace):
    """It says where it looked: in which namespace, and which one there is otherwise."""
    result = run("queues")
    assert result.stdout == ""
    where = f"{server_url}, in namespace {namespace!r} (the default is 'psmq')"
    assert result.stderr == f"There are no queues on {where}: the first push makes one.\n"
    assert where in run("stats").stderr
    assert where in run("workers").stderr
    assert read("queues") == {"queues": []}


def test_peek_shows_what_the_next_get_would_give(manager, run, read):
    """Calls of tasks by name and arguments, text as text, the rest by its size; nothing is taken."""
    queue = manager.get_queue("q")
    queue.push(b"\x80\x81" * 50, metadata={"task": "mail:send", "args": "'a', copies=3"})
    queue.push(b"hello\nworld")
    queue.push(b"\xff\xfe\xfd")
    lines = run("peek", "q").stdout.splitlines()
    assert lines[0].split() == ["ID", "AGE", "ATTEMPTS", "PRIORITY", "MESSAGE"]
    assert [line.split("  ")[-1] for line in lines[1:]] == [
        "mail:send('a', copies=3)",
        r"hello\nworld",
        "3 bytes, not text",
    ]
    assert len(run("peek", "q", "-n", 1).stdout.splitlines()) == 2
    assert read("peek", "q", "-n", 2)["messages"][1]["data"] == "hello\nworld"
    assert queue.info().ready == 3


def test_peek_shows_the_other_states_too(manager, run):
    """And says so where there is nothing."""
    queue = manager.get_queue("q")
    assert run("peek", "q").stderr == "Queue 'q' has no ready messages.\n"
    queue.push(b"later", delay=100)
    assert run("peek", "q").stderr == "Queue 'q' has no ready messages; 1 is delayed: --state delayed.\n"
    kill(queue, 2)
    shown = run("peek", "q", "--state", "leased").stderr
    assert shown == ("Queue 'q' has no leased messages; 1 is delayed: --state delayed; 2 are dead: --state dead.\n")
    assert "READY IN" in run("peek", "q", "--state", "delayed").stdout


def test_what_senders_wrote_cannot_steer_a_terminal(manager, run):
    """Escape sequences and line ends are spelled out, in every column."""
    queue = manager.get_queue("q")
    kill(queue, task="evil\x1b[2J:task", args="\x1b]0;title\x07", message="one\ntwo\x9b31m")
    (message_id,) = kill(queue, args="\x1b[31m")
    queue.push(b"\x1b[31mred")
    for words in (["peek", "q"], ["dead"], ["dead", "show", message_id], ["retries"]):
        shown = run(*words).output
        assert "\x1b" not in shown
        assert "\x9b" not in shown
        assert "\x07" not in shown
    assert r"one\ntwo\x9b31m" in run("dead").stdout


def test_retries_alone_means_list(manager, run, read):
    """What waits, when it is next, how many attempts of how many, what went wrong last."""
    queue = manager.get_queue("q")
    message_id = retry_later(queue, 7200, message="gateway busy", max_retrievals=4)
    queue.push(b"x", delay=60)
    for words in (["retries"], ["retries", "list"], ["retries", "--queue", "q"]):
        header, row = run(*words).stdout.splitlines()
        assert header.split("  ")[0] == "ID"
        assert row.startswith(message_id[-8:])
        assert "1/4  mail:send(1)  ValueError: gateway busy" in row
        assert "2h00m" in row or "1h59m" in row
    document = read("retries")
    assert (document["total"], document["retries"][0]["id"]) == (1, message_id)
    assert document["retries"][0]["due"].endswith("+00:00")


def test_retries_name_the_queue_where_there_are_several(manager, run):
    """And say so when there are none, or more than are shown."""
    assert run("retries").stderr == "Nothing waits for another attempt.\n"
    for name in ("a", "b"):
        retry_later(manager.get_queue(name))
    assert "QUEUE" in run("retries").stdout
    for limit in ("--limit", "-n"):
        assert run("retries", limit, 1).stderr == "1 of 2 are shown; --limit 0 shows all.\n"


def test_a_paused_queue_delivers_nothing_until_it_is_resumed(manager, run, read):
    """For every client at once; and get says that this is why."""
    queue = manager.get_queue("q")
    queue.push(b"x")
    assert "psmq resume q" in run("pause", "q").stdout
    assert queue.get() is None
    assert run("get", "q", code=1).stderr == "Queue 'q' is paused: psmq resume q ends that.\n"
    run("resume", "q")
    assert queue.get() is not None
    assert read("pause", "q") == {"queue": "q", "paused": True}
    assert read("resume", "q") == {"queue": "q", "paused": False}


def test_a_missing_queue_is_one_line_and_4(manager, run):
    """Which names the way to those there are; and it stays missing."""
    for words in (["peek", "q"], ["retries", "-q", "q"], ["pause", "q"], ["dead", "-q", "q"], ["resume", "q"]):
        result = run(*words, code=4)
        assert result.stderr == "Error: there is no queue 'q': psmq queues lists those there are\n"
    assert manager.list_queues() == []


def test_a_trace_tells_the_life_of_a_message(manager, run, read):
    """Pushed by whom, tried when, each attempt, and where it is now; in every state that is not the end."""
    queue = manager.get_queue("q")
    dead = kill(queue, message="no such address", attempts=2)[0]
    waiting = retry_later(queue)
    leased = queue.push(b"x")
    queue.get()
    ready = queue.push(b"y")
    for message_id, state in ((dead, "dead"), (waiting, "delayed"), (leased, "leased"), (ready, "ready")):
        found = read("trace", message_id[-8:])
        assert (found["id"], found["state"]) == (message_id, state)
    shown = run("trace", dead).stdout
    for text in (
        "mail:send('a@example.org')",
        "by host:1",
        "2",
        "dead since",
        "no such address",
        "again in 0 s",
        "gave up",
    ):
        assert text in shown
    assert "ready in" in run("trace", waiting).stdout
    assert "lease ends in" in run("trace", leased).stdout
    assert "never" in run("trace", ready).stdout
    queue.get().delete()
    assert "an event_log" in run("trace", ready, code=4).stderr
