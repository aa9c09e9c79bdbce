"""transferring.lua: dead letters that go to another queue, call by call."""

from __future__ import annotations

import pytest


@pytest.fixture
def target(timed):
    return timed(max_size=100)


@pytest.fixture
def source(timed):
    return timed()


def bury(raw, body=b"x", options="", failure="failed"):
    id_ = raw.push(body, options)
    ((got, receipt, *_),) = raw.get()
    assert got == id_
    assert raw.settle((id_, receipt, "b", "why", failure, "")) == ["done"]
    return id_


def depart(source, target, *ids):
    return source.do("depart", target.address.name, *ids).decode()


def arrive(source, target, token, *ids, keep="", value=b";x", history=b"6:failed,", **how):
    letters = [part for id_ in ids for part in (id_, 1, int(source.clock), value, history)]
    return [word.decode() for word in target.do("arrive", token, source.address.name, keep, *letters, **how)]


def leave(source, target, token, *ids, **how):
    return [id_.decode() for id_ in source.do("leave", token, target.address.name, *ids, **how)]


def admit(source, target, token, id_, left="1"):
    return target.call("admit", source.address.name, id_, token, left)


def listed(raw, part):
    cursor, *words = raw.call("transfers", part, "0")
    assert cursor == b"0"
    return {id_.decode(): note.decode() for id_, note in zip(words[::2], words[1::2], strict=True)}


def test_a_letter_goes_from_queue_to_queue(source, target):
    """Same id, bytes and history; counted anew; its result, reason and every note are gone from the source."""
    id_ = bury(source, b"x", "r60000p3")
    assert source.server.exists(source.address.result(id_))
    token = depart(source, target, id_)
    assert source.info()["dead"] == 1
    assert arrive(source, target, token, id_, value=b"p3r60000;x") == ["done"]
    assert target.get() == []
    assert leave(source, target, token, id_) == [id_]
    assert listed(source, "departed") == {id_: f"{token} {target.address.name}"}
    assert admit(source, target, token, id_) == 1
    assert source.call("forget_departed", id_, token) == 1
    assert source.call("forget_departed", id_, token) == 0
    ((got, _, count, _, options, value),) = target.get()
    assert (got, count, options, value) == (id_, 1, b"r60000", b"p3r60000;x")
    assert target.server.hget(f"{target.base}:failures", id_) == b"6:failed,"
    left = {key.decode().rpartition(":")[2] for key in source.server.scan_iter(f"{source.base}:*")}
    assert left <= {"wake", "clients", "recent", "consumers", "minutes", "results"}
    assert (source.info()["departed"], target.info()["arrived"]) == (b"1", b"1")


def test_its_place_is_behind_what_is_ready_of_its_priority(source, target):
    """As of the moment it is admitted."""
    id_ = bury(source)
    token = depart(source, target, id_)
    arrive(source, target, token, id_)
    first = target.push()
    source.later(1)
    target.later(1)
    leave(source, target, token, id_)
    admit(source, target, token, id_)
    assert [got[0] for got in target.get(9)] == [first, id_]


def test_keep_count_gives_exactly_one_more_delivery(source, target):
    """As in a redrive."""
    id_ = bury(source)
    token = depart(source, target, id_)
    arrive(source, target, token, id_, keep="1")
    leave(source, target, token, id_)
    admit(source, target, token, id_)
    ((_, receipt, count, *_),) = target.get()
    assert count == 2
    assert target.settle((id_, receipt, "r", "", "", "")) == ["dead"]


def test_one_that_is_not_dead_stops_a_departure(source, target):
    """All or none, and the answer names it."""
    id_ = bury(source)
    for bad in (source.push(), "no such id"):
        with source.refused("MESSAGE_NOT_FOUND") as caught:
            depart(source, target, id_, bad)
        assert str(caught.value) == f"PSMQ_MESSAGE_NOT_FOUND {bad} dead"
    assert listed(source, "departing") == {}


@pytest.mark.parametrize("what", ["redrive", "amend", "purge", "purge all", "another attempt", "late delete", "recall"])
def test_whatever_happens_to_a_letter_ends_its_attempt(timed, target, what):
    """Nobody is carried away under the hands of somebody else; the copy is dropped."""
    source = timed(max_retrievals=1, visibility_timeout=5)
    if what == "late delete":
        id_ = source.push()
        ((_, receipt, *_),) = source.get()
        source.later(60)
        source.get()
    else:
        id_ = bury(source)
    token = depart(source, target, id_)
    assert arrive(source, target, token, id_) == ["done"]
    if what == "redrive":
        source.do("redrive", "", id_)
    elif what == "amend":
        source.do("amend", id_, 0, b"other", "", "")
    elif what == "purge":
        source.do("purge", "dead", id_)
    elif what == "purge all":
        source.do("purge", "dead")
    elif what == "another attempt":
        depart(source, target, id_)
    elif what == "late delete":
        assert source.settle((id_, receipt, "d", "", "", "")) == ["done"]
    else:
        assert source.call("recall", id_, token) == [b"back"]
    assert (id_ in listed(source, "departing")) == (what == "another attempt")
    assert leave(source, target, token, id_) == []
    assert admit(source, target, token, id_, left="") == 0
    assert target.get() == []
    assert not target.server.exists(
        *(f"{target.base}:{part}" for part in ("messages", "state", "failures", "arriving"))
    )


def test_what_left_cannot_be_recalled(source, target):
    """From then on the target's copy is the letter."""
    id_ = bury(source)
    token = depart(source, target, id_)
    arrive(source, target, token, id_)
    leave(source, target, token, id_)
    assert source.call("recall", id_, token) == [b"left"]
    assert source.call("recall", id_, f"{token}another") == [b"back"]
    assert listed(source, "departed") != {}


def test_a_queue_made_anew_knows_nothing_of_what_left_the_one_before(source):
    """Its own tokens are higher, whatever a stranger wrote over their count."""
    id_ = bury(source)
    assert source.call("recall", id_, "1-abcdefgh") == [b"left"]
    for damage in (None, "garbage", "5"):
        if damage:
            source.server.hset(source.base, "departures", damage)
        token = source.do("depart", "there", id_).decode()
        assert source.call("recall", id_, token) == [b"back"]


def test_a_later_attempt_takes_over_and_an_earlier_one_does_not(source, target):
    """Two carry the same letter: the copy of the later one stays, in whatever order they arrive."""
    id_ = bury(source)
    first, second = depart(source, target, id_), depart(source, target, id_)
    assert arrive(source, target, first, id_, value=b";first") == ["done"]
    assert arrive(source, target, second, id_, value=b";second") == ["done"]
    assert arrive(source, target, first, id_, value=b";first") == ["busy"]
    assert leave(source, target, first, id_) == []
    assert leave(source, target, second, id_) == [id_]
    admit(source, target, first, id_, left="")
    admit(source, target, second, id_)
    assert [got[5] for got in target.get(9)] == [b";second"]


def test_what_cannot_come_in_is_told_one_by_one(source, target):
    """The others arrive."""
    good, known, broken, large = (bury(source) for _ in range(4))
    token = depart(source, target, good, known, broken, large)
    target.server.hset(f"{target.base}:messages", known, ";x")
    values = {good: b";x", known: b";x", broken: b"no message", large: b";" + b"x" * 101}
    words = [arrive(source, target, token, id_, value=value) for id_, value in values.items()]
    assert words == [["done"], ["there"], ["damaged"], ["large"]]


def test_the_longest_history_there_can_be_goes_along(source, target):
    """One record of 64 KiB, and what frames it."""
    id_ = bury(source, failure="x" * 65536)
    history = source.server.hget(f"{source.base}:failures", id_)
    token = depart(source, target, id_)
    assert arrive(source, target, token, id_, history=history) == ["done"]
    assert target.server.hget(f"{target.base}:failures", id_) == history


def test_what_arrives_counts_for_max_length(timed, source):
    """Whoever was let in finds room when it is admitted."""
    target = timed(max_length=2)
    ids = [bury(source) for _ in range(3)]
    target.push()
    token = depart(source, target, *ids)
    assert arrive(source, target, token, *ids) == ["done", "full", "full"]
    with target.refused("QUEUE_FULL"):
        target.push()


def test_an_arrival_from_elsewhere_is_left_alone(source, target, timed):
    """The same letter, imported into two queues: who was first is let in."""
    other, id_ = timed(), bury(source)
    token = depart(source, target, id_)
    arrive(source, target, token, id_)
    assert arrive(other, target, "99-abcdefgh", id_) == ["busy"]
    assert admit(other, target, token, id_) == 0


def test_repeats_have_the_effect_of_one(source, target):
    """The same number and nonce: the same answer, and nothing is done."""
    id_ = bury(source)
    once = {"client": "c" * 11, "nonce": "n" * 16}
    token = source.do("depart", target.address.name, id_, number=1, **once)
    assert source.do("depart", target.address.name, id_, number=1, **once) == token
    token = token.decode()
    arrive(source, target, token, id_, number=1, **once)
    assert leave(source, target, token, id_, number=2, **once) == [id_]
    admit(source, target, token, id_)
    target.get()
    assert arrive(source, target, token, id_, number=1, **once) == ["done"]
    assert leave(source, target, token, id_, number=2, **once) == [id_]
    assert listed(target, "arriving") == {}


def test_a_letter_that_was_brought_back_cannot_depart_before_the_first_is_done(source, target):
    """Or two attempts for one id would be under way, and one of them lost."""
    id_ = bury(source)
    token = depart(source, target, id_)
    arrive(source, target, token, id_)
    leave(source, target, token, id_)
    source.do("adopt", id_, source.clock, 1, b";x", "why", "")
    with source.refused("MESSAGE_NOT_FOUND"):
        depart(source, target, id_)
    source.call("forget_departed", id_, token)
    assert depart(source, target, id_)


def test_what_is_admitted_wakes_a_getter(source, target):
    """Like every other way to become ready."""
    id_ = bury(source)
    token = depart(source, target, id_)
    arrive(source, target, token, id_)
    target.server.delete(f"{target.base}:wake")
    leave(source, target, token, id_)
    admit(source, target, token, id_)
    assert target.server.llen(f"{target.base}:wake") == 1


def test_what_cannot_be_read_is_refused(raw):
    """Before the first write."""
    name, id_, token = raw.address.name, "0" * 22, "1-abcdefgh"
    for function, *words in (
        ("depart",), ("depart", name), ("depart", "no name", id_), ("depart", name, *[id_] * 101),
        ("arrive", token, name, ""), ("arrive", "x", name, "", id_, 1, 1, ";", ""), ("arrive", token, name, "2", id_, 1, 1, ";", ""),
        ("arrive", token, name, "", "short", 1, 1, ";", ""), ("arrive", token, name, "", id_, "x", 1, ";", ""),
        ("leave", token, name), ("leave", "x", name, id_), ("leave", token, "", id_),
    ):  # fmt: skip
        with raw.refused("INVALID_OPTION"):
            raw.do(function, *words)
    for function, *words in (
        ("admit", name), ("admit", name, id_, token), ("admit", "", id_, token, ""), ("recall",), ("recall", id_),
        ("forget_departed", id_, token, id_), ("transfers", "ready", "0"), ("transfers", "arriving", "x"), ("transfers",),
    ):  # fmt: skip
        with raw.refused("INVALID_OPTION"):
            raw.call(function, *words)


def test_deleting_a_queue_leaves_no_key_of_a_transfer(source, target, manager):
    """Wherever it was."""
    ids = [bury(source) for _ in range(3)]
    token = depart(source, target, *ids)
    arrive(source, target, token, *ids)
    leave(source, target, token, ids[0])
    for raw in (source, target):
        manager.delete_queue(raw.address.name)
        assert list(raw.server.scan_iter(f"{raw.base}*")) == []
