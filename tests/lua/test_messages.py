"""messages.lua: exchange, pop, extend, abandon."""

import pytest

NONCE = "0123456789abcdef"


def drain(raw, **how):
    found = []
    while got := raw.get(100, **how):
        found += got
    return found


@pytest.mark.parametrize("limit", ["-1", "1001"])
def test_an_exchange_gets_at_most_a_thousand(raw, limit):
    """0 only settles."""
    with raw.refused("INVALID_OPTION"):
        raw.exchange(limit)
    assert raw.exchange(0)[1] == -1


@pytest.mark.parametrize("mode", ["", "Plain", "worker ", "x"])
def test_an_exchange_has_a_mode(raw, mode):
    """plain, worker or solo."""
    with raw.refused("INVALID_OPTION"):
        raw.exchange(1, mode=mode)


@pytest.mark.parametrize("timeout", ["0", "-1", "315360000001"])
def test_a_visibility_timeout_is_a_ms_to_ten_years(raw, timeout):
    """Zero would hide nothing."""
    raw.push()
    with raw.refused("INVALID_OPTION"):
        raw.exchange(1, timeout)


def test_a_receipt_is_the_count_of_deliveries_and_the_nonce(raw):
    """A bare counter goes back after a failover; the nonce does not repeat."""
    for _ in range(3):
        raw.push()
    assert raw.get(2, nonce=NONCE)[0][1] == f"2-{NONCE}"
    assert raw.get(1, nonce=NONCE)[0][1] == f"3-{NONCE}"


def test_after_a_failover_that_lost_a_delivery_the_stale_holder_is_refused(raw):
    """The counter is back where it was, the same message is given the same number: the random part differs."""
    raw.push()
    state, clients = f"{raw.base}:state", f"{raw.base}:clients"
    before = {key: raw.server.dump(key) for key in (raw.base, f"{raw.base}:ready", f"{raw.base}:messages")}
    ((id_, stale, *_),) = raw.get()
    raw.server.delete(state, clients, f"{raw.base}:leased", f"{raw.base}:recent", f"{raw.base}:consumers")
    for key, value in before.items():
        raw.server.restore(key, 0, value, replace=True)
    ((again, fresh, *_),) = raw.get()
    assert (again, fresh.split("-")[0]) == (id_, stale.split("-")[0])
    assert raw.settle((id_, stale, "d", "", "", "")) == ["stale"]
    assert raw.settle((id_, fresh, "d", "", "", "")) == ["done"]


def test_settling_comes_before_getting(raw):
    """What is released in an exchange may come back in it; what is deleted does not."""
    raw.push(b"a")
    raw.push(b"b")
    held = raw.get(2)
    reply = raw.exchange(
        5, settlements=[(held[0][0], held[0][1], "d", "", "", ""), (held[1][0], held[1][1], "ru1", "", "", "")]
    )
    assert reply[0] == [b"done", b"done"]
    assert reply[9::5] == [b";b"]


def test_an_empty_answer_tells_how_long_nothing_can_happen(timed):
    """Until the next delay or lease ends; -1 when nothing will happen by itself."""
    raw = timed(visibility_timeout=30)
    assert raw.exchange(1)[1] == -1
    raw.push()
    raw.get()
    assert raw.exchange(1)[1] == 30_000
    raw.push(b"x", "d7000")
    raw.later(2)
    assert raw.exchange(1)[1] == 5_000


def test_a_get_stops_at_256_kib_but_gives_at_least_one(raw):
    """64 × 1 MiB in one exchange held the server for 214 ms."""
    for _ in range(4):
        raw.push(b"x" * 100_000)
    raw.push(b"y" * 1_000_000)
    assert [len(raw.get(9)) for _ in range(4)] == [2, 2, 1, 0]


def test_moves_of_a_call_are_bounded_and_the_answer_says_when_more_is_due(timed):
    """A hundred of a kind: 250 due messages are found by asking again at once, without waiting."""
    raw = timed()
    for number in range(250):
        raw.push(b"%d" % number, "d1000")
    raw.later(1)
    reply = raw.exchange(150)
    assert (len(reply[5::5]), reply[2]) == (100, 1)
    assert raw.server.llen(f"{raw.base}:wake") == 1
    assert len(drain(raw)) == 150


def test_a_thousand_expired_in_front_are_swept_by_asking_again(timed):
    """Each call takes a share; `more` leads to the one that is still good."""
    raw = timed()
    for _ in range(450):
        raw.push(b"old", "t1000")
    raw.later(1)
    raw.push(b"good")
    answers = [raw.exchange(1)]
    while answers[-1][2]:
        answers.append(raw.exchange(1))
    assert [len(answer) for answer in answers] == [5] * (len(answers) - 1) + [10]
    assert len(answers) <= 6
    assert raw.info()["expired"] == b"450"


def test_pop_says_so_too(timed):
    """`more` is its answer until something good is found, or nothing is left."""
    raw = timed()
    for _ in range(250):
        raw.push(b"old", "t1000")
    raw.later(1)
    raw.push(b"good")
    answers = [raw.do("pop") for _ in range(4)]
    assert [len(answer) for answer in answers] == [1, 1, 5, 0]
    how = {"number": 77, "nonce": NONCE, "client": "client00"}
    for _ in range(450):
        raw.push(b"old", "t1000")
    raw.later(1)
    assert raw.do("pop", **how) == raw.do("pop", **how) == [b"more"]


def test_pop_takes_and_deletes(raw):
    """It counts as a delivery, and leaves nothing behind but the answer that a repeat would need."""
    id_ = raw.push(b"x", "p3m9t60000n0")
    reply = raw.do("pop")
    assert (reply[0].decode(), reply[1]) == (id_, 1)
    info = raw.info()
    assert (info["popped"], info["received"], info["ready"], info["leased"]) == (b"1", b"1", 0, 0)
    for part in ("messages", "state", "ready", "leased", "expiring"):
        assert not raw.server.exists(f"{raw.base}:{part}")
    assert raw.do("pop") == []


def test_a_paused_queue_gives_nothing_but_takes_settlements(raw):
    """get and pop alike."""
    for _ in range(2):
        raw.push()
    ((id_, receipt, *_),) = raw.get()
    raw.call("pause", "1")
    assert raw.do("pop") == []
    reply = raw.exchange(9, settlements=[(id_, receipt, "d", "", "", "")])
    assert (reply[0], reply[1], reply[2], reply[5:]) == ([b"done"], -1, 0, [])
    raw.call("pause", "0")
    assert len(raw.get(9)) == 1


# --- extend


@pytest.mark.parametrize("leases", [(), ("id",), ("id", "r", "id"), ("id", "r") * 1001])
def test_extend_takes_one_to_a_thousand_pairs(raw, leases):
    """Half a pair is none."""
    with raw.refused("INVALID_OPTION"):
        raw.call("extend", 1000, *leases)


def test_extend_counts_from_now(timed):
    """Also shorter than before."""
    raw = timed(visibility_timeout=30)
    raw.push()
    ((id_, receipt, *_),) = raw.get()
    raw.later(20)
    assert raw.call("extend", 30_000, id_, receipt) == [b"done"]
    raw.later(29)
    assert raw.get() == []
    assert raw.call("extend", 500, id_, receipt) == [b"done"]
    raw.later(0.5)
    assert len(raw.get()) == 1


def test_a_lease_that_ended_can_be_taken_up_again(timed):
    """As long as nobody else was given the message."""
    raw = timed(visibility_timeout=10)
    raw.push(b"x", "t60000")
    ((id_, receipt, *_),) = raw.get()
    raw.later(11)
    raw.do("purge", "leased")
    assert raw.info()["ready"] == 1
    assert raw.call("extend", 5000, id_, receipt) == [b"done"]
    info = raw.info()
    assert (info["ready"], info["leased"]) == (0, 1)
    assert raw.call("extend", 90_000, id_, receipt) == [b"done"]
    raw.later(55)
    assert raw.get() == []
    assert raw.settle((id_, receipt, "d", "", "", "")) == ["done"]


def test_extend_tells_each_lease_its_own_word(raw):
    """The lost among the held."""
    for _ in range(2):
        raw.push()
    (a, receipt, *_), (b, *_) = raw.get(2)
    raw.settle((b, receipt, "d", "", "", ""))
    assert raw.call("extend", 1000, a, receipt, b, receipt, "none", receipt, a, "1-wrong0") == [
        b"done", b"stale", b"stale", b"stale",
    ]  # fmt: skip


# --- abandon


@pytest.mark.parametrize(("client", "number"), [("short", ""), ("c" * 41, ""), ("client00", "x"), ("client00", "0")])
def test_abandon_names_a_client_and_perhaps_a_command(raw, client, number):
    """Anything else is refused."""
    with raw.refused("INVALID_OPTION"):
        raw.call("abandon", client, number)


def test_what_a_dead_client_held_unstarted_goes_back_uncounted(timed):
    """What it had started stays until its lease ends: a crash counts."""
    raw = timed()
    for number in range(3):
        raw.push(b"%d" % number)
    held = raw.get(3, client="client00", number=1)
    assert raw.call("abandon", "client00", "", held[1][0]) == 2
    assert [(found[5], found[2]) for found in raw.get(9)] == [(b";0", 1), (b";2", 1)]
    assert raw.call("abandon", "client00", "") == 0
    assert raw.server.llen(f"{raw.base}:wake") == 1


def test_a_message_somebody_settled_meanwhile_is_not_taken_back(raw):
    """Only what the client's last get still holds."""
    for _ in range(2):
        raw.push()
    (a, receipt, *_), (b, *_) = raw.get(2, client="client00", number=1)
    raw.settle((a, receipt, "d", "", "", ""))
    assert raw.call("abandon", "client00", "") == 1
    assert [found[0] for found in raw.get(9)] == [b]


def test_an_interrupted_get_takes_back_its_own_messages_only(raw):
    """It never arrived: what the same connection's earlier get gave is in somebody's hands."""
    raw.push()
    ((id_, receipt, *_),) = raw.get(1, client="client00", number=1)
    assert raw.call("abandon", "client00", 2) == 0
    assert raw.settle((id_, receipt, "d", "", "", "")) == ["done"]
    with raw.refused("COMMAND_CLASH"):
        raw.get(1, client="client00", number=2)


def test_an_interrupted_get_that_was_answered_gives_back(raw):
    """It arrived, and its answer found nobody."""
    raw.push()
    raw.get(1, client="client00", number=2)
    assert raw.call("abandon", "client00", 2) == 1
    assert len(raw.get()) == 1


def test_a_command_is_ended_and_its_client_lives_on(raw):
    """Also when it is ended twice, or long after it: no record of another client is crowded out by that."""
    for _ in range(3):
        raw.push()
    ((a, *_),) = raw.get(1, client="client00", number=7)
    assert raw.call("abandon", "client00", 7) == 1
    assert raw.call("abandon", "client00", 7) == 0
    with raw.refused("COMMAND_CLASH"):
        raw.get(1, client="client00", number=7)
    assert [found[0] for found in raw.get(1, client="client00", number=8)] == [a]
    assert raw.call("abandon", "client00", 7) == 0, "what a later one gave is in somebody's hands"
    assert len(raw.get(1, client="client00", number=9)) == 1
    assert raw.call("abandon", "client00", "") == 1
    assert raw.call("abandon", "client00", 10) == 0
    with raw.refused("CLIENT_GONE"):
        raw.get(1, client="client00", number=11)
    assert raw.call("abandon", "client99", 1) == 0
    with raw.refused("COMMAND_CLASH"):
        raw.get(1, client="client99", number=1)
    assert len(raw.get(1, client="client99", number=2)) == 1


def test_a_get_under_way_to_a_stopped_client_gives_it_nothing(raw):
    """Its queued exchange runs after the supervisor gave it up: refused, so no message goes to nobody."""
    raw.call("abandon", "client00", "")
    raw.push()
    with raw.refused("CLIENT_GONE"):
        raw.get(1, client="client00", number=5)
    assert len(raw.get()) == 1


def test_consumers_are_who_asked_in_the_last_minute(timed):
    """Getters, not producers; and none that was given up."""
    raw = timed()
    raw.push(client="producer-1")
    raw.get(1, client="getter-one")
    raw.exchange(1, client="getter-two", number=1)
    raw.exchange(0, client="settler-one")
    assert raw.info()["consumers"] == 2
    raw.call("abandon", "getter-two", "")
    assert raw.info()["consumers"] == 1
    raw.later(61)
    assert raw.info()["consumers"] == 0
