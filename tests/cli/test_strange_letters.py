"""Dead letters that hold anything: each command says what they are, in one line or a table, and never a traceback."""

from __future__ import annotations

import json

import pytest
import redis

from psmq import id_random
from psmq_tasks.envelope import Keyring
from psmq_tasks.payload import dump_call, seal_call

SECRET = "0123456789abcdef0123456789abcdef"

COMMANDS = (
    "list", "list --json", "list --limit 0", "list --error x", "list --task x", "list --group-by error",
    "list --group-by task --json", "list --group-by reason", "list --group-by queue", "show {id}", "show {id} --json",
    "show {id} --body text", "show {id} --body json", "show {id} --body hex", "show {id} --decode",
    "show {id} --decode --json", "edit {id} --set 0=1", "edit {id} --set x=1 --redrive", "redrive {id} --to other -n",
    "export", "redrive --all --to other -y", "redrive --all -y", "purge --all -y",
)  # fmt: skip


@pytest.fixture
def queue(manager):
    return manager.get_queue("q")


@pytest.fixture
def keyring(monkeypatch):
    monkeypatch.setenv("PSMQ_SECRET", SECRET)
    return Keyring([SECRET.encode()])


def sealed(keyring, namespace, message_id, body, *, by_value=False, codec="pickle"):
    return seal_call(
        keyring, namespace=namespace, queue="q", random=id_random(message_id), task="shop:order", codec=codec,
        by_value=by_value, headers={}, body=body,
    )  # fmt: skip


def foreign(keyring, namespace, message_id, monkeypatch):
    """By value, from another Python: to unpickle it here would crash."""
    from psmq_tasks import payload

    monkeypatch.setattr(payload, "_TAG", b"cpython-39")
    data = sealed(keyring, namespace, message_id, dump_call(None, (1,), {})[0], by_value=True)
    monkeypatch.undo()
    monkeypatch.setenv("PSMQ_SECRET", SECRET)
    monkeypatch.setenv("COLUMNS", "80")
    return data


BODIES = {
    "nothing": b"",
    "bytes": bytes(range(256)),
    "terminal": b"\x1b]0;owned\x07\x1b[2J",
    "text": "Grüße \u202e".encode(),
    "json": b'{"task": "shop:order", "args": [1]}',
    "half json": b'{"task": "shop:order", "args": [1',
    "deep json": b"[" * 100_000,
    "half an envelope": b"psmq\x01\x01short",
    "a newer envelope": b"psmq\x63\x01" + b"x" * 80,
    "no such way of signing": b"psmq\x01\x07" + b"x" * 80,
    "an unsigned envelope": b"psmq\x01\x00" + b"x" * 80,
    "a forgery": b"psmq\x01\x01" + b"x" * 200,
}


def letter(queue, data=b"x", **options):
    message_id = queue.push(data, **options)
    queue.get().bury("why: x")
    return message_id


def tell(run, message_id):
    """Every command, on a copy of what was there; each ends as it says."""
    for words in COMMANDS:
        result = run("dead", *words.format(id=message_id).split(), code=AnyCode())
        assert "Traceback" not in result.output
        assert "\x1b" not in result.output
        if result.exit_code:
            assert result.stderr.startswith(("Error: ", "1 stay", "Nothing serves")) or "stay" in result.stderr, words
        elif "--json" in words:
            json.loads(result.stdout)


class AnyCode:
    """Equal to each exit code that psmq has."""

    def __eq__(self, other):
        return other in (0, 1, 2, 4)

    __hash__ = None


@pytest.mark.parametrize("what", BODIES)
def test_any_body_is_told_as_what_it_is(manager, queue, run, keyring, what):
    """Whatever a program, or nobody's program, has pushed."""
    manager.get_queue("other")
    tell(run, letter(queue, BODIES[what], metadata={"task": "shop:order\x1b[2J", "args": "\x07"}))


@pytest.mark.parametrize(
    "what", ["another Python", "no pickle", "half a pickle", "a pickle of something else", "no such module", "bad json"]
)
def test_a_signed_call_that_cannot_be_opened_here_is_told_and_moved(
    manager, queue, run, keyring, namespace, monkeypatch, what
):
    """It is never unpickled to be looked at or moved: another worker, or another Python, may run it."""
    other = manager.get_queue("other")
    message_id = letter(queue)
    bodies = {
        "no pickle": b"what",
        "half a pickle": dump_call(None, (1, 2), {})[0][:-4],
        "a pickle of something else": b"\x80\x05K\x01.",
        "no such module": b"cno_such_module\nthing\n.",
        "bad json": b"[[",
    }
    if what == "another Python":
        data = foreign(keyring, namespace, message_id, monkeypatch)
    else:
        codec = "json" if what == "bad json" else "pickle"
        data = sealed(keyring, namespace, message_id, bodies[what], codec=codec)
    queue.amend(message_id, data)
    assert run("dead", "show", message_id, "--decode", code=AnyCode()).stderr.startswith("Error: ")
    assert run("dead", "edit", message_id, "--set", "0=1", code=AnyCode()).stderr.startswith("Error: ")
    run("dead", "redrive", message_id, "--to", "other")
    moved = other.get()
    content, signed = keyring.open("task", namespace, "other", id_random(message_id), moved.data)
    assert signed
    assert content == data[38:]
    tell(run, letter(queue, data))


@pytest.mark.parametrize(
    "damage",
    [
        "no bytes",
        "bytes without a head",
        "a long head",
        "state",
        "no state",
        "reason",
        "failures",
        "failure json",
        "metadata",
    ],
)
def test_a_damaged_letter_is_told_and_purged(manager, queue, run, keyring, damage):
    """Somebody wrote into the keys."""
    manager.get_queue("other")
    message_id = letter(queue, b"body", metadata={"task": "t"})
    base = queue._address.base
    with redis.Redis.from_url(manager.url) as raw:
        if damage == "no bytes":
            raw.hdel(f"{base}:messages", message_id)
        elif damage in ("bytes without a head", "a long head", "metadata"):
            texts = {
                "bytes without a head": b"\xff\x00",
                "a long head": b"p" * 500 + b";x",
                "metadata": b"n99;\xff\x00\xfe",
            }
            raw.hset(f"{base}:messages", message_id, texts[damage])
        elif damage == "state":
            raw.hset(f"{base}:state", message_id, b"\xff what is this")
        elif damage == "no state":
            raw.hdel(f"{base}:state", message_id)
        elif damage == "reason":
            raw.hset(f"{base}:reasons", message_id, b"\xff\x1b[2J\n\n")
        else:
            texts = {"failures": b"\xff9:x", "failure json": b'15:{"attempt":"x"},4:\xff\x1b[2,2:[],'}
            raw.hset(f"{base}:failures", message_id, texts[damage])
    tell(run, message_id)
    assert queue.info().dead == 0


def test_an_id_that_is_none_is_told_and_purged(manager, queue, run, keyring):
    """A stranger's member among the dead."""
    manager.get_queue("other")
    with redis.Redis.from_url(manager.url) as raw:
        raw.zadd(f"{queue._address.base}:dead", {b"what \xff is\x1b[2J this": 1, "short": 5})
    tell(run, "short")
    assert queue.info().dead <= 1  # what is no text cannot be named


@pytest.mark.parametrize("to", ["q", "other"])
def test_ids_that_are_none_keep_no_other_letter_back(manager, queue, read, keyring, to):
    """Of any length and with spaces: they stay, and say why; what is ours is redriven."""
    manager.get_queue("other")
    ids = [letter(queue), letter(queue)]
    strange = ["stranger 1", "x" * 3000, "short", ""]
    with redis.Redis.from_url(manager.url) as raw:
        raw.zadd(f"{queue._address.base}:dead", dict.fromkeys(strange, 1))
        raw.hset(f"{queue._address.base}:messages", "short", ";with bytes")
    told = read("dead", "redrive", "--all", "-y", *(["--to", to] if to != "q" else []), code=1)
    assert (told["redriven"], told["gone"]) == (2, [])
    assert told["stayed"] == dict.fromkeys(strange, "its id is none of ours")
    assert sorted(message.message_id for message in manager.get_queue(to).get_many(9)) == sorted(ids)
