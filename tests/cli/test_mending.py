"""psmq retries now and bury, dead --group-by, edit, export, import: what is done about what failed."""

from __future__ import annotations

import base64
import json
import time

import pytest
from mishaps import failure, kill, retry_later

from psmq import Bury
from psmq_tasks import TaskApp
from psmq_tasks.history import Failure
from psmq_tasks.inspection import Calls, Inspector
from psmq_tasks.inspection.calls import original_of

SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def queue(manager):
    return manager.get_queue("q")


@pytest.fixture
def app(server_url, namespace, monkeypatch):
    """A sender with a key; its task's parameters are `item` and `count`."""
    monkeypatch.setenv("PSMQ_SECRET", SECRET)
    app = TaskApp("shop", url=server_url, namespace=namespace)

    @app.task(name="shop:order")
    def order(item, count, note=""):
        return item * count

    @app.task(name="shop:tell", codec="json")
    def tell(item):
        return item

    yield app
    app.close()


def fail(app, task, *args, **kwargs):
    """A call of it that is dead. → its id"""
    sent = app.tasks[task].delay(*args, **kwargs)
    app.queue("shop").get().bury("KeyError: 'tea'")
    return sent.id


# --- retries


def test_a_retry_runs_now(queue, run, read):
    """Ready at once, its attempt not counted twice."""
    message_id = retry_later(queue)
    assert run("retries", "now", message_id[-8:]).stdout == "1 message is ready.\n"
    assert queue.get().retrieval_count == 2
    other = retry_later(queue)
    assert read("retries", "now", other) == {"ready": 1, "gone": []}


def test_a_retry_is_given_up(queue, run):
    """It is a dead letter that says so."""
    message_id = retry_later(queue)
    assert run("retries", "bury", message_id[-8:], "--reason", "no use").stdout == "1 message is buried.\n"
    (letter,) = queue.dead_letters()
    assert (letter.message.message_id, letter.reason) == (message_id, "no use")


@pytest.mark.parametrize("verb", ["now", "bury"])
def test_an_unknown_retry_is_one_line(queue, run, verb):
    """Exit 4; nothing was done."""
    retry_later(queue)
    assert "psmq retries list shows them" in run("retries", verb, "zzzz", code=4).stderr
    assert queue.info().delayed == 1


# --- looking


def test_the_worst_group_is_on_top(manager, run, read):
    """By error, task, queue or reason, with the newest of each."""
    kill(manager.get_queue("a"), 3, task="mail:send", message="gateway 7")
    newest = kill(manager.get_queue("b"), 1, task="mail:fetch", message="gateway 8")[0]
    header, row = run("dead", "--group-by", "error").stdout.splitlines()
    assert header.split() == ["COUNT", "NEWEST", "ERROR", "ID", "REASON"]
    assert (row.split()[0], *row.split()[2:4]) == ("4", "ValueError", newest[-8:])
    assert [one["key"] for one in read("dead", "--group-by", "task")["groups"]] == ["mail:send", "mail:fetch"]
    assert [one["count"] for one in read("dead", "--group-by", "queue")["groups"]] == [3, 1]
    found = read("dead", "--group-by", "reason", "--task", "fetch")
    assert (found["total"], found["groups"][0]["key"]) == (1, "ValueError: gateway 8")
    assert run("dead", "--group-by", "error", "--task", "no").stderr == "No dead letters fit.\n"


def test_filters_by_reason_and_time(queue, run, read):
    """--reason looks into the reason alone; times are ages or ISO 8601."""
    old = kill(queue, message="old")[0]
    time.sleep(0.05)
    since = queue.dead_letters()[-1].buried.isoformat()
    time.sleep(0.05)
    new = kill(queue, message="new")[0]

    def listed(*words):
        return [one["id"] for one in read("dead", *words)["dead"]]

    assert listed("--reason", "NEW") == [new]
    assert listed("--since", "1h") == [old, new]
    assert listed("--until", "1h") == []
    assert listed("--until", queue.dead_letters()[-1].buried.isoformat()) == [old]
    assert listed("--since", since) == [old, new]
    assert read("dead", "redrive", "--since", "1h", "--dry-run")["found"] == 2
    assert run("dead", "purge", "--older-than", "1h", "-y").stdout == "No dead letters fit: nothing is purged.\n"
    for bad in ("yesterday", "5x", "-5m", "nan"):
        assert "must be how long ago" in run("dead", "--since", bad, code=2).stderr


def test_the_data_is_shown_as_what_it_is(manager, run):
    """Text, JSON or bytes; what it is not is said in a line."""
    ids = {}
    for name, data in {"text": b"hi\x1b[2J", "json": b'{"a": [1]}', "bytes": b"\x80\x04ok"}.items():
        ids[name] = kill(manager.get_queue("q"), data=data)[0]
    assert json.loads(run("dead", "show", ids["json"], "--body", "json").stdout) == {"a": [1]}
    assert run("dead", "show", ids["json"], "--body", "text").stdout == '{"a": [1]}\n'
    assert run("dead", "show", ids["bytes"], "--body", "hex").stdout.split() == [
        "00000000",
        "80",
        "04",
        "6f",
        "6b",
        "..ok",
    ]
    for name, form in (("bytes", "text"), ("bytes", "json"), ("text", "text"), ("text", "json")):
        assert "--body hex" in run("dead", "show", ids[name], "--body", form, code=1).stderr


def test_nothing_is_unpickled_that_is_not_signed(app, manager, run, read):
    """--decode opens what the key signed; anything else is a line that says what it is."""
    message_id = fail(app, "shop:order", "tea", count=2)
    assert read("dead", "show", message_id, "--decode")["decoded"] == {
        "task": "shop:order",
        "codec": "pickle",
        "signed": True,
        "args": ["'tea'"],
        "kwargs": {"count": "2"},
    }
    shown = run("dead", "show", message_id, "--decode").stdout
    assert "'tea'" in shown.partition("decoded")[2]
    data = Inspector(manager).find(message_id).data
    for other in (data, data[:-1] + b"x", b"psmq\x01\x00" + data[38:], b"\x80\x04.", b""):
        forged = kill(manager.get_queue("shop"), data=other)[0]
        result = run("dead", "show", forged, "--decode", code=1)
        assert len(result.stderr.splitlines()) == 1
        assert result.stdout == ""


# --- edit


def test_an_argument_is_changed_and_the_call_runs(app, manager, run):
    """Signed anew under the same id; the history keeps the original, who changed it and when."""
    message_id = fail(app, "shop:order", "tee", 2, note="x")
    before = Inspector(manager).find(message_id)
    result = run("dead", "edit", message_id[-8:], "--set", '0="tea"', "--set", 'note="y"')
    assert result.stdout == "shop:order('tea', 2, note='y') is stored.\n"
    letter = Inspector(manager).find(message_id)
    assert letter.args == "'tea', 2, note='y'"
    call = Calls(app.keyring, app.namespace).open(letter)
    assert (call.args, call.kwargs, call.sealed.signed) == (("tea", 2), {"note": "y"}, True)
    (edited,) = [one for one in letter.failures if one.outcome == "edited"]
    assert edited.message == "('tee', 2, note='x') is now ('tea', 2, note='y')"
    assert "@" in edited.decision
    assert original_of(edited) == before.data
    (row,) = [line for line in run("dead", "show", message_id).stdout.splitlines() if "edited" in line]
    assert row.split()[2] == "-"  # a change by hand took no time
    assert "original" not in run("dead", "show", message_id).stdout


def test_the_original_of_an_edited_letter_can_be_seen(app, manager, run, read):
    """That of the first edit: opened, as bytes, and in --json; what was never edited has none."""
    message_id = fail(app, "shop:tell", "tee")
    assert read("dead", "show", message_id)["original"] is None
    assert "was not edited" in run("dead", "show", message_id, "--original", "--decode", code=1).stderr
    before = run("dead", "show", message_id, "--body", "hex").stdout
    data = Inspector(manager).find(message_id).data
    for now in ('"tea"', '"coffee"'):
        run("dead", "edit", message_id, "--set", f"0={now}")
    assert run("dead", "show", message_id, "--original", "--body", "hex").stdout == before
    assert run("dead", "show", message_id, "--body", "hex").stdout != before
    found = read("dead", "show", message_id, "--original", "--decode")
    assert found["original"] == {"data": None, "data_base64": base64.b64encode(data).decode()}
    assert found["decoded"]["args"] == ["'tee'"]
    shown = run("dead", "show", message_id, "--original", "--decode").stdout.splitlines()
    assert [line.split() for line in shown[2:5]] == [
        ["arguments", "'coffee'"],
        ["original", "signed"],
        ["[0]", "'tee'"],
    ]
    assert "--original --decode shows what it was before" in run("dead", "show", message_id).stderr
    assert "--body or --decode" in run("dead", "show", message_id, "--original", code=2).stderr


@pytest.mark.parametrize("original", ["x", "é", "AAAA"])
def test_an_original_that_a_stranger_wrote_is_none(manager, run, read, original):
    """The letter is shown as ever."""
    queue = manager.get_queue("q")
    queue.push(b"x")
    queue.exchange([(queue.get(), Bury("why", failure=failure(original=original)))])
    (letter,) = queue.dead_letters()
    assert read("dead", "show", letter.message.message_id)["original"] is None
    run("dead", "show", letter.message.message_id, "--original", "--body", "hex", code=1)


def test_edited_and_redriven_is_one_step(app, manager, run, read):
    """--json-args replaces all; JSON calls stay JSON."""
    message_id = fail(app, "shop:tell", "tee")
    found = read("dead", "edit", message_id, "--json-args", "-", "--redrive", input='["tea"]')
    assert found == {"edited": message_id, "args": "'tea'", "redriven": True}
    assert app.queue("shop").info().ready == 1
    assert app.queue("shop").get().data.endswith(b'[["tea"],{}]')


def test_a_bad_edit_changes_nothing(app, manager, run):
    """What is wrong is said in one line that names the fix."""
    message_id = fail(app, "shop:tell", "tee")
    before = Inspector(manager).find(message_id)
    for words, code, said in (
        ([], 2, "--set NAME=JSON"),
        (["--set", "item"], 2, "NAME=JSON"),
        (["--set", "item=tea"], 2, "item='\"tea\"'"),
        (["--set", "item=1"], 2, "say which of 0"),
        (["--set", "7=1"], 2, "argument 7 is not there"),
    ):
        result = run("dead", "edit", message_id, *words, code=code)
        assert said in result.stderr
        assert len(result.stderr.splitlines()) == 1
    for text in ("", "3", '{"x": 1}', '{"args": 1}'):
        assert "json-args" in run("dead", "edit", message_id, "--json-args", "-", code=2, input=text).stderr
    assert Inspector(manager).find(message_id) == before


def test_a_name_is_found_by_the_signature(app, manager, run, tmp_path, monkeypatch):
    """Where the task's module can be imported; a name that it does not have is refused."""
    (tmp_path / "orders_to_edit.py").write_text("def order(item, count):\n    return item * count\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    @app.task(name="orders_to_edit:order")
    def order(item, count):
        return item * count

    message_id = fail(app, "orders_to_edit:order", "tee", 2)
    run("dead", "edit", message_id, "--set", "count=3")
    assert Inspector(manager).find(message_id).args == "'tee', 3"
    assert "argument 'size' is none of" in run("dead", "edit", message_id, "--set", "size=3", code=2).stderr


def test_an_original_that_is_too_large_is_not_dropped_unasked(app, manager, run):
    """It says how to keep it, and how to do without."""
    import random

    message_id = fail(app, "shop:order", random.Random(1).randbytes(60_000), 2)
    assert "--drop-original" in run("dead", "edit", message_id, "--set", "1=3", code=1).stderr
    run("dead", "edit", message_id, "--set", "1=3", "--drop-original")
    letter = Inspector(manager).find(message_id)
    assert original_of(letter.failures[-1]) == b""


def test_records_of_before_can_still_be_read():
    """A history may have been written by an older psmq: it has no originals."""
    packed = Failure(1, "raised", "E", "m", "", 0.0, 0.0, "h", 1, "t", "d").pack()
    assert b"original" not in packed
    assert Failure.unpack(packed).original == ""


# --- export and import


def test_what_was_purged_comes_back(app, manager, run, tmp_path):
    """Same ids, reasons, histories and signatures; it can be redriven and run."""
    message_id = fail(app, "shop:order", "tea", 2)
    kill(manager.get_queue("q"), 120, attempts=2)
    file = tmp_path / "dead.jsonl"
    assert run("dead", "export", message_id, "-o", file).stderr == "1 dead letter exported.\n"
    assert run("dead", "import", file).stderr == "1 was there already.\n"
    assert run("dead", "export", "-o", file).stderr == "121 dead letters exported.\n"
    inspector = Inspector(manager)
    before = list(inspector.dead())
    run("dead", "purge", "--all", "-y")
    assert run("dead", "import", file).stdout == "121 dead letters imported.\n"
    assert list(inspector.dead()) == before
    result = run("dead", "import", file)
    assert (result.stdout, result.stderr) == ("0 dead letters imported.\n", "121 were there already.\n")
    assert Calls(app.keyring, app.namespace).open(inspector.find(message_id)).args == ("tea", 2)


def test_letters_are_exported_by_id_and_filter(queue, run):
    """To stdout, one document a line, with what people look for in plain words."""
    one = kill(queue, message="yes")[0]
    two = kill(queue, message="no")[0]
    for words, expected in (([one[-8:]], one), (["--error", "no"], two)):
        (line,) = run("dead", "export", *words).stdout.splitlines()
        found = json.loads(line)
        assert (found["id"], found["queue"], found["task"]) == (expected, "q", "mail:send")


@pytest.mark.parametrize("bad", ["{", "[]", '{"psmq_dead_letter": 2}', '{"psmq_dead_letter": 1, "id": 3}'])
def test_a_file_that_is_none_of_ours_is_refused_whole(queue, run, bad):
    """Checked to its end before the first letter is stored."""
    kill(queue)
    line = run("dead", "export").stdout
    run("dead", "purge", "--all", "-y")
    assert "line 2 was not written by psmq dead export" in run("dead", "import", code=1, input=line + bad).stderr
    assert queue.info().dead == 0


def test_an_import_for_a_queue_that_is_gone_says_so(manager, queue, run):
    """Nothing is stored, also not for the others."""
    kill(queue)
    kill(manager.get_queue("other"))
    lines = run("dead", "export").stdout
    run("dead", "purge", "--all", "-y")
    manager.delete_queue("q")
    assert "there is no queue 'q'" in run("dead", "import", code=4, input=lines).stderr
    assert manager.queue_info("other").dead == 0


def test_a_redrive_keeps_its_rate(queue, run):
    """Ten at 50 in a second take about a fifth of one, and never less."""
    kill(queue, 10)
    began = time.monotonic()
    assert run("dead", "redrive", "--all", "--rate", 50, "-y").stdout == "10 dead letters redriven.\n"
    assert time.monotonic() - began >= 0.19
    for bad in ("0", "-1", "fast"):
        assert "--rate" in run("dead", "redrive", "--all", "--rate", bad, code=2).stderr


def test_ids_go_at_that_rate_too(manager, queue, run):
    """Of whichever queues, and into another one."""
    ids = [*kill(queue, 5), *kill(manager.get_queue("other"), 5)]
    for words in ((), ("--to", "q")):
        began = time.monotonic()
        assert "10 dead letters redriven" in run("dead", "redrive", *ids, "--rate", 50, *words).stdout
        assert time.monotonic() - began >= 0.19
        for name in ("q", "other"):
            for message in manager.get_queue(name).get_many(10):
                message.bury("again")
