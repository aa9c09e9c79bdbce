"""Redriving into another queue: whoever carries the letters may die anywhere, and two may carry the same."""

from __future__ import annotations

import signal
import threading
from random import Random

import pytest
from support import python

from psmq import QueueManager, commands, errors, transfers

STEPS = ("transfer.departed", "transfer.arrived", "transfer.left", "transfer.admitted")


@pytest.fixture
def other(new_queue):
    return new_queue()


def bury(queue, count=1, data=b"x", **options):
    """→ ids, with a failure record each"""
    ids = queue.push_many([data] * count, **options)
    while messages := queue.get_many(count):  # a few at a time, where they are large
        for message in messages:
            message.bury("why")
    return ids


def ids_of(queue, state):
    found, after = [], None
    while page := queue.messages(state, limit=1000, after=after, data=False):
        found += [message.message_id for message in page]
        after = page[-1]
    return sorted(found)


def problems(manager, *queues):
    return [found for queue in queues for found in manager.audit(queue.name) if found.level != "fine"]


def test_a_letter_goes_along_with_all_it_has(manager, queue, other):
    """Id, data, metadata, priority and history; counted anew; and the books of both agree."""
    (message_id,) = bury(queue, data=b"\x00;data", metadata={"k": "v"}, priority=7, result_ttl=60)
    queue.amend(message_id, b"\x00;data", metadata={"k": "v"}, note=b"a note")
    done = queue.transfer([message_id], other.name)
    assert done == transfers.Transfer((message_id,), {}, (), full=False)
    found = other.get()
    assert (found.message_id, found.data, found.metadata, found.priority) == (message_id, b"\x00;data", {"k": "v"}, 7)
    assert found.retrieval_count == 1
    assert other.failures([message_id]) == [(b"a note",)]
    assert queue.info().dead == 0
    assert problems(manager, queue, other) == []


def test_async_queues_do_the_same(in_loop):
    """The same steps."""

    async def body(manager, queue):
        other = await manager.get_queue(f"{queue.name}-2")
        message_id = await queue.push(b"x")
        await (await queue.get()).bury("why")
        done = await queue.transfer([message_id], other.name)
        found = await other.pop()
        await manager.delete_queue(other.name)
        assert (done.done, found.message_id) == ((message_id,), message_id)
        assert await queue.finish_transfers() == []

    in_loop(body)


def test_data_can_be_written_anew_and_a_refusal_keeps_the_letter(queue, other):
    """What is signed for one queue must be signed for the other."""
    ids = bury(queue, 3)

    def rewrite(letter):
        if letter.message.message_id == ids[1]:
            raise errors.PsmqError("not this one")
        return b"for " + other.name.encode()

    done = queue.transfer(ids, other.name, rewrite=rewrite)
    assert (done.done, done.stayed) == ((ids[0], ids[2]), {ids[1]: "not this one"})
    assert [message.data for message in other.get_many(9)] == [b"for " + other.name.encode()] * 2
    assert ids_of(queue, "dead") == [ids[1]]


def test_many_go_in_pages(manager, queue, other):
    """Also bodies that fill a page each."""
    ids = bury(queue, 230) + [one for _ in range(3) for one in bury(queue, data=b"x" * 300_000)]
    assert sorted(queue.transfer([*ids, "gone"], other.name).done) == sorted(ids)
    assert ids_of(other, "ready") == sorted(ids)
    assert problems(manager, queue, other) == []


def test_it_takes_another_queue_that_exists(queue):
    """Otherwise nothing happens."""
    ids = bury(queue)
    with pytest.raises(errors.QueueNotFound):
        queue.transfer(ids, "no-such-queue")
    with pytest.raises(errors.InvalidOption, match="another queue"):
        queue.transfer(ids, queue.name)
    assert ids_of(queue, "dead") == ids


def test_a_full_queue_takes_what_fits(manager, queue, new_queue):
    """The rest stays dead, and says why."""
    other = new_queue(max_length=120)
    ids = bury(queue, 250)
    done = queue.transfer(ids, other.name)
    assert done.full
    assert set(done.stayed.values()) == {f"queue {other.name!r} holds its max_length"}
    assert (ids_of(other, "ready"), ids_of(queue, "dead")) == (sorted(done.done), sorted(done.stayed))
    assert len(done.done) == 120
    assert problems(manager, queue, other) == []


def test_large_letters_that_found_no_room_are_not_on_their_way(manager, queue, new_queue):
    """A page holds few of them: those behind it were marked, too, when the other queue was full."""
    other = new_queue(max_length=1)
    ids = bury(queue, 4, data=b"x" * 200_000)
    done = queue.transfer(ids, other.name)
    assert (done.done, sorted(done.stayed)) == (tuple(ids[:1]), ids[1:])
    assert problems(manager, queue, other) == []


def test_a_server_without_memory_keeps_the_letters_dead(own_server):
    """Nothing is stored twice, nothing is lost."""
    import redis

    with QueueManager(url=own_server) as manager, redis.Redis.from_url(own_server) as raw:
        queue, other = manager.get_queue("one"), manager.get_queue("two")
        ids = bury(queue, 3)
        raw.config_set("maxmemory", 1)
        with pytest.raises(errors.ServerFull):
            queue.transfer(ids, other.name)
        assert (ids_of(queue, "dead"), other.info().ready) == (sorted(ids), 0)
        raw.config_set("maxmemory", 0)
        assert problems(manager, queue, other) == []
        assert len(queue.transfer(ids, other.name).done) == 3


CARRY = """
import sys
from psmq import QueueManager

with QueueManager(url=sys.argv[1]) as manager:
    manager.find_queue(sys.argv[2]).transfer(sys.argv[4:], sys.argv[3])
"""


@pytest.mark.parametrize("step", STEPS)
def test_killed_between_two_steps_it_is_completed_by_the_next(manager, server_url, queue, other, step):
    """kill -9: nobody can get two copies, an audit tells of what was begun, and the same again completes it."""
    ids = bury(queue, 3)
    with python(CARRY, server_url, queue.name, other.name, *ids, PSMQ_KILL_AT=f"{step}:1") as program:
        assert program.wait(30) == -signal.SIGKILL
    dead, ready = ids_of(queue, "dead"), ids_of(other, "ready")
    assert set(dead).isdisjoint(ready)
    assert (ready == ids) == (step == "transfer.admitted")
    told = problems(manager, queue, other)
    assert told
    assert {found.level for found in told} == {"advice"}
    assert all("psmq dead redrive --unfinished" in found.fix for found in told)
    finished = queue.finish_transfers(other.name) + other.finish_transfers(queue.name)
    done = queue.transfer(ids_of(queue, "dead"), other.name).done
    assert sorted({*finished, *done}) == ids
    assert [message.message_id for message in other.get_many(9)] == ids
    assert problems(manager, queue, other) == []


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("side", ["source", "target"])
def test_either_queue_knows_how_to_complete_it(manager, server_url, queue, other, step, side):
    """What left is there, what did not is dead; nothing hidden is left, wherever one asks."""
    ids = bury(queue, 3)
    with python(CARRY, server_url, queue.name, other.name, *ids, PSMQ_KILL_AT=f"{step}:1") as program:
        program.wait(30)
    (queue if side == "source" else other).finish_transfers()
    if side == "target":
        queue.finish_transfers()  # a mark, or a note that was not forgotten
    left = step in STEPS[2:]
    assert (ids_of(queue, "dead"), ids_of(other, "ready")) == (([], ids) if left else (ids, []))
    assert problems(manager, queue, other) == []


def test_what_a_broken_transfer_left_dead_can_be_redriven_at_home(manager, server_url, queue, other):
    """The hidden copy is never let out after that."""
    ids = bury(queue, 3)
    with python(CARRY, server_url, queue.name, other.name, *ids, PSMQ_KILL_AT="transfer.arrived:1") as program:
        program.wait(30)
    assert queue.redrive(ids) == 3
    other.finish_transfers()
    assert (ids_of(queue, "ready"), other.info().ready) == (ids, 0)
    assert problems(manager, queue, other) == []


@pytest.mark.parametrize("anew", [False, True])
@pytest.mark.parametrize("step", ["transfer.arrived", "transfer.left"])
def test_where_the_source_was_deleted_the_copy_is_what_is_left(manager, server_url, new_queue, other, step, anew):
    """Rather twice than never; a queue that was made under its name meanwhile knows nothing of it."""
    queue = new_queue()
    ids = bury(queue, 3)
    with python(CARRY, server_url, queue.name, other.name, *ids, PSMQ_KILL_AT=f"{step}:1") as program:
        program.wait(30)
    manager.delete_queue(queue.name)
    if anew:
        manager.get_queue(queue.name)
    assert sorted(other.finish_transfers()) == ids
    assert ids_of(other, "ready") == ids


def test_where_the_target_was_deleted_so_was_what_had_come(manager, server_url, queue, new_queue):
    """What had left is gone with it; nothing stays on its way."""
    other = new_queue()
    ids = bury(queue, 3)
    with python(CARRY, server_url, queue.name, other.name, *ids, PSMQ_KILL_AT="transfer.left:1") as program:
        program.wait(30)
    manager.delete_queue(other.name)
    assert queue.finish_transfers() == []
    assert problems(manager, queue) == []


class Steps:
    """A flow that goes one call further at a time, until it ends or nobody goes on with it."""

    def __init__(self, link, flow):
        self._link, self._flow, self._answer = link, flow, None
        self.ended = False

    def go(self):
        if self.ended:
            return
        try:
            failed = isinstance(self._answer, Exception)
            request = (self._flow.throw if failed else self._flow.send)(self._answer)
        except StopIteration:
            self.ended = True
            return
        try:
            self._answer = self._link.run(request.command)
        except errors.PsmqError as error:
            self._answer = error


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_order_of_calls_there_is_one_copy(manager, queue, other, seed):
    """Two who carry the same letter, one who completes, one who redrives it at home; each may be broken off anywhere.

    At every moment at most one copy can be had, and in the end there is exactly one, and no trace of the way.
    """
    random, link = Random(seed), manager._link
    here, there = queue._address, other._address

    def redrive(ids):
        yield transfers.At(commands.redrive(here, ids, keep_count=False), test=False)

    for _ in range(60):
        ids = bury(queue)
        carry = [transfers.transfer(here, other.name, ids, keep_count=False, rewrite=None) for _ in range(2)]
        flows = [*carry, transfers.finish(there, None), transfers.finish(here, None)]
        if not random.randrange(3):
            # Refused, if it has gone or goes: then its error ends it.
            flows.append(redrive(ids))
        running = [Steps(link, flow) for flow in flows]
        order = []
        for number in range(random.randrange(4, 60)):
            one = random.randrange(len(running)) if number % 3 else min(number // 3 % 2, 1)
            order.append(one)
            try:
                running[one].go()
            except errors.MessageNotFound:
                running[one].ended = True
            assert queue.info().ready + other.info().ready <= 1, order
        queue.finish_transfers()
        other.finish_transfers()
        counts = queue.info().dead, queue.info().ready, other.info().ready
        assert sum(counts) == 1, order
        assert problems(manager, queue, other) == [], order
        for one in (queue, other):
            one.purge(states=["ready", "dead"])


def test_two_redrivers_at_once_lose_nothing_and_double_nothing(manager, queue, other):
    """Each letter ends in the other queue, once."""
    ids = bury(queue, 400)
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(queue.transfer(ids, other.name)), daemon=True) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    dead, ready = ids_of(queue, "dead"), ids_of(other, "ready")
    assert sorted(dead + ready) == sorted(ids)
    assert sum(len(result.done) for result in results) == len(ready)
    assert problems(manager, queue, other) == []


def test_what_strangers_wrote_among_the_notes_stops_nobody(manager, raw_server, queue, other):
    """It is no note of a transfer, and so nothing is done about it; keys of another type are set aside."""
    for one in (queue, other):
        for part in ("departing", "departed", "arriving"):
            notes = {
                b"\xff": b"\xfe",
                "id": "no note",
                "other": "1-abc",
                "third": "1-abcdefgh \x1b[2J",
                "4": "nan-x q q",
            }
            raw_server.hset(f"{one._address.base}:{part}", mapping=notes)
    ids = bury(queue, 2)
    assert queue.finish_transfers() == other.finish_transfers() == []
    assert queue.transfer(ids, other.name).done == tuple(ids)
    for one in (queue, other):
        assert "\x1b" not in "".join(found.message for found in manager.audit(one.name))
        for part in ("departing", "departed", "arriving"):
            raw_server.delete(f"{one._address.base}:{part}")
            raw_server.set(f"{one._address.base}:{part}", "a string")
    ids = bury(queue, 2)
    assert queue.transfer(ids, other.name).done == tuple(ids)
    assert queue.finish_transfers() == other.finish_transfers() == []
