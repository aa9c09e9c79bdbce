"""calls.lua: the frame of every call. Who asks, which queue, done before?"""

import pytest
import redis

from psmq import library
from psmq.commands import draw_randoms

NONCE = "0123456789abcdef"
SETTINGS = ("max_length", "ttl", "delay")

#: (function, arguments after clock and revision) of each function that opens a queue
OPENING = {
    "push": ("client00", "1", NONCE, "0123456789a", "", "", "x"),
    "exchange": ("client00", "1", NONCE, "1", "", "plain"),
    "pop": ("client00", "1", NONCE),
    "redrive": ("client00", "1", NONCE, "", "id"),
    "purge": ("client00", "1", NONCE, "ready"),
    "extend": ("1000", "id", "1-abcdefgh"),
    "abandon": ("client00", ""),
    "configure": ("delay", "5"),
    "pause": ("1",),
    "wake": (),
    "peek": (),
    "messages": ("ready", "1", "", "1"),
    "dead_letters": ("1", "", "1"),
    "info": (),
}
NUMBERED = ("push", "exchange", "pop", "redrive", "purge")


@pytest.mark.parametrize("function", OPENING)
def test_a_newer_client_is_told_that_the_library_is_old(raw, function):
    """Before any write, with the library's revision: the client replaces it and repeats."""
    with raw.refused("OLD_LIBRARY") as caught:
        raw.call(function, *OPENING[function], revision=library.revision() + 1)
    assert str(caught.value) == f"PSMQ_OLD_LIBRARY {library.revision()}"


@pytest.mark.parametrize("function", OPENING)
def test_an_older_client_is_served(raw, function):
    """During a deploy both revisions talk to one library; only `redrive` of nothing has to complain here."""
    if function == "redrive":
        with raw.refused("MESSAGE_NOT_FOUND"):
            raw.call(function, *OPENING[function], revision=0)
    else:
        raw.call(function, *OPENING[function], revision=0)


@pytest.mark.parametrize("revision", ["nan", "inf", "", "0x1", " 1", "-1", "x"])
@pytest.mark.parametrize("function", OPENING)
def test_a_revision_is_a_number(raw, function, revision):
    """nan is neither older nor newer: it must not slip through."""
    with raw.refused("INVALID_OPTION"):
        raw.call(function, *OPENING[function], revision=revision)


@pytest.mark.parametrize("function", OPENING)
def test_every_call_declares_two_keys(raw, function):
    """The second never exists: it makes a slot under migration answer before the first write."""
    with raw.refused("INVALID_OPTION"):
        raw.call(function, *OPENING[function], keys=(raw.base,))
    with raw.refused("INVALID_OPTION"):
        raw.call(function, *OPENING[function], keys=(raw.base, f"{raw.base}:never", f"{raw.base}:more"))


@pytest.mark.parametrize("function", OPENING)
def test_a_queue_that_is_not_there_is_not_made(raw, function):
    """Only create_queue makes queues."""
    ghost = "psmq:{ghost-" + draw_randoms(1)[0] + "}"
    with raw.refused("QUEUE_NOT_FOUND"):
        raw.call(function, *OPENING[function], keys=(ghost, f"{ghost}:never"))
    assert not list(raw.server.scan_iter(f"{ghost}*"))


@pytest.mark.parametrize("function", OPENING)
def test_a_queue_that_is_being_deleted_is_gone_for_everybody(raw, function):
    """The mark comes first, then the keys go."""
    raw.server.hset(raw.base, "deleting", "1")
    with raw.refused("QUEUE_DELETING"):
        raw.call(function, *OPENING[function])


@pytest.mark.parametrize("function", OPENING)
def test_data_of_a_newer_layout_is_left_alone(raw, function):
    """Rather an error than a guess."""
    raw.server.hset(raw.base, "layout", "2")
    with raw.refused("SERVER_UNSUITABLE"):
        raw.call(function, *OPENING[function])


@pytest.mark.parametrize("function", OPENING)
def test_the_clock_of_a_queue_in_production_cannot_be_moved(raw, function):
    """An override is for queues made with clock=test."""
    with raw.refused("INVALID_OPTION"):
        raw.call(function, *OPENING[function], clock="5")


@pytest.mark.parametrize("clock", ["nan", "-1", "1e12", "0x10", " 1", "9" * 17, str(2**42)])
@pytest.mark.parametrize("function", OPENING)
def test_an_override_is_milliseconds(timed, function, clock):
    """Up to where ten years more still fit into a place in line."""
    raw = timed()
    with raw.refused("INVALID_OPTION"):
        raw.call(function, *OPENING[function], clock=clock)


@pytest.mark.parametrize("function", NUMBERED)
@pytest.mark.parametrize(
    ("client", "number", "nonce"),
    [
        ("short", "1", NONCE),
        ("c" * 41, "1", NONCE),
        ("client00", "0", NONCE),
        ("client00", "-1", NONCE),
        ("client00", "9007199254740992", NONCE),
        ("client00", "1", "short"),
        ("client00", "1", "n" * 33),
        ("client00", "1", "has space1"),
        ("client00", "1", ""),
    ],
)
def test_client_number_and_nonce_have_their_forms(raw, function, client, number, nonce):
    """They are kept in one line of text: what does not fit there is refused."""
    with raw.refused("INVALID_OPTION"):
        raw.call(function, client, number, nonce, *OPENING[function][3:])


@pytest.mark.parametrize("function", OPENING)
def test_arguments_that_are_missing_are_no_crash(raw, function):
    """Cut anywhere, a call is refused or means something shorter; Lua never stumbles."""
    arguments = OPENING[function]
    for length in range(len(arguments)):
        before = raw.dump()
        try:
            raw.call(function, *arguments[:length])
        except redis.ResponseError as error:
            assert str(error).startswith("PSMQ_"), (function, length)
            assert raw.dump() == before, (function, length)


# --- repeats


def test_a_repeat_changes_nothing_and_answers_the_same(raw):
    """Same client, number and nonce: the first answer was lost on its way."""
    how = {"number": 7, "nonce": NONCE, "client": "client00"}
    first = raw.push(b"once", **how)
    after = raw.dump()
    assert raw.do("push", "zzzzzzzzzzz", "", "", b"once", **how) == [first.encode()]
    assert raw.dump() == after
    assert raw.info()["ready"] == 1


@pytest.mark.parametrize(("number", "nonce"), [(6, "fedcba9876543210"), (6, NONCE), (7, "fedcba9876543210")])
@pytest.mark.parametrize("function", NUMBERED)
def test_one_identity_in_two_processes_is_found_out(raw, function, number, nonce):
    """A lower number, or the same with another nonce, comes from a fork or a snapshot: nothing is done."""
    raw.do("push", "0123456789a", "", "", "x", client="client00", number=7, nonce=NONCE)
    with raw.refused("COMMAND_CLASH"):
        raw.call(function, "client00", number, nonce, *OPENING[function][3:])


def test_a_higher_number_is_the_next_command(raw):
    """Numbers may have gaps: a command that was refused used one up."""
    raw.push(client="client00", number=7)
    raw.push(client="client00", number=9)
    assert raw.info()["ready"] == 2


def test_a_refused_command_is_not_remembered(raw):
    """Its number can be used again, with arguments that are right."""
    with raw.refused("INVALID_OPTION"):
        raw.push(b"x", "p101", client="client00", number=1, nonce=NONCE)
    raw.push(b"x", "p100", client="client00", number=1, nonce=NONCE)
    assert raw.info()["ready"] == 1


def test_a_client_that_was_given_up_is_refused(raw):
    """A supervisor took back what it held; the process itself, should it wake up, must draw a new id."""
    raw.push()
    raw.get(client="client00", number=3)
    assert raw.call("abandon", "client00", "") == 1
    for function in NUMBERED:
        with raw.refused("CLIENT_GONE"):
            raw.call(function, "client00", "4", NONCE, *OPENING[function][3:])


def test_a_repeated_get_gives_the_same_lease_once(raw):
    """No message twice, no lease that nobody knows of."""
    raw.push(b"a")
    raw.push(b"b")
    how = {"number": 5, "nonce": NONCE, "client": "client00"}
    first = raw.get(1, **how)
    after = raw.dump()
    assert raw.get(1, **how) == first
    assert raw.dump() == after
    assert raw.info()["leased"] == 1


def test_a_repeated_get_leaves_out_what_is_no_longer_its_own(timed):
    """Between answer and repeat the lease ended and somebody else was given the message."""
    raw = timed(visibility_timeout=10)
    raw.push(b"a")
    how = {"number": 5, "nonce": NONCE, "client": "client00"}
    assert len(raw.get(1, **how)) == 1
    raw.later(11)
    (theirs,) = raw.get(1)
    assert theirs[2] == 2
    assert raw.get(1, **how) == []


def test_a_repeated_pop_gives_the_message_that_is_already_deleted(raw):
    """Whoever loses the reply to a pop asks again: the bytes are kept with the answer, any bytes."""
    body = bytes(range(256)) + b"; 5 p;\r\n" * 3
    raw.push(body, "p7n3")
    how = {"number": 5, "nonce": NONCE, "client": "client00"}
    first = raw.do("pop", **how)
    after = raw.dump()
    assert first[4].endswith(body)
    assert raw.do("pop", **how) == first
    assert raw.dump() == after
    assert raw.do("pop", client="client00", number=6) == []


def test_a_repeated_settlement_answers_the_same_words(raw):
    """done stays done, though the receipt is used up."""
    raw.push()
    ((id_, receipt, *_),) = raw.get()
    how = {"number": 9, "nonce": NONCE, "client": "client00"}
    assert raw.settle((id_, receipt, "d", "", "", ""), **how) == ["done"]
    after = raw.dump()
    assert raw.settle((id_, receipt, "d", "", "", ""), **how) == ["done"]
    assert raw.dump() == after
    assert raw.settle((id_, receipt, "d", "", "", "")) == ["stale"]


def test_a_repeated_redrive_or_purge_counts_once(raw):
    """The number of then, and nothing more is done."""
    for _ in range(2):
        raw.push()
        ((id_, receipt, *_),) = raw.get()
        raw.settle((id_, receipt, "b", "why", "", ""))
    how = {"number": 1, "nonce": NONCE, "client": "client00"}
    assert raw.do("redrive", "", id_, **how) == raw.do("redrive", "", id_, **how) == 1
    assert raw.info()["redriven"] == b"1"
    how["number"] = 2
    assert raw.do("purge", "dead", **how) == raw.do("purge", "dead", **how) == 1
    assert raw.info()["purged"] == b"1"


# --- what is remembered is bounded


def test_clients_are_forgotten_after_twenty_minutes(timed):
    """Two for each new one; a command is repeated for ten minutes at most."""
    raw = timed()
    for number in range(6):
        raw.push(client=f"early-one-{number}")
    raw.later(1190)
    raw.push(client="mid-time")
    assert raw.server.hlen(f"{raw.base}:clients") == 7
    raw.later(20)
    for number in range(3):
        raw.push(client=f"later-one-{number}")
    assert sorted(raw.server.hkeys(f"{raw.base}:clients")) == [
        b"later-one-0",
        b"later-one-1",
        b"later-one-2",
        b"mid-time",
    ]
    assert raw.server.zcard(f"{raw.base}:recent") == 4


def test_a_client_that_goes_on_is_not_forgotten(timed):
    """Its last command counts, to ten seconds."""
    raw = timed()
    raw.push(client="old-hand", number=1)
    for number in range(2, 6):
        raw.later(600)
        raw.push(client="old-hand", number=number)
        raw.push(client=f"another{number}")
    with raw.refused("COMMAND_CLASH"):
        raw.push(client="old-hand", number=1)


def test_ten_thousand_clients_are_remembered_at_most(timed):
    """Beyond that the longest silent go, however recent: memory is bounded."""
    raw = timed()
    for start in range(0, 10_001, 1000):
        names = [f"crowd-{number}" for number in range(start, start + 1000)]
        raw.server.hset(f"{raw.base}:clients", mapping={name: f"1 {NONCE} {raw.clock} 0 x" for name in names})
        raw.server.zadd(f"{raw.base}:recent", {name: int(raw.clock) for name in names})
    assert raw.server.zcard(f"{raw.base}:recent") == 11_000
    for number in range(3):
        raw.push(client=f"new-one-{number}")
    assert raw.server.zcard(f"{raw.base}:recent") == 11_000 + 3 - 6
    assert raw.server.hlen(f"{raw.base}:clients") == 11_000 + 3 - 6


# --- the token


def tokens(raw):
    return raw.server.lrange(f"{raw.base}:wake", 0, -1)


def test_a_push_leaves_one_token_however_many_follow(raw):
    """A herd of tokens would wake a herd of getters."""
    for _ in range(3):
        raw.push()
    assert tokens(raw) == [b"1"]


@pytest.mark.parametrize("plant", ["string", "hash", "set"])
def test_something_planted_in_the_place_of_the_token_stops_nobody(raw, plant):
    """A push replaces it; a getter that finds nothing removes it, or it would go round in circles."""
    key = f"{raw.base}:wake"

    def sow():
        raw.server.delete(key)
        {
            "string": lambda: raw.server.set(key, "x"),
            "hash": lambda: raw.server.hset(key, "a", "b"),
            "set": lambda: raw.server.sadd(key, "x"),
        }[plant]()

    sow()
    assert raw.get() == []
    assert not raw.server.exists(key)
    sow()
    raw.push()
    assert tokens(raw) == [b"1"]


def test_a_getter_that_got_nothing_leaves_no_token(raw):
    """Or two idle getters would wake each other for ever."""
    raw.push()
    raw.server.delete(f"{raw.base}:wake")
    assert len(raw.get(2)) == 1
    assert tokens(raw) == []
    assert raw.get() == []
    assert tokens(raw) == []


def test_whoever_takes_some_and_leaves_some_wakes_the_next(raw):
    """One push of many needs one token; each getter hands it on."""
    for _ in range(3):
        raw.push()
    for left in (2, 1, 0):
        raw.server.delete(f"{raw.base}:wake")
        assert len(raw.get()) == 1
        assert len(tokens(raw)) == (1 if left else 0)


def test_a_paused_queue_wakes_nobody_until_it_resumes(raw):
    """Neither a push nor a release; resume does it for all."""
    raw.push()
    ((id_, receipt, *_),) = raw.get()
    assert raw.call("pause", "1") == 1
    raw.push()
    raw.settle((id_, receipt, "r", "", "", ""))
    raw.call("wake")
    assert tokens(raw) == []
    assert raw.call("pause", "0") == 1
    assert tokens(raw) == [b"1"]


@pytest.mark.parametrize(("delay", "armed"), [(0, True), (1, True), (2000, True), (2001, False), (60_000, False)])
def test_what_becomes_ready_within_the_longest_wait_leaves_a_token(timed, delay, armed):
    """Getters wait up to 2 s without looking: something due sooner must wake one, which then waits that long."""
    raw = timed()
    id_ = raw.push(b"x", f"d{delay}")
    assert bool(tokens(raw)) == armed
    raw.server.delete(f"{raw.base}:wake")
    raw.later(100)
    ((id_, receipt, *_),) = raw.get()
    raw.server.delete(f"{raw.base}:wake")
    raw.settle((id_, receipt, f"rd{delay}", "", "", ""))
    assert bool(tokens(raw)) == armed


@pytest.mark.parametrize(("timeout", "armed"), [(1, True), (2000, True), (2001, False)])
@pytest.mark.parametrize("visibility_timeout", [1, 30])
def test_a_lease_that_ends_within_the_longest_wait_leaves_a_token(timed, visibility_timeout, timeout, armed):
    """Whatever the queue's own timeout is: a getter may have a longer one of its own, and so more patience."""
    raw = timed(visibility_timeout=visibility_timeout)
    raw.push()
    raw.server.delete(f"{raw.base}:wake")
    ((id_, receipt, *_),) = raw.get(1, timeout)
    assert bool(tokens(raw)) == armed
    raw.server.delete(f"{raw.base}:wake")
    raw.call("extend", timeout, id_, receipt)
    assert bool(tokens(raw)) == armed


# --- settings


def test_a_setting_that_cannot_be_read_is_as_its_default_and_is_not_taken_for_another(raw):
    """Settings are read together, a comma between each two: one with commas inside must not shift the others."""
    raw.server.hset(raw.base, mapping={"delay": "7,8,9", "visibility_timeout": "x", "max_retrievals": "nan"})
    id_ = raw.push()
    assert not raw.server.exists(f"{raw.base}:expiring", f"{raw.base}:delayed")
    ((got, *_),) = raw.get()
    assert got == id_
    seconds, microseconds = raw.server.time()
    left = raw.server.zscore(f"{raw.base}:leased", id_) - (seconds * 1000 + microseconds / 1000)
    assert 20_000 < left <= 30_000
    raw.server.hset(raw.base, "delay", "60000")
    raw.push()
    assert raw.server.zcard(f"{raw.base}:delayed") == 1


# --- an outage


def test_after_an_outage_leases_of_workers_are_held_back_for_a_while(timed):
    """Everything that runs would be handed out again before supervisors can extend: min(vt/3, 10 s) of grace."""
    raw = timed(visibility_timeout=30)
    raw.push()
    raw.get(1, mode="worker")
    raw.later(60)
    assert raw.exchange(1, mode="worker")[1] == 10_000
    raw.later(9.9)
    assert raw.get() == []
    raw.later(0.2)
    assert len(raw.get()) == 1


def test_without_an_outage_there_is_no_grace(timed):
    """Somebody has asked all the time: whoever held it had every chance to extend."""
    raw = timed(visibility_timeout=30)
    raw.push()
    raw.get(1, mode="worker")
    for _ in range(15):
        raw.later(2)
        assert raw.get() == [] or raw.info()["leased"] == 1
    assert raw.info()["leased"] == 1


def test_plain_leases_know_no_grace(timed):
    """Nobody extends them: they end when they end."""
    raw = timed(visibility_timeout=30)
    raw.push()
    raw.get(1)
    raw.later(300)
    assert len(raw.get()) == 1


def test_a_hundred_leases_in_grace_hold_up_nothing_behind_them(timed):
    """They are no longer due, so the moves of a call go to what is; and nobody is told to ask again at once."""
    raw = timed(visibility_timeout=30)
    for _ in range(150):
        raw.push(b"worker")
    assert len(raw.get(150, mode="worker")) == 150
    raw.later(1)
    raw.push(b"plain")
    raw.get(1)
    raw.later(100)
    answers = [raw.exchange(1) for _ in range(3)]
    assert [answer[9] for answer in answers if len(answer) > 5] == [b";plain"]
    assert answers[-1][2] == 0
    assert raw.info()["leased"] == 151


def test_a_worker_that_extends_in_its_grace_keeps_its_lease(timed):
    """That is what the grace is for."""
    raw = timed(visibility_timeout=30)
    raw.push()
    ((id_, receipt, *_),) = raw.get(1, mode="worker")
    raw.later(60)
    assert raw.get() == []
    assert raw.call("extend", 30_000, id_, receipt) == [b"done"]
    raw.later(20)
    assert raw.get() == []
    assert raw.settle((id_, receipt, "d", "", "", "")) == ["done"]


def test_reads_count_a_lease_in_grace_as_leased(timed):
    """As the next get would see it, whether somebody wrote down the grace or not."""
    raw = timed(visibility_timeout=30, max_retrievals=1)
    id_ = raw.push()
    raw.get(1, mode="worker")
    raw.later(60)
    for _ in range(2):
        info = raw.info()
        assert (info["ready"], info["leased"], info["dead"]) == (0, 1, 0)
        assert raw.call("messages", "leased", 10, "", 1)[0].decode() == id_
        assert raw.call("peek") == []
        raw.get()
