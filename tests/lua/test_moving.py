"""moving.lua: what time does to messages, and the choice of what is delivered."""

import pytest


def body(found):
    return [value.rpartition(b";")[2] for *_, value in found]


def test_due_delays_and_ended_leases_join_the_line_where_they_became_ready(timed):
    """Priority, then when it became ready: not when somebody noticed."""
    raw = timed(visibility_timeout=3)
    raw.push(b"leased")
    raw.get()
    raw.push(b"delayed", "d2000")
    raw.later(1)
    raw.push(b"first")
    raw.later(1.5)
    raw.push(b"third")
    raw.later(1)
    raw.push(b"fifth")
    raw.push(b"urgent", "p1d0")
    assert body(raw.get(9)) == [b"urgent", b"first", b"delayed", b"third", b"leased", b"fifth"]


def test_equal_times_are_in_the_order_of_the_push(timed):
    """Ties are broken by id."""
    raw = timed()
    for number in range(20):
        raw.push(b"%d" % number, "d1000")
    raw.later(1)
    assert body(raw.get(20)) == [b"%d" % number for number in range(20)]


def test_a_delayed_priority_is_kept(timed):
    """It is not known from the place in `delayed`."""
    raw = timed()
    raw.push(b"low", "d1000p-5")
    raw.push(b"plain", "d1000")
    raw.push(b"high", "d1000p5")
    raw.later(5)
    assert body(raw.get(9)) == [b"high", b"plain", b"low"]


def test_the_last_lease_that_ends_is_a_burial(timed):
    """Right there, by whoever asks next: a message that kills every worker ends in dead without anybody saying so."""
    raw = timed(visibility_timeout=10, max_retrievals=2)
    raw.push(b"x", "r60000")
    for _ in range(2):
        raw.later(11)
        assert len(raw.get()) == 1
    raw.later(10)
    died = int(raw.clock)
    raw.later(50)
    assert raw.get() == []
    letter = raw.call("dead_letters", 1, "", "1")
    assert (letter[1], letter[2]) == (str(died).encode(), 2)
    assert letter[6] == b"its lease ended at delivery 2 of 2 without an answer"
    assert raw.server.lindex(raw.address.result(letter[0].decode()), 0).startswith(b"!lost its lease ended")


def test_max_retrievals_is_asked_at_the_end_never_at_the_delivery(timed):
    """A limit that was lowered meanwhile does not bury what waits, and redrive is not undone by it."""
    raw = timed(visibility_timeout=10, max_retrievals=5)
    raw.push()
    for _ in range(3):
        ((id_, receipt, *_),) = raw.get()
        raw.settle((id_, receipt, "r", "", "", ""))
    raw.call("configure", "max_retrievals", 1)
    ((_, _, count, *_),) = raw.get()
    assert count == 4
    raw.later(11)
    assert raw.get() == []
    assert raw.info()["dead"] == 1


@pytest.mark.parametrize("options", ["t5000", "t5000d2000", "t5000d9000"])
def test_a_ttl_runs_while_a_message_waits(timed, options):
    """Ready or delayed: dropped, counted, and whoever waits for its result is told."""
    raw = timed()
    id_ = raw.push(b"x", options + "r60000")
    raw.later(4.999)
    assert (raw.info()["ready"], raw.info()["delayed"]) == ((0, 1) if "d9" in options else (1, 0))
    raw.later(0.001)
    assert raw.get() == []
    info = raw.info()
    assert (info["ready"], info["delayed"], info["dead"], info["expired"]) == (0, 0, 0, b"1")
    assert raw.server.lindex(raw.address.result(id_), 0).startswith(b"!expired ")
    for part in ("messages", "state", "expiring", "ready", "delayed"):
        assert not raw.server.exists(f"{raw.base}:{part}")


def test_a_ttl_stops_while_a_message_is_held(timed):
    """Who holds it may finish; given back too late it ends."""
    raw = timed(visibility_timeout=60)
    raw.push(b"kept", "t5000")
    raw.push(b"late", "t5000")
    (a, receipt, *_), (b, *_) = raw.get(2)
    raw.later(50)
    assert raw.settle((a, receipt, "d", "", "", ""), (b, receipt, "r", "", "", "")) == ["done", "done"]
    assert raw.get() == []
    assert raw.info()["expired"] == b"1"


def test_on_expiry_bury_keeps_what_expired(timed):
    """As a dead letter of the moment its ttl ended."""
    raw = timed(on_expiry="bury")
    raw.push(b"x", "t5000")
    ended = int(raw.clock) + 5000
    raw.later(60)
    assert raw.get() == []
    letter = raw.call("dead_letters", 1, "", "1")
    assert (letter[1], letter[6]) == (str(ended).encode(), b"its ttl ended before it was delivered")
    assert raw.info()["dead"] == 1


def test_ttl_is_asked_at_the_delivery_too(timed):
    """Sweeping is bounded: a message that nobody swept is still not delivered."""
    raw = timed()
    for number in range(150):
        raw.push(b"old", "t1000p%d" % (100 if number == 149 else 0))
        raw.later(0.001)
    raw.later(2)
    assert raw.get() == []


def test_a_queue_s_ttl_is_a_default(timed):
    """A push may say otherwise."""
    raw = timed(ttl=5)
    raw.push(b"short")
    raw.push(b"long", "t60000")
    raw.later(6)
    assert body(raw.get(9)) == [b"long"]


def test_a_plain_get_merges_suspects_in_their_order(timed):
    """Only workers set them apart."""
    raw = timed()
    for number in range(6):
        raw.push(b"%d" % number)
        raw.later(1)
    held = raw.get(3, mode="worker")
    raw.settle(*[(id_, receipt, "rc1", "", "", "") for id_, receipt, *_ in held[::2]])
    raw.settle((held[1][0], held[1][1], "r", "", "", ""))
    raw.push(b"6", "p1")
    assert body(raw.get(2)) == [b"6", b"3"]
    assert body(raw.get(9)) == [b"4", b"5", b"0", b"1", b"2"]


def test_what_outlived_its_ttl_while_it_was_leased_is_dead_as_reads_say(timed):
    """Its lease ends and its ttl has ended: it can be purged by the id that reads show among the dead, at once."""
    raw = timed(on_expiry="bury")
    message_id = raw.push(options="t2000")
    raw.get(timeout="5000")
    raw.later(6)
    assert raw.call("messages", "dead", "10", "", "0")[0].decode() == message_id
    assert raw.do("purge", "dead", message_id) == 1
