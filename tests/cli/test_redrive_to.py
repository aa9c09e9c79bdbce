"""psmq dead redrive --to: into another queue, signed for it, and completed when it was broken off."""

from __future__ import annotations

import os
import signal
import subprocess
import sysconfig
from pathlib import Path

import pytest
from mishaps import kill
from support import wait_until

from psmq_tasks import TaskApp
from psmq_tasks.inspection import Calls, Inspector
from psmq_tasks.payload import open_call

SECRET = "0123456789abcdef0123456789abcdef"
PSMQ = Path(sysconfig.get_path("scripts"), "psmq")


@pytest.fixture
def queue(manager):
    return manager.get_queue("q")


@pytest.fixture
def slow(manager):
    return manager.get_queue("slow")


@pytest.fixture
def app(server_url, namespace, monkeypatch):
    """A sender with a key, whose queue is "shop"."""
    monkeypatch.setenv("PSMQ_SECRET", SECRET)
    app = TaskApp("shop", url=server_url, namespace=namespace)

    @app.task(name="shop:order")
    def order(item):
        return item

    yield app
    app.close()


def fail(app, *args):
    """A call that is dead. → its id"""
    sent = app.tasks["shop:order"].delay(*args)
    app.queue("shop").get().bury("KeyError: 'tea'")
    return sent.id


def open_there(app, namespace, message):
    """The call, if it is signed for the queue that it is in."""
    random = message.message_id[11:]
    return open_call(app.keyring, message.data, namespace=namespace, queue=message.queue_name, random=random)


def test_a_call_runs_in_another_queue(app, slow, run, namespace):
    """The same call, signed for that queue; one line says where it is, and whether somebody serves it."""
    message_id = fail(app, "tea")
    result = run("dead", "redrive", message_id[-8:], "--to", "slow")
    assert result.stdout == "1 dead letter redriven to queue 'slow'.\n"
    assert "Nothing serves queue 'slow' now" in result.stderr
    message = slow.get()
    sealed = open_there(app, namespace, message)
    assert (message.message_id, sealed.task, sealed.signed) == (message_id, "shop:order", True)


def test_bytes_that_carry_no_signature_go_unchanged(queue, slow, read):
    """Whatever they are; filters choose, as everywhere."""
    kill(queue, 2, message="this", data=b"psmq")
    kill(queue, 1, message="that")
    found = read("dead", "redrive", "--error", "this", "--to", "slow", "-y")
    assert found == {"redriven": 2, "found": 2, "gone": [], "dry_run": False, "to": "slow", "stayed": {}}
    assert [message.data for message in slow.get_many(9)] == [b"psmq"] * 2
    assert queue.info().dead == 1


def test_what_another_key_signed_stays(app, slow, run, read, monkeypatch):
    """This key must not vouch for it; exit 1, and the line says what to set."""
    message_id = fail(app, "tea")
    for secret in ("another key that is none of theirs", None):
        monkeypatch.setenv("PSMQ_SECRET", secret) if secret else monkeypatch.delenv("PSMQ_SECRET")
        result = run("dead", "redrive", message_id, "--to", "slow", code=1)
        assert "1 stays dead" in result.stderr
        assert "PSMQ_SECRET" in result.stderr
    assert list(read("dead", "redrive", "--all", "-y", "--to", "slow", code=1)["stayed"]) == [message_id]
    assert slow.info().ready == 0
    monkeypatch.setenv("PSMQ_SECRET", SECRET)
    run("dead", "redrive", message_id, "--to", "slow")


def test_an_unknown_queue_is_one_line(queue, run):
    """Exit 4; it is not made, and the letters stay."""
    (message_id,) = kill(queue)
    for words in ((message_id,), ("--all", "-y"), ("--all", "--dry-run")):
        assert "psmq queues lists those there are" in run("dead", "redrive", *words, "--to", "no", code=4).stderr
    assert queue.info().dead == 1


def test_to_its_own_queue_is_a_redrive(queue, slow, run):
    """Of all queues, those of the target go back to work where they are."""
    kill(queue, 2)
    kill(slow, 3)
    assert "5 dead letters redriven" in run("dead", "redrive", "--all", "--to", "slow", "-y").stdout
    assert (queue.info().dead, slow.info().ready, slow.info().dead) == (0, 5, 0)


def test_a_dry_run_moves_nothing(queue, slow, run):
    """It says how many."""
    kill(queue, 2)
    assert run("dead", "redrive", "--all", "--to", "slow", "--dry-run").stdout == (
        "2 dead letters would be redriven to queue 'slow'.\n"
    )
    assert (queue.info().dead, slow.info().ready) == (2, 0)


def test_limit_and_attempts_count_as_always(manager, queue, slow, run):
    """--limit takes the oldest, --keep-attempts gives one more."""
    ids = kill(queue, 3, attempts=2)
    run("dead", "redrive", "--all", "--limit", 2, "--to", "slow", "-y", "--keep-attempts")
    got = slow.get_many(9)
    assert [(one.message_id, one.retrieval_count) for one in got] == [(one, 3) for one in ids[:2]]
    got[0].release()
    assert slow.info().dead == 1


def test_a_full_queue_takes_what_fits(manager, queue, run):
    """Exit 1; the rest is dead, and says why."""
    small = manager.get_queue("small", max_length=2)
    kill(queue, 5)
    result = run("dead", "redrive", "--all", "--to", "small", "-y", code=1)
    assert "2 dead letters redriven" in result.stdout
    assert "3 stay dead" in result.stderr
    assert "max_length" in result.stderr
    assert (queue.info().dead, small.info().ready) == (3, 2)


@pytest.mark.parametrize("how", ["the same command", "the same filter", "--unfinished"])
@pytest.mark.parametrize("step", ["departed", "arrived", "left", "admitted"])
def test_killed_in_the_middle_the_same_command_completes_it(app, slow, run, server_url, namespace, manager, step, how):
    """kill -9 between any two of its calls; an audit names the command that completes it."""
    message_id = fail(app, "tea")
    words = [*(["--all", "-y"] if how == "the same filter" else [message_id[-10:]]), "--to", "slow"]
    done = subprocess.run(
        [PSMQ, "dead", "redrive", *words, "-u", server_url, "--namespace", namespace],
        env={**os.environ, "PSMQ_KILL_AT": f"transfer.{step}:1"}, stdin=subprocess.DEVNULL, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    told = "".join(run("doctor", "--audit", name).stdout for name in ("shop", "slow"))
    assert "psmq dead redrive --unfinished -q" in run("doctor", code=1).stdout
    assert "psmq dead redrive --unfinished -q" in told
    if how == "--unfinished":
        run("dead", "redrive", "--unfinished")
        if step in ("departed", "arrived"):
            assert app.queue("shop").info().dead == 1
            run("dead", "redrive", *words)
    else:
        assert "1 " in run("dead", "redrive", *words).output
    message = slow.get()
    assert open_there(app, namespace, message).signed
    assert slow.get() is None
    assert app.queue("shop").info().dead == 0
    for name in ("shop", "slow"):
        assert all(found.level == "fine" for found in manager.audit(name))


def test_nothing_was_broken_off(queue, run, read):
    """It says so; and it takes no letters."""
    (message_id,) = kill(queue)
    assert run("dead", "redrive", "--unfinished").stdout == "No dead letter was on its way to another queue.\n"
    assert read("dead", "redrive", "--unfinished", "-q", "q") == {"finished": []}
    run("dead", "redrive", "--unfinished", message_id, code=2)
    run("dead", "redrive", "--unfinished", "-q", "no", code=4)


def test_unfinished_takes_no_other_choice(app, slow, run, server_url, namespace, manager):
    """What it would not heed is refused and named, above all a dry run; nothing moves."""
    message_id = fail(app, "tea")
    done = subprocess.run(
        [PSMQ, "dead", "redrive", message_id, "--to", "slow", "-u", server_url, "--namespace", namespace],
        env={**os.environ, "PSMQ_KILL_AT": "transfer.left:1"}, stdin=subprocess.DEVNULL, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    for words, named in (
        (["--dry-run"], "--dry-run; psmq doctor shows what is on its way"),
        (["--to", "slow", "--limit", 1, "--rate", 2, "--keep-attempts"], "--to, --keep-attempts, --rate, --limit"),
        ([message_id, "--all", "--error", ""], "IDs, --all, --error"),
    ):
        (line,) = run("dead", "redrive", "--unfinished", *words, code=2).stderr.splitlines()
        assert line == f"Error: --unfinished goes with --queue only, not with {named} (psmq dead redrive --help)"
    run("dead", "redrive", "--unfinished", code=2, env={"PSMQ_DEAD_REDRIVE_DRY_RUN": "1"})
    assert slow.info().ready == 0
    words = ("-q", "slow", "-y", "--json")
    assert message_id in run("dead", "redrive", "--unfinished", *words).stdout
    assert slow.info().ready == 1


def test_programs_do_the_same(app, slow, manager, namespace):
    """Inspector.redrive with ``to`` and the ``Calls`` that sign."""
    message_id = fail(app, "tea")
    inspector = Inspector(manager)
    stayed = inspector.redrive([("shop", message_id)], to="slow")
    assert (stayed.done, list(stayed.stayed)) == (0, [message_id])
    mended = inspector.redrive([("shop", message_id)], to="slow", calls=Calls(app.keyring, namespace))
    assert (mended.done, mended.queues) == (1, ("slow",))
    assert open_there(app, namespace, slow.get()).task == "shop:order"


def test_its_life_is_told_over_both_queues(manager, run, read):
    """With event logs: where it went and where it came from; and what was dropped because it was kept long enough."""
    queue, slow = manager.get_queue("q", event_log=100), manager.get_queue("slow", event_log=100)
    (message_id,) = kill(queue)
    run("dead", "redrive", message_id, "--to", "slow")
    told = read("trace", message_id)
    assert [event["verb"] for event in told["events"]] == ["pushed", "delivered", "buried", "departed", "arrived"]
    assert (told["queue"], told["state"]) == ("slow", "ready")
    shown = run("trace", message_id).stdout
    assert "went to queue slow" in shown
    assert "came from queue q" in shown
    slow.get().bury("why")
    slow.configure(dead_retention=0.001)
    wait_until(lambda: slow.get() or slow.info().counters["outlived"])
    assert read("trace", message_id)["state"] == "outlived"
    assert "dead_retention" in run("trace", message_id).stdout
