"""amending.lua: other bytes for a dead letter, and letters brought back."""

import pytest


def bury(raw, options="", body=b"old", failure="failed"):
    id_ = raw.push(body, options)
    ((_, receipt, *_),) = raw.get()
    raw.settle((id_, receipt, "b", "why", failure, ""))
    return id_


def test_an_amended_letter_has_other_bytes_and_the_same_options(raw):
    """Priority, limits and history stay; the note is its newest record."""
    id_ = bury(raw, "p7m3r60000n2", b"mmold")
    assert raw.do("amend", id_, 3, b"MMMnew", "edited", "") == 1
    assert raw.server.hget(f"{raw.base}:messages", id_) == b"p7m3r60000n3;MMMnew"
    assert raw.server.hget(f"{raw.base}:failures", id_) == b"6:failed,6:edited,"
    assert raw.info()["dead"] == 1


def test_amended_and_redriven_is_one_step(raw):
    """Nobody can get the old bytes in between; the count starts anew."""
    id_ = bury(raw)
    raw.server.delete(raw.address.wake)
    assert raw.do("amend", id_, 0, b"new", "", "1") == 1
    assert raw.server.llen(raw.address.wake) == 1
    ((got, _, count, _, _, value),) = raw.get()
    assert (got, count, value) == (id_, 1, b";new")
    assert raw.info()["redriven"] == b"1"
    assert not raw.server.exists(f"{raw.base}:reasons")


def test_what_is_not_dead_cannot_be_amended(raw):
    """Who works on it must see what was sent."""
    for id_ in (raw.push(), "no such id"):
        with raw.refused("MESSAGE_NOT_FOUND"):
            raw.do("amend", id_, 0, b"new", "", "1")


def test_an_amended_letter_is_no_larger_than_the_queue_takes(timed):
    """As in push."""
    raw = timed(max_size=4)
    id_ = bury(raw)
    with raw.refused("MESSAGE_TOO_LARGE"):
        raw.do("amend", id_, 0, b"12345", "", "")


@pytest.mark.parametrize(
    "words",
    [(0, b"new", ""), ("x", b"new", "", ""), (4, b"new", "", ""), (0, b"new", "n" * 65537, ""), (0, b"new", "", "2")],
)
def test_malformed_arguments_change_nothing(raw, words):
    """Checked before the first write."""
    id_ = bury(raw)
    with raw.refused("INVALID_OPTION"):
        raw.do("amend", id_, *words)


def letter(raw, **how):
    """A letter as adopt takes it, and the same parts as the server keeps them."""
    id_ = bury(raw, **how)
    value = raw.server.hget(f"{raw.base}:messages", id_)
    buried = int(raw.server.zscore(f"{raw.base}:dead", id_))
    return id_, (id_, buried, 1, value, "why", "6:failed,")


def test_an_adopted_letter_is_as_it_was(raw):
    """Purged and brought back: same place, reason, history, count; redriven it runs."""
    id_, parts = letter(raw, options="p7m3")
    before = raw.call("dead_letters", 10, "", "1")
    assert raw.do("purge", "dead", id_) == 1
    assert raw.do("adopt", *parts) == 1
    after = raw.call("dead_letters", 10, "", "1")
    # but for the time of its first delivery
    assert after[:3] + after[4:] == before[:3] + before[4:]
    raw.do("redrive", "", id_)
    assert raw.get()[0][0] == id_


def test_a_letter_that_is_there_stays_as_it_is(raw):
    """Whatever its state: bringing back twice has the effect of once."""
    id_, parts = letter(raw)
    assert raw.do("adopt", *parts, *parts) == 0
    raw.do("redrive", "", id_)
    assert raw.do("adopt", *parts) == 0
    raw.get()
    assert raw.do("adopt", *parts) == 0
    assert raw.info()["dead"] == 0


def test_the_longest_history_there_can_be_is_adopted(raw):
    """One record of 64 KiB, and what frames it."""
    id_ = bury(raw, failure="x" * 65536)
    history = raw.server.hget(f"{raw.base}:failures", id_)
    raw.do("purge", "dead", id_)
    assert raw.do("adopt", id_, 1, 1, b";x", "why", history) == 1
    assert raw.server.hget(f"{raw.base}:failures", id_) == history


@pytest.mark.parametrize(
    ("at", "bad"),
    [(0, "short"), (0, "u" * 22), (1, "x"), (1, -1), (2, "x"), (3, b"no head"), (3, b"n9;x"), (5, "x" * 65544)],
)
def test_a_letter_that_cannot_be_read_stops_all(raw, at, bad):
    """All or none."""
    id_, parts = letter(raw)
    raw.do("purge", "dead", id_)
    spoilt = list(parts)
    spoilt[at] = bad
    with raw.refused("INVALID_OPTION"):
        raw.do("adopt", *parts, *spoilt)
    for count in (0, 101):
        with raw.refused("INVALID_OPTION"):
            raw.do("adopt", *parts * count)
    with raw.refused("INVALID_OPTION"):
        raw.do("adopt", *parts[:-1])


def test_an_adopted_letter_is_no_larger_than_the_queue_takes(timed):
    """Its metadata counts, as in push."""
    raw = timed(max_size=4)
    id_, parts = letter(raw)
    raw.do("purge", "dead", id_)
    with raw.refused("MESSAGE_TOO_LARGE"):
        raw.do("adopt", *parts[:3], b";12345", "", "")


@pytest.mark.parametrize("function", ["amend", "adopt"])
def test_a_repeat_is_answered_and_does_nothing(raw, function):
    """Whoever lost the reply gets the same one."""
    id_, parts = letter(raw)
    if function == "adopt":
        raw.do("purge", "dead", id_)
    words = parts if function == "adopt" else (id_, 0, b"new", "", "1")
    assert raw.do(function, *words, number=90, nonce="abcdefgh") == 1
    before = raw.dump()
    assert raw.do(function, *words, number=90, nonce="abcdefgh") == 1
    assert raw.dump() == before
