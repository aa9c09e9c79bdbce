"""dead.lua: burying with reason and history, and the results that outlive their messages."""

import pytest


def bury(raw, reason="why", failure="", result="", options=""):
    id_ = raw.push(b"x", options)
    ((_, receipt, *_),) = raw.get()
    assert raw.settle((id_, receipt, "b", reason, failure, result)) == ["done"]
    return id_


def letters(raw, *ids):
    reply = raw.call("dead_letters", 1000, "", "1", *ids)
    names = ("id", "buried", "count", "first", "options", "value", "reason", "failures")
    return [dict(zip(names, reply[at : at + 8], strict=True)) for at in range(0, len(reply), 8)]


def test_a_dead_letter_tells_why_and_when(timed):
    """With its count, its first delivery and its bytes."""
    raw = timed()
    id_ = bury(raw, "its card was refused")
    (letter,) = letters(raw)
    assert (letter["id"].decode(), letter["reason"], letter["value"]) == (id_, b"its card was refused", b";x")
    assert int(letter["buried"]) == int(letter["first"]) == int(raw.clock)
    assert letter["count"] == 1


def test_a_reason_is_kept_to_a_thousand_bytes(raw):
    """The whole story belongs into the failure history."""
    bury(raw, "x" * 5000)
    assert letters(raw)[0]["reason"] == b"x" * 1000


def test_an_empty_reason_gets_one(raw):
    """Every dead letter says something."""
    bury(raw, "")
    assert letters(raw)[0]["reason"] == b"buried by its holder"


def test_failures_are_kept_in_order_and_the_oldest_go_first(raw):
    """64 KiB of history, as netstrings: records may hold any bytes."""
    id_ = raw.push(b"x", "m99")
    records = [b"%d:" % number + b"," * 10_000 for number in range(9)]
    for record in records:
        ((_, receipt, *_),) = raw.get()
        raw.settle((id_, receipt, "r", "", record, ""))
    history = raw.server.hget(f"{raw.base}:failures", id_)
    assert history == b"".join(b"%d:%b," % (len(record), record) for record in records[3:])


def test_one_record_of_the_longest_size_is_kept(raw):
    """And the next one takes its place."""
    id_ = raw.push(b"x", "m99")
    for record in (b"a" * 65536, b"b" * 65536):
        ((_, receipt, *_),) = raw.get()
        raw.settle((id_, receipt, "r", "", record, ""))
        assert raw.server.hget(f"{raw.base}:failures", id_) == b"65536:%b," % record


def test_a_result_is_kept_for_its_time(raw):
    """The message's result_ttl, an hour by default, none for 0."""
    cases = {"": 3_600_000, "r60000": 60_000, "r60000t90000": 60_000}
    for options, ttl in cases.items():
        id_ = raw.push(b"x", options)
        ((_, receipt, *_),) = raw.get()
        raw.settle((id_, receipt, "d", "", "", "value"))
        assert ttl - 10_000 < raw.server.pttl(raw.address.result(id_)) <= ttl


def test_a_stale_settlement_stores_no_result(raw):
    """Results are fenced by the receipt."""
    id_ = raw.push()
    ((_, receipt, *_),) = raw.get()
    raw.settle((id_, receipt, "d", "", "", "mine"))
    assert raw.settle((id_, receipt, "d", "", "", "theirs")) == ["stale"]
    assert raw.server.lrange(raw.address.result(id_), 0, -1) == [b"mine"]


@pytest.mark.parametrize(("options", "told"), [("r60000", b"!buried why"), ("", None), ("r0", None)])
def test_the_server_speaks_only_where_somebody_may_listen(raw, options, told):
    """A message without result_ttl has nobody who waits."""
    assert raw.server.lindex(raw.address.result(bury(raw, options=options)), 0) == told


def test_names_of_expired_results_are_dropped(timed):
    """A hundred at a time, by the calls that add some: the set of names does not grow for ever."""
    raw = timed()
    for _ in range(5):
        bury(raw, result="value", options="r1000")
    assert raw.server.zcard(f"{raw.base}:results") == 5
    raw.later(2)
    bury(raw, result="value", options="r1000")
    assert raw.server.zcard(f"{raw.base}:results") == 1


def test_a_message_that_dies_of_expiry_trims_too(timed):
    """Whatever writes results keeps their names in bounds."""
    raw = timed()
    for _ in range(150):
        raw.push(b"x", "t1000r1000")
    raw.later(2)
    raw.get()
    raw.get()
    raw.later(2)
    raw.push(b"x", "t1000r1000")
    raw.later(2)
    raw.get()
    assert raw.server.zcard(f"{raw.base}:results") <= 51


def test_dead_letters_are_kept_for_ever_unless_the_queue_says_how_long(timed):
    """None is the default: nothing is dropped that nobody asked to have dropped."""
    forever, short = timed(), timed(dead_retention=3600)
    for raw in (forever, short):
        bury(raw)
        raw.later(10 * 365 * 86_400)
        raw.get()
    assert (forever.info()["dead"], short.info()["dead"]) == (1, 0)


def test_what_was_kept_long_enough_goes_with_all_it_had(timed):
    """To the millisecond; counted by itself, so that the books agree; not what died later, nor what waits."""
    raw = timed(dead_retention=60)
    first = bury(raw, failure="failed")
    raw.later(30)
    second, _ = bury(raw), raw.push()
    raw.later(29.999)
    raw.do("pop")
    assert raw.info()["dead"] == 2
    raw.later(0.001)
    assert [raw.info()["dead"], *raw.call("dead_letters", 9, "", "-")[:1]] == [1, second.encode()]
    assert raw.call("dead_letters", 9, "", "-", first) == []
    raw.push()
    raw.get()
    for part in ("messages", "state", "reasons", "failures"):
        assert not raw.server.hexists(f"{raw.base}:{part}", first)
    assert raw.info()["outlived"] == b"1"


def test_a_redrive_begins_its_time_anew(timed):
    """It is counted from the burial."""
    raw = timed(dead_retention=60)
    id_ = bury(raw)
    raw.later(50)
    raw.do("redrive", "", id_)
    ((_, receipt, *_),) = raw.get()
    raw.settle((id_, receipt, "b", "why", "", ""))
    raw.later(50)
    raw.get()
    assert raw.info()["dead"] == 1


def test_a_get_drops_a_hundred_at_most(timed):
    """However many have been kept long enough: nobody waits for the server."""
    raw = timed(dead_retention=1)
    for _ in range(130):
        bury(raw)
    raw.later(60)
    raw.get()
    assert (raw.info()["outlived"], raw.server.zcard(f"{raw.base}:dead")) == (b"100", 30)
    raw.get()
    assert raw.info()["outlived"] == b"130"


def test_a_retention_that_is_set_later_holds_for_what_is_there(timed):
    """And one that is taken away holds no more."""
    raw = timed()
    bury(raw)
    raw.later(60)
    raw.call("configure", "dead_retention", "30000")
    assert raw.info()["dead"] == 0
    raw.call("configure", "dead_retention", "")
    raw.get()
    assert raw.info()["dead"] == 1


def test_a_letter_that_is_on_its_way_out_may_be_dropped(timed):
    """Its mark goes with it, and so its transfer is over."""
    raw = timed(dead_retention=60)
    id_ = bury(raw)
    token = raw.do("depart", "other", id_)
    raw.later(60)
    raw.get()
    assert raw.do("leave", token, "other", id_) == []
    assert not raw.server.exists(f"{raw.base}:departing", f"{raw.base}:departed")
