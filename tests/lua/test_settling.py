"""settling.lua: delete, release, bury, checked against the receipt where nothing can come in between."""

import pytest

DELETE, BURY = ("d", "", "", ""), ("b", "why", "", "")


def release(options="", reason="", failure="", result=""):
    return (f"r{options}", reason, failure, result)


def get(raw, **how):
    ((id_, receipt, *_),) = raw.get(1, **how)
    return id_, receipt


@pytest.mark.parametrize("receipt", ["", "-", "1", "1-", "x-" + "0" * 16, "1-0123456789abcde", "*", " "])
@pytest.mark.parametrize("verb", [DELETE, BURY, release()])
def test_a_foreign_receipt_changes_nothing(raw, verb, receipt):
    """'-' is what a message without receipt has: it must not be one."""
    raw.push()
    id_, _ = get(raw)
    before = {name: value for name, value in raw.dump().items() if not name.endswith((b":clients", b":recent"))}
    assert raw.settle((id_, receipt, *verb)) == ["stale"]
    after = {name: value for name, value in raw.dump().items() if not name.endswith((b":clients", b":recent"))}
    assert after == before


def test_a_prefix_of_a_receipt_is_none(raw):
    """Compared whole: receipts begin alike."""
    raw.push()
    id_, receipt = get(raw)
    assert raw.settle((id_, receipt[:-1], *DELETE)) == ["stale"]
    assert raw.settle((id_, receipt + "0", *DELETE)) == ["stale"]
    assert raw.settle((id_, receipt, *DELETE)) == ["done"]


def test_only_the_latest_delivery_settles(timed):
    """A stale worker can do no harm."""
    raw = timed(visibility_timeout=10)
    raw.push()
    id_, stale = get(raw)
    raw.later(11)
    _, fresh = get(raw)
    for verb in (DELETE, BURY, release()):
        assert raw.settle((id_, stale, *verb)) == ["stale"]
    assert raw.call("extend", 1000, id_, stale) == [b"stale"]
    assert raw.settle((id_, fresh, *DELETE)) == ["done"]


@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize("verb", [DELETE, BURY, release()])
def test_late_but_not_delivered_again_is_in_time(timed, verb, seen):
    """The receipt stays valid until the next delivery, whether or not somebody moved the message to the ready."""
    raw = timed(visibility_timeout=10)
    raw.push()
    id_, receipt = get(raw)
    raw.later(11)
    if seen:
        raw.call("pause", "1")
        raw.call("pause", "0")
        raw.do("purge", "leased")
        assert raw.server.zcard(f"{raw.base}:ready") == 1
    assert raw.settle((id_, receipt, *verb)) == ["done"]
    info = raw.info()
    assert (info["ready"], info["leased"], info["dead"]) == (int(verb == release()), 0, int(verb == BURY))


def test_who_let_its_last_lease_end_may_still_report_it_done(timed):
    """Dead by its count: delete is taken, for it says that the work was done; nothing else is."""
    raw = timed(visibility_timeout=10, max_retrievals=1)
    raw.push(b"x", "r60000")
    id_, receipt = get(raw)
    raw.later(11)
    raw.do("purge", "ready")
    assert raw.info()["dead"] == 1
    assert raw.settle((id_, receipt, *release()), (id_, receipt, *BURY)) == ["stale", "stale"]
    assert raw.call("extend", 1000, id_, receipt) == [b"stale"]
    assert raw.settle((id_, receipt, "d", "", "", "the result")) == ["done"]
    assert raw.info()["dead"] == 0
    assert raw.server.lrange(raw.address.result(id_), 0, -1) == [b"the result"]
    assert not raw.server.exists(f"{raw.base}:messages", f"{raw.base}:state", f"{raw.base}:reasons")


@pytest.mark.parametrize("end", ["bury", "redrive"])
def test_burying_by_hand_and_redrive_end_the_receipt(timed, end):
    """Then somebody has decided."""
    raw = timed(visibility_timeout=10, max_retrievals=1)
    raw.push()
    id_, receipt = get(raw)
    if end == "bury":
        assert raw.settle((id_, receipt, *BURY)) == ["done"]
    else:
        raw.later(11)
        raw.do("redrive", "", id_)
    assert raw.settle((id_, receipt, *DELETE)) == ["stale"]


def test_each_settlement_stands_for_itself(raw):
    """A stale one among good ones changes nothing for the others; the second of a pair is stale."""
    for _ in range(3):
        raw.push()
    held = raw.get(3)
    (a, receipt, *_), (b, *_), (c, *_) = held
    words = raw.settle(
        (a, receipt, *DELETE), (b, "1-" + "0" * 16, *DELETE), (a, receipt, *BURY), (c, receipt, *BURY),
        ("no such id", receipt, *DELETE),
    )  # fmt: skip
    assert words == ["done", "stale", "stale", "done", "stale"]
    info = raw.info()
    assert (info["leased"], info["dead"], info["deleted"], info["buried"]) == (1, 1, b"1", b"1")


def test_a_thousand_settlements_at_most(raw):
    """More would not fit into one call of Lua; nothing is done then, not half of it."""
    raw.push()
    id_, receipt = get(raw)
    for count in (1001, 9000):
        with raw.refused("INVALID_OPTION"):
            raw.settle(*[(id_, receipt, *DELETE)] * count)


@pytest.mark.parametrize("parts", [1, 2, 5, 7])
def test_settlements_have_six_parts(raw, parts):
    """A client of another mind is refused before anything is done."""
    with raw.refused("INVALID_OPTION"):
        raw.do("exchange", 0, "", "plain", *["d"] * parts)


def test_texts_are_bounded(raw):
    """64 KiB of reason or failure, 16 MiB of result."""
    raw.push()
    id_, receipt = get(raw)
    for verb in (("b", "x" * 65537, "", ""), ("b", "x", "y" * 65537, "")):
        with raw.refused("INVALID_OPTION"):
            raw.settle((id_, receipt, *verb))


# --- release


def test_a_counted_release_queues_behind_what_is_ready(timed):
    """Or failing work would starve new work."""
    raw = timed()
    raw.push(b"fails")
    raw.later(1)
    raw.push(b"waits")
    raw.later(1)
    id_, receipt = get(raw)
    raw.settle((id_, receipt, *release()))
    assert [found[5] for found in raw.get(9)] == [b";waits", b";fails"]


def test_what_was_never_started_keeps_its_place_and_its_count(timed):
    """A hand-back without counting leaves no trace, but that it happened."""
    raw = timed()
    raw.push(b"first")
    raw.later(1)
    raw.push(b"second")
    raw.later(1)
    id_, receipt = get(raw)
    raw.settle((id_, receipt, *release("u1")))
    first, second = raw.get(9)
    assert [first[5], second[5]] == [b";first", b";second"]
    assert first[2:4] == second[2:4] == (1, int(raw.clock))


def test_a_release_may_wait(timed):
    """Ready after its delay, in the line of then."""
    raw = timed()
    raw.push(b"x", "p5")
    id_, receipt = get(raw)
    raw.settle((id_, receipt, *release("d5000")))
    raw.later(4.999)
    assert raw.get() == []
    raw.push(b"low")
    raw.later(0.001)
    assert [found[5] for found in raw.get(9)] == [b"p5;x", b";low"]


def test_a_release_at_the_limit_is_a_burial(timed):
    """With the holder's reason, or one that tells the count."""
    raw = timed(max_retrievals=2)
    ids = [raw.push(b"x", "r60000") for _ in range(2)]
    for _ in range(2):
        held = raw.get(2)
        (a, receipt, *_), (b, *_) = held
        words = raw.settle((a, receipt, *release("", "it raised", "trace", "sealed")), (b, receipt, *release()))
    assert words == ["dead", "dead"]
    letters = raw.call("dead_letters", 9, "", "1")
    reasons = {letters[at].decode(): letters[at + 6] for at in (0, 8)}
    assert reasons == {ids[0]: b"it raised", ids[1]: b"given back at delivery 2 of 2"}
    assert raw.server.lindex(raw.address.result(ids[0]), 0) == b"sealed"
    assert raw.server.lindex(raw.address.result(ids[1]), 0) == b"!buried given back at delivery 2 of 2"
    assert letters[7] == b"5:trace,5:trace,"


def test_a_message_may_carry_its_own_limit_and_get_another(timed):
    """The push's max_retrievals over the queue's, a later release's over both."""
    raw = timed(max_retrievals=1)
    raw.push(b"x", "m2")
    id_, receipt = get(raw)
    assert raw.settle((id_, receipt, *release())) == ["done"]
    id_, receipt = get(raw)
    assert raw.settle((id_, receipt, *release("m3"))) == ["done"]
    id_, receipt = get(raw)
    assert raw.settle((id_, receipt, *release())) == ["dead"]


def test_uncounted_returns_count_from_the_twenty_first_in_a_row(timed):
    """A message must not circle for ever; what nobody can read is bounded by time instead, by its holders."""
    raw = timed(max_retrievals=1)
    raw.push()
    for _ in range(20):
        id_, receipt = get(raw)
        assert raw.settle((id_, receipt, *release("u1"))) == ["done"]
    id_, receipt = get(raw)
    assert raw.settle((id_, receipt, *release("u1"))) == ["dead"]
    raw.push()
    for _ in range(30):
        id_, receipt = get(raw)
        assert raw.settle((id_, receipt, *release("u1k1"))) == ["done"]
    assert raw.info()["uncounted"] == b"50"


def test_only_uncounted_returns_in_a_row_add_up(timed):
    """A lease end in between counts, and the row begins anew."""
    raw = timed(visibility_timeout=10, max_retrievals=99)
    raw.push()
    for _ in range(15):
        id_, receipt = get(raw)
        raw.settle((id_, receipt, *release("u1")))
    get(raw)
    raw.later(11)
    for _ in range(20):
        id_, receipt = get(raw)
        assert raw.settle((id_, receipt, *release("u1"))) == ["done"]
    assert raw.info()["uncounted"] == b"35"


def test_a_message_handed_back_before_its_first_start_was_never_retrieved(timed):
    """Count 0 and no first delivery; one that was started before keeps its first."""
    raw = timed()
    raw.push()
    first = int(raw.clock)
    id_, receipt = get(raw)
    raw.settle((id_, receipt, *release("u1")))
    assert raw.call("messages", "ready", 1, "", "1")[2:4] == [0, b"0"]
    raw.later(5)
    id_, receipt = get(raw)
    raw.settle((id_, receipt, *release()))
    raw.later(5)
    id_, receipt = get(raw)
    raw.settle((id_, receipt, *release("u1")))
    assert raw.call("messages", "ready", 1, "", "1")[2:4] == [1, str(first + 5000).encode()]


def test_a_ttl_runs_on_while_a_release_waits(timed):
    """A retry later than the end of its life is none."""
    raw = timed()
    raw.push(b"x", "t5000")
    id_, receipt = get(raw)
    raw.settle((id_, receipt, *release("d90000")))
    raw.later(6)
    assert raw.get() == []
    assert (raw.info()["delayed"], raw.info()["expired"]) == (0, b"1")


def test_a_delete_leaves_nothing_of_the_message(raw):
    """Bytes, state, history: memory is given back."""
    raw.push(b"x", "t60000")
    for verb in (release("", "", "failed"), DELETE):
        id_, receipt = get(raw)
        raw.settle((id_, receipt, *verb))
    for part in ("messages", "state", "failures", "leased", "ready", "expiring"):
        assert not raw.server.exists(f"{raw.base}:{part}")


def test_unknown_since_lasts_until_something_starts_it(timed):
    """The time to burying runs from the first such hand-back."""
    raw = timed()
    raw.push()
    since = raw.clock
    for _ in range(3):
        ((id_, receipt, _, _, options, _),) = raw.get()
        raw.settle((id_, receipt, *release("u1k1")))
        raw.later(60)
    ((id_, receipt, _, _, options, _),) = raw.get()
    assert options == f"u3k{since}".encode()
    raw.settle((id_, receipt, *release()))
    ((_, _, _, _, options, _),) = raw.get()
    assert options == b""


# --- suspects


def test_what_a_worker_died_with_comes_alone(timed):
    """Workers leave it to a process of its own; a plain get takes it in its place."""
    raw = timed()
    for body in (b"killer", b"good"):
        raw.push(body)
        raw.later(1)
    id_, receipt = get(raw, mode="worker")
    raw.settle((id_, receipt, *release("c1")))
    reply = raw.exchange(9, mode="worker")
    assert reply[9::5] == [b";good"]
    assert reply[3] == 1
    assert raw.call("peek")[0].decode() == id_
    (found,) = raw.get(9, mode="solo")
    assert (found[0], found[4]) == (id_, b"c1w1")


def test_solo_gives_one_suspect_a_call(timed):
    """However many wait, and whatever the limit."""
    raw = timed()
    for _ in range(3):
        raw.push()
    held = raw.get(3, mode="worker")
    raw.settle(*[(id_, receipt, *release("c1")) for id_, receipt, *_ in held])
    assert [len(raw.get(9, mode="solo")) for _ in range(4)] == [1, 1, 1, 0]


@pytest.mark.parametrize(("crashes", "least", "most"), [(1, 0, 0), (2, 2, 4), (3, 4, 8), (6, 30, 60), (9, 30, 60)])
def test_from_the_second_crash_it_comes_back_later_and_later(timed, crashes, least, most):
    """min(2^crashes, 60) s, with jitter down to the half."""
    raw = timed(max_retrievals=99)
    raw.push()
    for _ in range(crashes):
        raw.later(100)
        ((id_, receipt, *_),) = raw.get(1)
        raw.settle((id_, receipt, *release("c1")))
    info = raw.info()
    assert info["delayed"] == int(crashes > 1)
    if crashes > 1:
        assert least * 1000 <= info["due"] <= most * 1000


def test_a_return_that_is_no_crash_ends_the_suspicion(timed):
    """In a row means in a row."""
    raw = timed()
    raw.push()
    for options in ("c1", ""):
        id_, receipt = get(raw)
        raw.settle((id_, receipt, *release(options)))
    assert len(raw.get(1, mode="worker")) == 1


def test_lease_ends_of_workers_are_crashes(timed):
    """A worker extends what runs: whose lease ends has lost its worker."""
    raw = timed(visibility_timeout=10)
    raw.push()
    get(raw, mode="worker")
    for _ in range(6):
        raw.later(2)
        raw.exchange(1, mode="worker")
    assert raw.get(1, mode="worker") == []
    ((_, _, count, _, options, _),) = raw.get(1, mode="solo")
    assert (count, options) == (2, b"c1g12000w1")


def test_a_suspect_wakes_the_next_getter_too(timed):
    """Whoever takes some and leaves some wakes the next, also when what is left is a suspect."""
    raw = timed()
    for _ in range(2):
        raw.push()
    held = raw.get(2, mode="worker")
    raw.settle(*[(id_, receipt, *release("c1")) for id_, receipt, *_ in held])
    raw.server.delete(f"{raw.base}:wake")
    assert len(raw.get(1)) == 1
    assert raw.server.llen(f"{raw.base}:wake") == 1


def test_one_settlement_deletes_all_that_its_ids_name(raw):
    """Ids with spaces between, all of one delivery: one word for all when all are done, else a letter for each."""
    ids = [raw.push() for _ in range(3)]
    other = raw.push()
    receipt = raw.get(3)[0][1]
    (held,) = raw.get(1)
    words = raw.settle(
        (held[0], held[1], "r", "", "", ""),
        (" ".join([ids[0], other, ids[2], ids[0]]), receipt, "D", "", "", ""),
        (ids[1], receipt, "d", "", "", ""),
    )
    assert words == ["done", "dsds", "done"]
    assert raw.settle((ids[0], receipt, "D", "", "", "")) == ["s"]
    assert [found[0] for found in raw.get(9)] == [other]
    assert raw.info()["deleted"] == b"3"


def test_the_ids_of_a_settlement_count_among_the_thousand(raw):
    """A list in one argument is no way round the bound of a call."""
    with raw.refused("INVALID_OPTION"):
        raw.settle((" ".join(["x"] * 1001), "1-abc", "D", "", "", ""))
