"""reading.lua: reads see the queue as the next get would, and touch nothing."""

import pytest


def page(raw, state, limit=100, cursor="", data=1):
    reply = raw.call("messages", state, limit, cursor, data)
    return [(reply[at].decode(), int(reply[at + 1]), reply[at + 5]) for at in range(0, len(reply), 6)]


def walk(raw, state, limit):
    """All pages, to the empty one."""
    found, cursor = [], ""
    while rows := page(raw, state, limit, cursor):
        found += [id_ for id_, _, _ in rows]
        cursor = f"{rows[-1][1]} {rows[-1][0]}"
    return found


def dead(raw, limit=100, cursor="", *ids):
    reply = raw.call("dead_letters", limit, cursor, "1", *ids)
    return [(reply[at].decode(), int(reply[at + 1]), reply[at + 6]) for at in range(0, len(reply), 8)]


@pytest.mark.parametrize("state", ["", "Ready", "gone", "*", "wake"])
def test_states_are_four(raw, state):
    """Nothing else can be looked into."""
    with raw.refused("INVALID_OPTION"):
        page(raw, state)


@pytest.mark.parametrize("limit", [0, 1001, -1])
def test_a_page_has_up_to_a_thousand_rows(raw, limit):
    """Bounded work in each call."""
    with raw.refused("INVALID_OPTION"):
        page(raw, "ready", limit)
    with raw.refused("INVALID_OPTION"):
        raw.call("dead_letters", limit, "", "1")


@pytest.mark.parametrize("cursor", ["x", "5", "nan id", "0x10 id", "1e5 id", "9" * 18 + " id"])
def test_a_cursor_is_a_score_and_an_id(raw, cursor):
    """One that cannot be read is not the beginning: pages would repeat for ever."""
    with raw.refused("INVALID_OPTION"):
        page(raw, "ready", 5, cursor)
    with raw.refused("INVALID_OPTION"):
        raw.call("dead_letters", 5, cursor, "1")


def test_pages_go_on_behind_ids_that_a_stranger_wrote(raw):
    """Whatever is in them: the next page begins there."""
    strange = [b"", b"two words", b"a\nb", b"n\0l", b"x" * 3000]
    raw.server.zadd(f"{raw.base}:dead", {name: number for number, name in enumerate(strange)})
    found, after = [], ""
    while reply := raw.call("dead_letters", 1, after, "1"):
        found.append(reply[0])
        after = b"%s %s" % (reply[1], reply[0])
    assert found == strange


@pytest.mark.parametrize("data", ["", "2", "yes"])
def test_data_is_yes_or_no(raw, data):
    """1 or 0."""
    with raw.refused("INVALID_OPTION"):
        page(raw, "ready", 5, "", data)
    with raw.refused("INVALID_OPTION"):
        raw.call("dead_letters", 5, "", data)


def test_reads_write_nothing(timed):
    """Whatever is due."""
    raw = timed(visibility_timeout=5, max_retrievals=1, on_expiry="bury")
    raw.push(b"leased")
    raw.get()
    raw.push(b"delayed", "d1000")
    raw.push(b"expired", "t1000")
    raw.later(60)
    before = raw.server.hgetall(raw.base), raw.dump()
    raw.info()
    raw.call("peek")
    for state in ("ready", "delayed", "leased", "dead"):
        page(raw, state)
    dead(raw)
    assert (raw.server.hgetall(raw.base), raw.dump()) == before


def test_what_time_has_done_is_seen_before_anybody_moves_it(timed):
    """Due is ready, ended at its limit is dead, expired is gone; and after the next get it is the same."""
    raw = timed(visibility_timeout=5)
    dying, again = raw.push(b"dying", "m1"), raw.push(b"again")
    raw.get(2)
    due, later = raw.push(b"due", "d1000p3"), raw.push(b"later", "d100000")
    raw.push(b"expired", "t1000")
    raw.push(b"expired delayed", "d2000t1000")
    raw.push(b"expired early", "d90000t1000")
    ready = raw.push(b"ready")
    raw.later(60)

    def look():
        info = raw.info()
        counts = [info[name] for name in ("ready", "delayed", "leased", "dead")]
        return counts, page(raw, "ready"), page(raw, "delayed"), page(raw, "leased"), page(raw, "dead"), dead(raw)

    seen = look()
    assert seen[0] == [3, 1, 0, 1]
    assert [[row[0] for row in rows] for rows in seen[1:]] == [[due, ready, again], [later], [], [dying], [dying]]
    assert raw.do("purge", "leased") == 0
    assert look() == seen


def test_on_expiry_bury_is_seen_as_well(timed):
    """With the moment its ttl ended and the reason that the burial will give."""
    raw = timed(on_expiry="bury", visibility_timeout=10)
    ids = [raw.push(b"x", options) for options in ("t1000", "t2000d1500", "t3000d90000", "t4000")]
    raw.later(0)
    raw.do("purge", "dead")
    raw.server.zrem(f"{raw.base}:ready", ids[3])
    raw.server.zadd(f"{raw.base}:ready", {ids[3]: -1e15})
    assert raw.get()[0][0] == ids[3]
    ended = int(raw.clock)
    raw.later(60)
    seen = dead(raw)
    assert [(id_, since - ended) for id_, since, _ in seen] == [
        (ids[0], 1000), (ids[1], 2000), (ids[2], 3000), (ids[3], 4000),
    ]  # fmt: skip
    assert raw.info()["dead"] == 4
    assert dead(raw, 100, "", ids[2], "no such id", ids[0]) == [seen[0], seen[2]]
    assert (raw.get(), raw.info()["ready"]) == ([], 0)
    assert dead(raw) == seen


@pytest.mark.parametrize("limit", [1, 3, 100])
@pytest.mark.parametrize("state", ["ready", "delayed", "leased", "dead"])
def test_pages_cover_a_state_once_in_its_order(timed, state, limit):
    """Also among messages of one millisecond, whose scores are equal."""
    raw = timed(visibility_timeout=600)
    options = "d600000" if state == "delayed" else ""
    ids = []
    for burst in range(3):
        ids += [raw.push(b"%d" % number, options) for number in range(7)]
        if burst < 2:
            raw.later(1)
    if state in ("leased", "dead"):
        held = raw.get(100)
        if state == "dead":
            raw.settle(*[(id_, receipt, "b", "why", "", "") for id_, receipt, *_ in held])
    assert walk(raw, state, limit) == ids


def test_pages_go_on_when_the_row_of_the_cursor_is_gone(timed):
    """The cursor is a place, not a row."""
    raw = timed()
    ids = [raw.push() for _ in range(9)]
    rows = page(raw, "ready", 4)
    raw.get(4)
    assert [row[0] for row in page(raw, "ready", 100, f"{rows[-1][1]} {rows[-1][0]}")] == ids[4:]


def test_what_is_due_does_not_hide_what_is_not(timed):
    """A page of leases begins behind those that have ended: an empty page means the end."""
    raw = timed(visibility_timeout=5)
    for _ in range(20):
        raw.push()
    raw.get(15)
    raw.push(b"x", "d5000")
    raw.push(b"x", "d90000")
    held = raw.get(5, 90_000)
    raw.later(10)
    assert [row[0] for row in page(raw, "leased", 5)] == [found[0] for found in held]
    assert len(page(raw, "delayed", 1)) == 1
    assert len(walk(raw, "ready", 4)) == 16


def test_peek_is_the_next_get(timed):
    """Among ready, due, ended and suspect messages, behind expired ones."""
    raw = timed(visibility_timeout=5, max_retrievals=99)
    for _ in range(30):
        raw.push(b"expired", "t500p9")
    raw.push(b"suspect")
    id_, receipt, *_ = raw.get(31)[-1]
    raw.settle((id_, receipt, "rc1", "", "", ""))
    raw.push(b"leased")
    raw.later(0.1)
    raw.push(b"due", "d300")
    raw.push(b"urgent due", "d700p1")
    raw.later(10)
    raw.push(b"new")
    order = []
    while peeked := raw.call("peek"):
        got = raw.exchange(1)
        while got[2]:
            got = raw.exchange(1)
        assert (got[5], got[6], got[9]) == (peeked[0], peeked[2] + 1, peeked[5])
        order.append(got[9].rpartition(b";")[2])
    assert order == [b"urgent due", b"suspect", b"leased", b"due", b"new"]
    assert raw.get() == []


def test_metadata_can_be_read_without_the_data(raw):
    """data=0 for listings of large messages."""
    raw.push(b"key\0value\0" + b"x" * 1000, "n10p4")
    ((_, _, value),) = page(raw, "ready", 1, "", 0)
    assert value == b"p4n10;key\0value\0"


def test_a_page_ends_after_256_kib(raw):
    """At least one row, and the next page has the rest."""
    ids = [raw.push(b"x" * 200_000) for _ in range(3)]
    assert len(page(raw, "ready", 100)) == 1
    assert walk(raw, "ready", 100) == ids


def test_a_damaged_letter_can_be_looked_at(raw):
    """Its bytes as they are: somebody has to see what happened."""
    id_, missing = raw.push(), raw.push()
    raw.server.hset(f"{raw.base}:messages", id_, "no head at all")
    raw.server.hdel(f"{raw.base}:messages", missing)
    raw.get()
    raw.get()
    reply = raw.call("dead_letters", 9, "", "1")
    assert {reply[at].decode(): reply[at + 5] for at in (0, 8)} == {id_: b";no head at all", missing: b";"}


def test_info_tells_ages(timed):
    """How long the oldest ready message has been ready, and until when nothing happens by itself."""
    raw = timed(visibility_timeout=60)
    assert (raw.info()["oldest"], raw.info()["due"]) == (-1, -1)
    raw.push(b"x", "d5000")
    assert (raw.info()["oldest"], raw.info()["due"]) == (-1, 5000)
    raw.later(7)
    assert raw.info()["oldest"] == 2000
    raw.get()
    assert (raw.info()["oldest"], raw.info()["due"]) == (-1, 60_000)


def test_dead_letters_are_read_without_their_histories(raw):
    """A scan of many does not carry what it does not look at."""
    id_ = raw.push(b"mmbody", "n2")
    ((_, receipt, *_),) = raw.get()
    raw.settle((id_, receipt, "b", "why", "failed", ""))
    light = raw.call("dead_letters", 10, "", "-")
    assert light[5:] == [b"n2;mm", b"why", b""]
    assert raw.call("dead_letters", 10, "", "0")[5:] == [b"n2;mm", b"why", b"6:failed,"]
    assert raw.call("dead_letters", 10, "", "1", id_)[5:] == [b"n2;mmbody", b"why", b"6:failed,"]


def test_a_short_history_is_the_beginning_of_the_last_records(raw):
    """Enough to tell what went wrong, where many letters are looked through: four records, a thousand bytes of each."""
    id_ = raw.push(b"x")
    records = [f"{number}:" + "é" * number * 100 for number in range(7)]
    for record in records:
        ((_, receipt, *_),) = raw.get()
        raw.settle((id_, receipt, "b", "why", record, ""))
        raw.do("redrive", "", id_)
    ((_, receipt, *_),) = raw.get()
    raw.settle((id_, receipt, "b", "why", "", ""))
    (found, *_, reason, history) = raw.call("dead_letters", 9, "", "s")
    shown = [record.encode()[:1000] for record in records[-4:]]
    assert (found.decode(), reason) == (id_, b"why")
    assert history == b"".join(b"%d:%b," % (len(record), record) for record in shown)


def test_a_short_history_of_something_else_is_what_can_be_read_of_it(raw):
    """A stranger may have written it."""
    id_ = raw.push(b"x")
    ((_, receipt, *_),) = raw.get()
    raw.settle((id_, receipt, "b", "why", "", ""))
    for text, shown in (
        ("nonsense", b""),
        ("3:abc,9", b"3:abc,"),
        ("999:abc", b"3:abc,"),
        ("99999999999999999999:a", b""),
    ):
        raw.server.hset(f"{raw.base}:failures", id_, text)
        assert raw.call("dead_letters", 9, "", "s")[-1] == shown


def test_a_page_of_large_letters_ends_early(raw):
    """Bodies are weighed where the largest would fill a page; a letter without one is not forgotten."""
    ids = []
    for size in (1, 200_000, 100_000, 1):
        ids.append(raw.push(b"x" * size))
        ((_, receipt, *_),) = raw.get()
        raw.settle((ids[-1], receipt, "b", "why", "", ""))
    found = raw.call("dead_letters", 9, "", "1")
    assert [id_.decode() for id_ in found[::8]] == ids[:2]
