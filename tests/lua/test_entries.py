"""entries.lua: ids, heads and state entries."""

from datetime import UTC, datetime

from psmq import id_random, id_time


def test_an_id_is_its_time_then_what_the_sender_drew(timed):
    """22 characters, sortable; the server's part to the microsecond, the client's part covered by signatures."""
    raw = timed()
    (id_,) = raw.do("push", "0123456789a", "", "", b"x")
    assert id_random(id_.decode()) == "0123456789a"
    assert id_time(id_.decode()) == datetime.fromtimestamp(int(raw.clock) / 1000, UTC)


def test_ids_pushed_together_count_up_by_a_microsecond(timed):
    """So push order is id order within one call, too."""
    raw = timed()
    items = [part for number in range(3) for part in (f"zzzzzzzzzz{9 - number}", "", "", b"%d" % number)]
    ids = [found.decode() for found in raw.do("push", *items)]
    assert [(id_time(id_) - id_time(ids[0])).microseconds for id_ in ids] == [0, 1, 2]


def test_a_waiting_message_has_no_state_entry(raw):
    """258 bytes of server memory per message: nothing is stored before there is something to say."""
    raw.push()
    raw.push(b"x", "p5m3r1000n1")
    raw.push(b"x", "d1000m2")
    assert not raw.server.exists(f"{raw.base}:state")


def test_what_must_be_known_earlier_has_one(raw):
    """A ttl, and a priority that waits for its delay."""
    ids = {raw.push(b"x", "t5000"), raw.push(b"x", "d1000p5")}
    assert {id_.decode() for id_ in raw.server.hkeys(f"{raw.base}:state")} == ids


def test_an_entry_keeps_every_option_through_a_life(timed):
    """m own limit, x expiry, r result ttl, g since its first delivery, priority: from push through delivery, release and delivery again."""
    raw = timed()
    id_ = raw.push(b"x", "p-7m9r60000t100000d10")
    raw.later(1)
    x = int(raw.clock) - 1000 + 100_000
    ((_, receipt, count, first, options, value),) = raw.get()
    assert (count, first, options) == (1, int(raw.clock), f"m9x{x}r60000".encode())
    assert value == f"p-7m9x{x}r60000;x".encode()
    raw.settle((id_, receipt, "rd500m20", "", "", ""))
    raw.later(1)
    ((_, receipt, count, _, options, _),) = raw.get()
    assert (count, options) == (2, f"m9o20x{x}r60000g1000".encode())


def test_a_damaged_entry_is_set_aside_and_the_others_go_on(raw):
    """Whatever somebody planted: the message is kept as a dead letter that says so."""
    ids = [raw.push(b"x", "t50000") for _ in range(3)]
    raw.server.hset(f"{raw.base}:state", ids[0], "what is this")
    raw.server.hset(f"{raw.base}:messages", ids[1], "no head")
    assert raw.call("peek")[0].decode() == ids[2]
    assert [found[0] for found in raw.get(9)] == [ids[2]]
    letters = raw.call("dead_letters", 9, "", "1")
    assert {letters[at].decode(): letters[at + 6] for at in range(0, len(letters), 8)} == {
        ids[0]: b"its state cannot be read",
        ids[1]: b"its bytes are not a message",
    }
    assert not raw.server.zcard(f"{raw.base}:expiring")


def test_a_get_goes_on_behind_damaged_messages(raw):
    """However many lie in front: `more` tells the client to ask again at once, get and pop alike."""
    ids = [raw.push() for _ in range(9)]
    raw.server.hdel(f"{raw.base}:messages", *ids[:8])
    answers = [raw.exchange(1) for _ in range(3)]
    assert [len(answer) for answer in answers] == [5, 5, 10]
    assert [answer[2] for answer in answers] == [1, 1, 0]


def test_a_pop_goes_on_behind_damaged_messages(raw):
    """The same for pop."""
    ids = [raw.push() for _ in range(9)]
    raw.server.hdel(f"{raw.base}:messages", *ids[:8])
    assert raw.do("pop") == raw.do("pop") == [b"more"]
    assert raw.do("pop")[0].decode() == ids[8]
