"""psmq dead: list, show, redrive, purge."""

from __future__ import annotations

import pytest
from mishaps import kill

from psmq import NewMessage


@pytest.fixture
def queue(manager):
    return manager.get_queue("q")


def test_the_newest_dead_letters_are_at_the_bottom(queue, run, read):
    """Id's end, age, attempts, queue, task, reason; `dead` alone means list."""
    first = kill(queue, message="one", attempts=2)[0]
    second = kill(queue, message="two")[0]
    header, *rows = run("dead").stdout.splitlines()
    assert header.split() == ["ID", "AGE", "ATTEMPTS", "QUEUE", "TASK", "REASON"]
    assert [row.split()[0] for row in rows] == [first[-8:], second[-8:]]
    assert rows[0].split()[2:] == ["2", "q", "mail:send", "ValueError:", "one"]
    assert run("dead", "list").stdout.splitlines()[0] == header
    document = read("dead")
    assert [one["id"] for one in document["dead"]] == [first, second]
    assert document["total"] == 2


def test_a_listing_says_when_there_is_more(queue, run, read):
    """--limit 0 shows all, in JSON one document however long."""
    kill(queue, 120)
    result = run("dead", "--limit", 2)
    assert len(result.stdout.splitlines()) == 3
    assert run("dead", "-n", 2).stderr == run("dead", "list", "-n", 2).stderr == result.stderr
    assert result.stderr == "The newest 2 of 120 are shown; --limit 0 shows all; --skip 2 shows older ones.\n"
    assert run("dead", "--limit", 2, "--skip", 119).stderr == "1 of 120 are shown; --limit 0 shows all.\n"
    assert len(run("dead", "--limit", 0, "-q", "q").stdout.splitlines()) == 121
    document = read("dead", "--limit", 0)
    assert (len(document["dead"]), document["total"]) == (120, 120)


def test_filters_choose_what_is_listed(queue, run):
    """By task and error; nothing found is no error."""
    kill(queue, task="mail:send", message="gateway")
    kill(queue, task="mail:fetch", message="timeout")
    assert "fetch" not in run("dead", "--task", "send").stdout
    assert "send" not in run("dead", "--error", "TIMEOUT").stdout
    result = run("dead", "--task", "nothing")
    assert (result.stdout, result.stderr) == ("", "No dead letters fit.\n")


def test_one_letter_is_shown_with_all_that_is_known(queue, run, read):
    """What was called, each attempt, the last traceback, and what can be done next."""
    (message_id,) = kill(queue, message="no such address", attempts=2)
    result = run("dead", "show", message_id[-6:])
    for text in (
        message_id,
        "mail:send",
        "'a@example.org'",
        "by host:1",
        "again in 0 s",
        "gave up",
        "Traceback of attempt 2:",
        'File "mail.py", line 7, in send',
    ):
        assert text in result.stdout
    assert f"psmq dead redrive {message_id[-8:]}" in result.stderr
    assert read("dead", "show", message_id)["failures"][1]["message"] == "no such address"


def test_a_letter_that_is_no_task_is_shown_too(queue, run):
    """Queues without tasks have dead letters as well."""
    message_id = queue.push(b"plain")
    queue.get().bury("no use")
    shown = run("dead", "show", message_id).stdout
    assert "none: it is no call of a task" in shown
    assert "no use" in shown


def test_letters_go_back_by_id(queue, run, read):
    """Several, by their ends; who serves the queue is no secret."""
    one, two, three = (kill(queue)[0] for _ in range(3))
    assert run("dead", "redrive", one[-8:], two).stdout == "2 dead letters redriven.\n"
    assert queue.info().ready == 2
    assert read("dead", "redrive", three) == {
        "redriven": 1, "found": 1, "gone": [], "dry_run": False, "stayed": {},
    }  # fmt: skip


def test_a_redriven_letter_that_nobody_waits_for_says_so(manager, queue, run, raw_server, namespace):
    """Otherwise people wait for a result that cannot come."""
    (message_id,) = kill(queue)
    raw_server.delete(f"{namespace}:{{q}}:consumers")
    assert "Nothing serves queue 'q' now" in run("dead", "redrive", message_id).stderr


def test_a_letter_may_go_back_for_one_attempt_only(queue, run):
    """--keep-attempts does not count anew."""
    (message_id,) = kill(queue, attempts=2)
    run("dead", "redrive", message_id, "--keep-attempts")
    assert queue.get().retrieval_count == 3


def test_many_go_back_by_filter(queue, run):
    """-y answers the question; --limit bounds it."""
    kill(queue, 3, message="yes")
    kill(queue, 2)
    assert run("dead", "redrive", "--error", "yes", "-y", "--limit", 2).stdout == "2 dead letters redriven.\n"
    assert run("dead", "redrive", "--error", "yes", "-y").stdout == "1 dead letter redriven.\n"
    assert run("dead", "redrive", "--error", "yes", "-y").stdout == "No dead letters fit: nothing is redriven.\n"
    assert queue.info().dead == 2
    assert run("dead", "redrive", "--all", "--queue", "q", "-y").stdout == "2 dead letters redriven.\n"


@pytest.mark.parametrize(("verb", "done"), [("redrive", "redriven"), ("purge", "purged")])
def test_a_dry_run_only_counts(queue, run, read, verb, done):
    """Nothing moves, and nothing is asked."""
    kill(queue, 3)
    assert run("dead", verb, "--all", "--dry-run").stdout == f"3 dead letters would be {done}.\n"
    stayed = {"stayed": {}} if verb == "redrive" else {}
    assert read("dead", verb, "--all", "--dry-run") == {done: 0, "found": 3, "gone": [], "dry_run": True, **stayed}
    assert queue.info().dead == 3


@pytest.mark.parametrize("words", [["redrive", "--all"], ["purge", "--all"], ["purge", "ID"]])
def test_without_a_terminal_and_without_y_nothing_is_done(queue, run, words):
    """A script never hangs on a question, and never does by accident what it did not say."""
    (message_id,) = kill(queue)
    result = run("dead", *[message_id if word == "ID" else word for word in words], code=2)
    assert "Nothing was done" in result.stderr
    assert "-y" in result.stderr
    assert queue.info().dead == 1


def test_a_redrive_of_ids_does_not_ask(queue, run):
    """And its help says so; what ids name is few, and a redrive loses nothing."""
    (message_id,) = kill(queue)
    assert run("dead", "redrive", message_id).stdout == "1 dead letter redriven.\n"
    assert "Asks first where --all or filters choose." in run("dead", "redrive", "--help").stdout


def test_purged_letters_are_gone(queue, run):
    """By id or filter."""
    one = kill(queue)[0]
    kill(queue, 2)
    assert run("dead", "purge", one[-8:], "-y").stdout == "1 dead letter purged.\n"
    assert run("dead", "purge", "--all", "-y").stdout == "2 dead letters purged.\n"
    assert queue.info().dead == 0


def test_what_is_meant_must_be_said(run):
    """Neither nothing nor two things; said before any server is asked."""
    for words in (["redrive"], ["purge"], ["redrive", "--queue", "q"], ["redrive", "abc", "--all"]):
        result = run("dead", *words, code=2)
        assert len(result.stderr.splitlines()) == 1
        assert f"psmq dead {words[0]} --help" in result.stderr


def test_an_ambiguous_id_names_the_candidates(queue, run):
    """And does nothing, exit 2; an unknown one is 4."""
    queue.push_many([NewMessage(b"", random=random) for random in ("00000000abc", "00000000xbc")])
    for message in queue.get_many(2):
        message.bury("why")
    result = run("dead", "redrive", "bc", code=2)
    assert "00000000abc" in result.stderr
    assert "00000000xbc" in result.stderr
    queue.push_many([NewMessage(b"", random=f"000000{number}xbc") for number in range(10, 20)])
    for message in queue.get_many(10):
        message.bury("why")
    assert run("dead", "redrive", "bc", code=2).stderr.rstrip().endswith(" and 4 more")
    for words in (["show", "zzz"], ["redrive", "abc", "zzz"]):
        assert "psmq dead list" in run("dead", *words, code=4).stderr
    assert queue.info().dead == 12
