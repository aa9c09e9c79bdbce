"""push.lua: the way in. All or none, deduplicated, bounded."""

import pytest

from psmq.commands import draw_randoms


def items(*messages):
    """(options, dedup, body) …"""
    return [part for message in messages for part in (draw_randoms(1)[0], *message)]


@pytest.mark.parametrize(
    "random",
    ["", "0123456789", "0123456789ab", "0123456789i", "0123456789L", "0123456789 ", "01234\00056789", "é123456789"],
)
def test_a_random_is_eleven_digits_of_an_id(raw, random):
    """It becomes half of the id: nothing else may get in there."""
    with raw.refused("INVALID_OPTION"):
        raw.do("push", random, "", "", b"x")


@pytest.mark.parametrize("count", [0, 1001])
def test_a_push_has_one_to_a_thousand_messages(raw, count):
    """Bounded work in each call."""
    with raw.refused("INVALID_OPTION"):
        raw.do("push", *items(*[("", "", b"x")] * count))


@pytest.mark.parametrize("length", [1, 2, 3, 5, 7])
def test_messages_have_four_parts(raw, length):
    """Half a message is none."""
    with raw.refused("INVALID_OPTION"):
        raw.do("push", *["0123456789a"] * length)


def test_one_bad_message_stores_none(raw):
    """Also the window that a deduplication id of an earlier one would have opened."""
    with raw.refused("INVALID_OPTION"):
        raw.do("push", *items(("", "one", b"x"), ("p500", "", b"y")))
    with raw.refused("MESSAGE_TOO_LARGE"):
        raw.do("push", *items(("", "one", b"x"), ("", "", b"y" * 1024 * 1024 + b"z")))
    with raw.refused("INVALID_OPTION"):
        raw.do("push", *items(("", "one", b"x"), ("", "d" * 257, b"y")))


def test_max_size_counts_data_and_metadata(timed):
    """Exactly max_size fits."""
    raw = timed(max_size=10)
    raw.push(b"1234567890", "n4")
    with raw.refused("MESSAGE_TOO_LARGE") as caught:
        raw.push(b"12345678901", "n4")
    assert str(caught.value) == "PSMQ_MESSAGE_TOO_LARGE 11 10"


def test_order_is_priority_then_age(timed):
    """Higher first, then the older."""
    raw = timed()
    for body, options in (
        (b"1", ""),
        (b"2", "p1"),
        (b"3", "p-1"),
        (b"4", "p1"),
        (b"5", ""),
        (b"6", "p100"),
        (b"7", "p-100"),
    ):
        raw.push(body, options)
        raw.later(1)
    assert b"".join(found[5].rpartition(b";")[2] for found in raw.get(9)) == b"6241537"


def test_the_same_deduplication_id_is_the_same_message(timed):
    """Within the window the first one's id is the answer, and nothing is stored."""
    raw = timed(deduplication_window=60)
    first = raw.push(b"first", "", "order 17")
    raw.later(59)
    assert raw.push(b"again", "p9d5000", "order 17") == first
    assert raw.info()["sent"] == b"1"
    raw.later(2)
    assert raw.push(b"anew", "", "order 17") != first
    assert raw.info()["ready"] == 2


def test_deduplication_holds_inside_one_push(raw):
    """Two equal ids in one call are one message."""
    ids = raw.do("push", *items(("", "a", b"1"), ("", "b", b"2"), ("", "a", b"3")))
    assert ids[0] == ids[2] != ids[1]
    assert raw.info()["ready"] == 2


def test_a_deduplication_id_outlives_its_message(raw):
    """What was done within the window is not done again."""
    first = raw.push(b"x", "", "once")
    raw.do("pop")
    assert raw.push(b"x", "", "once") == first
    assert raw.info()["ready"] == 0


def test_a_window_of_zero_remembers_nothing(timed):
    """deduplication_window=0 turns it off."""
    raw = timed(deduplication_window=0)
    assert raw.push(b"x", "", "a") != raw.push(b"x", "", "a")
    assert len(set(raw.do("push", *items(("", "a", b"x"), ("", "a", b"x"))))) == 2


def test_a_window_opened_anew_is_not_forgotten_with_the_ended_one(timed):
    """It ends when the new one does."""
    raw = timed(deduplication_window=60)
    old = raw.push(b"x", "", "a")
    raw.later(61)
    new = raw.push(b"x", "", "a")
    assert old != new
    raw.later(59)
    assert raw.push(b"x", "", "a") == new


def test_ended_windows_are_forgotten(timed):
    """Two for each that is opened: memory does not grow with all ids that ever were."""
    raw = timed(deduplication_window=60)
    for number in range(10):
        raw.push(b"x", "", f"old {number}")
    raw.later(61)
    for number in range(5):
        raw.push(b"x", "", f"new {number}")
    assert raw.server.hlen(f"{raw.base}:dedup") == raw.server.zcard(f"{raw.base}:dedup:ends") == 5


def test_a_full_queue_refuses_whole_pushes(timed):
    """Ready, delayed and leased count; dead letters do not."""
    raw = timed(max_length=3)
    raw.push()
    raw.push(b"x", "d60000")
    ((id_, receipt, *_),) = raw.get()
    with raw.refused("QUEUE_FULL") as caught:
        raw.do("push", *items(("", "", b"x"), ("", "", b"x")))
    assert str(caught.value) == "PSMQ_QUEUE_FULL 3"
    raw.push()
    with raw.refused("QUEUE_FULL"):
        raw.push()
    raw.settle((id_, receipt, "b", "why", "", ""))
    raw.push()
    with raw.refused("QUEUE_FULL"):
        raw.push()


def test_a_full_queue_still_knows_what_it_has(timed):
    """A second copy stores nothing, so there is always room for it."""
    raw = timed(max_length=1)
    first = raw.push(b"x", "", "once")
    assert raw.push(b"x", "", "once") == first
    raw.do("pop")
    ids = raw.do("push", *items(("", "twice", b"1"), ("", "twice", b"2")))
    assert ids[0] == ids[1]


def test_a_full_queue_drops_what_has_expired_first(timed):
    """A push is not refused for the sake of messages that nobody may get."""
    raw = timed(max_length=250)
    for start in range(0, 250, 50):
        raw.do("push", *items(*[("t1000", "", b"%d" % start)] * 50))
    with raw.refused("QUEUE_FULL"):
        raw.push()
    raw.later(2)
    raw.do("push", *items(*[("", "", b"x")] * 250))
    assert raw.info()["expired"] == b"250"


def test_a_delay_of_the_queue_is_a_default(timed):
    """A push may say otherwise, also 0."""
    raw = timed(delay=5)
    raw.push(b"waits")
    raw.push(b"at once", "d0")
    raw.push(b"longer", "d9000")
    assert [found[5] for found in raw.get(9)] == [b";at once"]
    raw.later(5)
    assert [found[5] for found in raw.get(9)] == [b";waits"]
    raw.later(4)
    assert [found[5] for found in raw.get(9)] == [b";longer"]


def test_bodies_are_kept_byte_by_byte(raw):
    """NUL, newlines, things that look like heads, nothing at all."""
    bodies = [b"", b";", b"p5;", b"\0" * 3, bytes(range(256)), b"\r\n*3\r\n$3\r\n", b"m1x1;" * 50]
    for body in bodies:
        raw.push(body)
    assert [found[5] for found in raw.get(20)] == [b";" + body for body in bodies]


def test_a_result_ttl_of_zero_keeps_no_result(raw):
    """None is the server's default of an hour for results that are given; 0 is none at all."""
    for options in ("r0", "r0t60000"):
        raw.push(b"x", options)
        ((id_, receipt, *_),) = raw.get()
        raw.settle((id_, receipt, "d", "", "", "a result"))
        assert not raw.server.exists(raw.address.result(id_))
