"""The table that a child shares with its supervisor: what one writes, the other reads, whatever comes between."""

from __future__ import annotations

import os
import time

import pytest

from psmq_tasks.inflight import DONE, ENDED, HELD, STARTED, Table

ID = "1k0z8fypxy0avmthbxrx8m"
RECEIPT = "123456789012345-0123456789abcdef"


@pytest.fixture
def table():
    table = Table(slots=2, capacity=10, connections=3)
    yield table
    table.close()


def test_the_supervisor_reads_what_the_child_holds(table):
    """Message, receipt, slot, queue, attempt and where it stands."""
    place, generation = table.put(1, 2, 3, ID, RECEIPT)
    (entry,) = table.entries()
    assert entry == (place, generation, 1, 2, 3, ID, RECEIPT, HELD, 0.0, 0.0)
    table.start(place, generation)
    table.run(place, generation, 2.5)
    (entry,) = table.entries()
    assert (entry.state, entry.limit) == (STARTED, 2.5)
    assert time.monotonic() - entry.started_at < 10
    table.hand_to_loop(place, generation, 2, 3, ID, RECEIPT)
    assert next(iter(table.entries())).slot is None
    table.end(place, done=True)
    assert next(iter(table.entries())).state == DONE
    table.end(place, done=False)
    entry = next(iter(table.entries()))
    assert (entry.state, entry.limit) == (ENDED, 0.0), "what has ended passes no limit"
    table.unstart(place)
    assert next(iter(table.entries())).state == HELD
    table.free(place)
    assert list(table.entries()) == []


def test_a_full_table_says_so_and_places_come_back(table):
    """Nothing may be got without a place to note it."""
    places = [table.put(0, 0, 1, ID, RECEIPT)[0] for _ in range(10)]
    assert table.room == 0
    with pytest.raises(IndexError):
        table.put(0, 0, 1, ID, RECEIPT)
    table.free(places[4])
    assert table.room == 1
    assert table.put(0, 0, 1, ID, RECEIPT)[0] == places[4]


def test_a_revocation_concerns_the_batch_it_was_made_for(table):
    """The slot's next batch is not touched by what was revoked before it."""
    table.begin_batch(0)
    assert not table.is_revoked(0)
    table.revoke(0)
    assert table.is_revoked(0)
    assert not table.is_revoked(1)
    for _ in range(300):  # the number of a batch is a byte, and never 0
        table.begin_batch(0)
        assert not table.is_revoked(0)


def test_an_answer_that_is_not_read_is_seen_and_can_be_revoked(table):
    """Until its slot reads it; what was revoked before is no matter for the next."""
    table.set_client(1, "me:1:abc")
    assert table.unread() == []
    table.expect(1, 7)
    (answer,) = table.unread()
    assert answer == (1, "me:1:abc", 7, False)
    assert table.is_unread(answer)
    assert table.read(1, 7), "it keeps what that gives"
    assert (table.unread(), table.is_unread(answer)) == ([], False)
    table.expect(1, 8)
    (answer,) = table.unread()
    table.revoke_unread(answer)
    assert table.unread() == [], "once is enough"
    assert table.is_unread(answer)
    assert not table.read(1, 8)
    table.expect(1, 8)
    assert len(table.unread()) == 1, "that of the slot's next client"
    assert table.read(1, 8)
    table.expect(1, 9, awaited=True)
    assert table.unread() == [(1, "me:1:abc", 9, True)]
    assert table.is_unread(table.unread()[0])
    assert table.read(1, 9)


def test_a_lost_lease_is_that_of_one_delivery(table):
    """The next message in the same place has not lost its lease."""
    place, generation = table.put(0, 0, 1, ID, RECEIPT)
    (entry,) = table.entries()
    table.lose(entry)
    assert table.is_lost(place, generation)
    table.free(place)
    while (again := table.put(0, 0, 1, ID, RECEIPT))[0] != place:
        table.free(again[0])
    assert not table.is_lost(*again)


def test_the_supervisor_reads_which_task_runs(table):
    """By number, with room for 255 names of 120 bytes; a place's next message has none before it is told."""
    place, generation = table.put(1, 0, 1, ID, RECEIPT)
    (entry,) = table.entries()
    assert table.task_of(entry) == ""
    table.name(place, generation, "mail:send")
    assert table.task_of(entry) == "mail:send"
    table.free(place)
    for number in range(300):
        place, generation = table.put(1, 0, 1, ID, RECEIPT)
        (entry,) = table.entries()
        assert table.task_of(entry) == ""
        table.name(place, generation, f"m:{number}é{'x' * 200}")
        name = f"m:{number}é{'x' * 200}".encode()[:120].decode()
        assert table.task_of(entry) == (name if number < 254 else "")
        table.free(place)


def test_extensions_are_counted_for_one_delivery(table):
    """The place's next message begins at none."""
    place, generation = table.put(1, 0, 1, ID, RECEIPT)
    (entry,) = table.entries()
    for _ in range(3):
        table.note_extended(entry)
    assert table.extensions(place, generation) == 3
    table.free(place)
    while table.room:
        again = table.put(1, 0, 1, ID, RECEIPT)
    assert again[0] == place
    assert table.extensions(*again) == 0


def test_a_torn_entry_is_not_believed(table):
    """A write that the reader meets half-done shows the last good copy, or nothing."""
    place, _ = table.put(0, 0, 1, ID, RECEIPT)
    (good,) = table.entries()
    at = table._entries + place * 80 + 20
    table._memory[at : at + 2] = b"!!"
    assert list(table.entries()) == [good]
    fresh = Table(slots=2, capacity=10, connections=3)
    place, _ = fresh.put(0, 0, 1, ID, RECEIPT)
    fresh._memory[fresh._entries + place * 80 + 20] = 33
    assert list(fresh.entries()) == []
    fresh.close()


def test_it_is_shared_with_a_forked_child_and_survives_it(table):
    """What a child wrote before SIGKILL is there for its supervisor."""
    pid = os.fork()
    if not pid:
        table.set_client(2, "c" * 22)
        table.report_suspects(3)
        table.start(*table.put(1, 0, 1, ID, RECEIPT))
        os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    (entry,) = table.entries()
    assert (entry.message_id, entry.state) == (ID, STARTED)
    assert table.clients() == ["c" * 22]
    assert table.suspects == 3
