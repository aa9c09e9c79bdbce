"""clock.lua: logical time never goes back and never stands still."""

from psmq import id_time


def test_a_clock_that_jumps_back_delivers_nothing_early_and_nothing_late(timed):
    """+1 h for a moment, then right again: a delay of 5 s begun after it takes 5 s, not 3,604."""
    raw = timed()
    raw.later(3600)
    raw.push(b"during")
    raw.later(-3600)
    raw.push(b"after", "d5000")
    raw.later(4.9)
    assert [found[5] for found in raw.get(9)] == [b";during"]
    raw.later(0.2)
    assert [found[5] for found in raw.get(9)] == [b";after"]


def test_a_delay_that_runs_survives_a_jump_back(timed):
    """What had one second to go has one second to go."""
    raw = timed()
    raw.push(b"x", "d5000")
    raw.later(4)
    assert raw.get() == []
    raw.later(-7200)
    assert raw.get() == []
    raw.later(0.9)
    assert raw.get() == []
    raw.later(0.2)
    assert len(raw.get()) == 1


def test_every_jump_back_adds_up(timed):
    """Three of them in a row: time goes on by what passed in between."""
    raw = timed()
    raw.push(b"x", "d3000")
    for _ in range(3):
        raw.later(-1000)
        assert raw.get() == []
        raw.later(0.9)
        assert raw.get() == []
    raw.later(0.4)
    assert len(raw.get()) == 1


def test_a_read_does_not_note_the_time(timed):
    """It has no right to write; the next get sees the jump for itself."""
    raw = timed()
    raw.push(b"x", "d5000")
    raw.later(-3600)
    before = raw.dump()
    raw.info()
    raw.call("peek")
    assert raw.dump() == before
    assert raw.get() == []
    raw.later(5)
    assert len(raw.get()) == 1


def test_ids_go_on_when_the_clock_goes_back(timed, start):
    """max(TIME, last id + 1): strictly increasing in a queue, so sorted by push."""
    raw = timed()
    ids = [raw.push()]
    for seconds in (0, -3600, 0, 10, 7200):
        raw.later(seconds)
        ids.append(raw.push())
    assert ids == sorted(set(ids))
    assert id_time(ids[0]).timestamp() == start / 1000
    assert (id_time(ids[-1]) - id_time(ids[0])).total_seconds() == 3610


def test_ids_have_their_width_in_1970_too(timed):
    """Fixed width, or they would not sort as text."""
    raw = timed()
    raw.clock = "0"
    first = raw.push()
    raw.later(1)
    second = raw.push()
    assert len(first) == len(second) == 22
    assert first < second


def test_the_server_clock_is_the_default(raw):
    """Without override ids carry the server's TIME."""
    seconds, micros = raw.server.time()
    before = seconds + micros / 1e6
    pushed = id_time(raw.push()).timestamp()
    assert before - 0.001 <= pushed <= before + 60
