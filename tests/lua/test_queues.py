"""queues.lua: a queue as a thing."""

import pytest
import redis

from psmq import QueueConfig, library
from psmq.commands import draw_randoms

DEFAULTS = QueueConfig().wire()


class Name:
    """A name that has no queue yet."""

    def __init__(self, server):
        self.server = server
        self.base = "psmq:{new-" + draw_randoms(1)[0] + "}"

    def create(self, how="ensure", explicit=(), revision=None, **settings):
        given = {**{name: DEFAULTS[name] for name in explicit}, **settings}
        rest = {name: value for name, value in DEFAULTS.items() if name not in given}
        words = [word for pair in (given | rest).items() for word in pair]
        return self.call("create_queue", how, len(given), *words, revision=revision)

    def call(self, function, *args, revision=None):
        revision = library.revision() if revision is None else revision
        keys = (self.base, f"{self.base}:never")
        return self.server.execute_command("FCALL", f"psmq_v1_{function}", 2, *keys, "", revision, *args)

    def stored(self):
        return {name.decode(): value.decode() for name, value in self.server.hgetall(self.base).items()}


@pytest.fixture
def name(raw_server, queue):
    found = Name(raw_server)
    yield found
    keys = list(raw_server.scan_iter(f"{found.base}*"))
    if keys:
        raw_server.delete(*keys)


def test_a_queue_is_made_once(name):
    """The first makes it and says so; whoever agrees opens it."""
    assert name.create()[0] == 1
    before = name.stored()
    assert name.create()[0] == 0
    assert name.create(explicit=("delay", "max_size"))[0] == 0
    assert name.stored() == before
    assert {field: before[field] for field in DEFAULTS} == DEFAULTS


def test_create_means_new(name):
    """QUEUE_EXISTS otherwise."""
    name.create("create")
    with pytest.raises(redis.ResponseError, match="PSMQ_QUEUE_EXISTS"):
        name.create("create")


def test_a_field_that_differs_is_a_conflict(name):
    """Field, what is stored, what was asked; fields that were not given do not matter."""
    name.create(max_length="5", delay="1000")
    for settings, told in (
        ({"delay": "2000"}, "delay 1000 2000"),
        ({"max_length": ""}, "max_length 5 none"),
        ({"ttl": "7"}, "ttl none 7"),
    ):
        with pytest.raises(redis.ResponseError, match=f"PSMQ_QUEUE_CONFIG_CONFLICT {told}"):
            name.create(**settings)
    assert name.create(delay="1000")[0] == 0


@pytest.mark.parametrize("change", ["missing", "twice", "unknown", "odd", "explicit", "how", "range", "word"])
def test_a_queue_is_made_of_all_its_settings(name, change):
    """Half a queue would break whoever pushes to it."""
    pairs = dict(DEFAULTS)
    how, explicit = "ensure", 0
    if change == "missing":
        del pairs["max_size"]
    elif change == "unknown":
        pairs["colour"] = "red"
    elif change == "range":
        pairs["delay"] = "-1"
    elif change == "word":
        pairs["on_expiry"] = "explode"
    words = [word for pair in pairs.items() for word in pair]
    if change == "twice":
        words[:2] = words[2:4]
    elif change == "odd":
        words.append("ttl")
    elif change == "explicit":
        explicit = 12
    elif change == "how":
        how = "make"
    with pytest.raises(redis.ResponseError, match="PSMQ_INVALID_OPTION"):
        name.call("create_queue", how, explicit, *words)
    assert name.stored() == {}


def test_creating_tells_old_libraries_too(name):
    """Before any write."""
    with pytest.raises(redis.ResponseError, match="PSMQ_OLD_LIBRARY"):
        name.create(revision=library.revision() + 1)
    for revision in ("nan", ""):
        with pytest.raises(redis.ResponseError, match="PSMQ_INVALID_OPTION"):
            name.create(revision=revision)
    assert name.stored() == {}


@pytest.mark.parametrize(
    "pairs",
    [("delay",), ("colour", "red"), ("delay", "-1"), ("clock", "test"), ("clock", "x"), ("deleting", "1"),
     ("layout", "9"), ("sent", "0"), ("max_size", ""), ("on_expiry", ""), ("delay", "5", "ttl", "0")],
)  # fmt: skip
def test_configure_changes_settings_only(raw, pairs):
    """Not the clock, no counter, nothing unknown; and with one bad pair nothing."""
    with raw.refused("INVALID_OPTION"):
        raw.call("configure", *pairs)


def test_configure_holds_for_what_waits(timed):
    """Settings of messages that carry none of their own follow the queue's."""
    raw = timed(visibility_timeout=60)
    raw.push()
    raw.call("configure", "visibility_timeout", 5000, "max_length", "", "max_size", 3)
    with raw.refused("MESSAGE_TOO_LARGE"):
        raw.push(b"1234")
    raw.get()
    raw.later(6)
    assert len(raw.get()) == 1


def test_pause_and_resume_say_whether_they_changed_something(raw):
    """Twice is once."""
    assert [raw.call("pause", word) for word in ("1", "1", "0", "0")] == [1, 0, 1, 0]


# --- purge


@pytest.mark.parametrize("arguments", [(), ("all",), ("ready", "id"), ("dead", *["id"] * 1001)])
def test_a_purge_names_one_state_or_up_to_a_thousand_dead(raw, arguments):
    """Ids are for dead letters: others belong to somebody."""
    raw.push()
    with raw.refused("INVALID_OPTION"):
        raw.do("purge", *arguments)


def test_a_purge_leaves_nothing_of_what_it_takes(timed):
    """Bytes, state, history, reasons, expiry."""
    raw = timed()
    for options in ("t60000", "d5000t60000", "t60000", "t60000"):
        raw.push(b"x", options)
    (a, receipt, *_), (b, *_) = raw.get(2)
    raw.settle((a, receipt, "b", "why", "failed", ""))
    assert [raw.do("purge", state) for state in ("ready", "delayed", "leased", "dead")] == [1, 1, 1, 1]
    for part in ("messages", "state", "failures", "reasons", "expiring", "ready", "delayed", "leased", "dead"):
        assert not raw.server.exists(f"{raw.base}:{part}"), part
    assert raw.settle((b, receipt, "d", "", "", "")) == ["stale"]
    assert raw.info()["purged"] == b"4"


def test_a_purge_takes_states_as_reads_show_them(timed):
    """What is due, though nobody has moved it, is ready: purging the delayed does not touch it."""
    raw = timed(visibility_timeout=5)
    raw.push(b"leased")
    raw.get()
    for number in range(3):
        raw.push(b"due", "d1000")
        raw.push(b"early", "d%d" % (90_000 + number))
    raw.later(60)
    assert raw.do("purge", "leased") == 0
    assert raw.do("purge", "delayed") == 3
    assert raw.info()["ready"] == 4
    assert raw.do("purge", "ready") == 4


def test_a_purge_goes_200_at_a_time(raw):
    """Called again until it is 0."""
    for start in range(0, 2000, 500):
        raw.do("push", *[part for number in range(start, start + 500) for part in (f"{number:011d}", "", "", "x")])
    assert [raw.do("purge", "ready") for _ in range(11)] == [200] * 10 + [0]


def test_a_purge_takes_suspects_with_the_ready(raw):
    """They are ready, for a process of their own."""
    raw.push()
    ((id_, receipt, *_),) = raw.get()
    raw.settle((id_, receipt, "rc1", "", "", ""))
    raw.push()
    assert raw.do("purge", "ready") == 2


def test_a_purge_by_ids_takes_each_dead_letter_once(raw):
    """Named twice it is still one; what is not dead is left alone."""
    ids = []
    for _ in range(3):
        ids.append(raw.push())
        ((_, receipt, *_),) = raw.get()
        raw.settle((ids[-1], receipt, "b", "why", "", ""))
    ready = raw.push()
    assert raw.do("purge", "dead", ids[0], ids[0], ready, ids[2], "no such id") == 2
    info = raw.info()
    assert (info["dead"], info["ready"], info["purged"]) == (1, 1, b"2")


# --- deleting


def test_a_deleted_queue_leaves_no_key(raw):
    """Results included; the hash stays, marked, until the name has left the registry."""
    for number in range(9):
        raw.push(b"x", f"d{number}t100000r50000", f"d{number}")
    for _ in range(2):
        for id_, receipt, *_ in raw.get(2):
            raw.settle((id_, receipt, "b", "why", "failed", "result"))
    assert raw.call("delete_queue", "1") == 0
    assert set(raw.server.scan_iter(f"{raw.base}*")) == {raw.base.encode()}, "SCAN may tell a key twice"
    with raw.refused("QUEUE_DELETING"):
        raw.push()
    assert raw.call("forget_queue") == 1
    assert not raw.server.exists(raw.base)
    assert raw.call("forget_queue") == 0


def test_deleting_goes_on_where_it_stopped(raw):
    """200 results a call: whoever finds the mark can finish."""
    for number in range(1500):
        raw.server.rpush(raw.address.result(f"r{number}"), "x")
    raw.server.zadd(f"{raw.base}:results", {f"r{number}": number for number in range(1500)})
    assert raw.call("delete_queue", "1") == 1300
    assert [raw.call("delete_queue", "0") for _ in range(7)] == [1100, 900, 700, 500, 300, 100, 0]
    assert set(raw.server.scan_iter(f"{raw.base}*")) == {raw.base.encode()}, "SCAN may tell a key twice"


def test_going_on_does_not_delete_what_was_made_anew(raw):
    """Between two calls of a slow deleter somebody else finished, and a new queue took the name: it is left alone."""
    raw.push()
    before = raw.dump()
    assert raw.call("delete_queue", "0") == 0
    assert raw.dump() == before


@pytest.mark.parametrize("arguments", [(), ("2",), ("",)])
def test_deleting_begins_or_goes_on(raw, arguments):
    """And it declares two keys like everything else."""
    with raw.refused("INVALID_OPTION"):
        raw.call("delete_queue", *arguments)
    with raw.refused("INVALID_OPTION"):
        raw.call("delete_queue", "1", keys=(raw.base,))


def test_a_queue_that_is_not_there_cannot_be_deleted(name):
    """QUEUE_NOT_FOUND, and no mark is left."""
    with pytest.raises(redis.ResponseError, match="PSMQ_QUEUE_NOT_FOUND"):
        name.call("delete_queue", "1")
    assert name.stored() == {}


@pytest.fixture
def names_key(raw_server):
    """A key beside the queues, and its two companions in the same slot."""
    base = f"psmq-{draw_randoms(1)[0]}:queues"
    found = (base, f"never:{{{base}}}", f"garbage:{{{base}}}")
    yield found
    raw_server.delete(base)
    raw_server.delete(found[2])


def test_a_set_of_names_that_is_none_is_set_aside(raw_server, names_key):
    """Looked at and renamed in one step: the second who noticed finds a set, and leaves it alone."""
    key, never, garbage = names_key
    call = ("FCALL", "psmq_v1_set_aside", 2, key, never, "", library.revision(), garbage)
    assert raw_server.execute_command(*call) == 0
    raw_server.set(key, "garbage")
    assert raw_server.execute_command(*call) == 1
    assert raw_server.get(garbage) == b"garbage"
    raw_server.sadd(key, "name")
    assert raw_server.execute_command(*call) == 0
    assert raw_server.smembers(key) == {b"name"}


@pytest.mark.parametrize("aside", [(), ("elsewhere",), ("{other}",)])
def test_a_name_of_another_slot_is_refused(raw_server, names_key, aside):
    """In a cluster it could not be renamed to that."""
    key, never, _ = names_key
    raw_server.set(key, "garbage")
    with pytest.raises(redis.ResponseError, match="PSMQ_INVALID_OPTION"):
        raw_server.execute_command("FCALL", "psmq_v1_set_aside", 2, key, never, "", library.revision(), *aside)
    assert raw_server.get(key) == b"garbage"
