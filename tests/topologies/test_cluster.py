"""redis+cluster://: a queue lives on one node, queues live on all of them, and nodes come and go."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import threading
import time

import pytest
from support import fresh_name, raw_client, wait_until
from topology import Cluster

from psmq import AsyncQueueManager, Delete, QueueManager
from psmq.errors import ServerUnreachable
from psmq.routes import ClusterRoute, Node, slot_of

#: seconds within which a token wakes: a lost one would cost two
SOON = 1.0
_NODE = Node("me", 7)


@pytest.fixture(scope="module")
def cluster():
    with Cluster() as found:
        yield found


@pytest.fixture
def manager(cluster):
    with QueueManager(url=cluster.url, timeout=30) as found:
        yield found


@pytest.fixture
def names(cluster):
    """Three queue names, each on another node."""
    found = {}
    while len(found) < 3:
        name = fresh_name()
        found.setdefault(cluster.node_of(slot_of(f"psmq:{{{name}}}")), name)
    return list(found.values())


def commands(cluster):
    """How many were carried out, on all nodes."""
    return sum(one.info("stats")["total_commands_processed"] for one in cluster.servers if one.process.poll() is None)


@pytest.mark.parametrize("key", ["psmq:{mail}", "psmq:{mail}:never", "psmq:queues", "{}x", "a{b", "{a}{b}", "x" * 300])
def test_a_key_has_the_slot_that_the_server_gives_it(cluster, key):
    """Computed here: asking would cost a trip."""
    assert slot_of(key) == cluster.servers[0].ask("CLUSTER", "KEYSLOT", key)


def test_a_map_with_holes_is_followed_and_corrected():
    """Slots nobody has are nobody's; MOVED without a host means the host that says so; a whole new map wins."""
    route = ClusterRoute(())
    route._learn([[10, 20, [b"a", 1, b"id"]], [0, 5, [b"", 2, b"id"], [b"r", 3, b"id"]]], _NODE)
    at = {slot: next(f"k{n}" for n in itertools.count() if slot_of(f"k{n}") == slot) for slot in (3, 7, 15)}
    assert [route.node_of(at[slot]) for slot in (3, 7, 15)] == [("me", 2), None, ("a", 1)]
    route.moved("3 :9", _NODE)
    route.moved("15 b:8", None)
    assert [route.node_of(at[slot]) for slot in (3, 15)] == [("me", 9), ("b", 8)]
    route._learn([[0, 20, [b"c", 4, b"id"]]], _NODE)
    assert route.node_of(at[3]) == ("c", 4)


def test_every_verb_works_on_every_node(manager, names):
    """As on one server."""
    for name in names:
        queue = manager.get_queue(name)
        ids = [queue.push(b"1"), *queue.push_many([b"2", b"3", b"4"])]
        assert queue.peek().data == b"1"
        first, second = queue.get_many(2)
        first.extend(60)
        first.release()
        second.bury("why")
        assert queue.redrive([ids[1]]) == 1
        words, got = queue.exchange([(queue.get(), Delete(b"result"))], 1)
        assert words == ["done"]
        got[0].delete()
        assert queue.pop() is not None
        assert queue.purge() == 1
        info = queue.info()
        assert (info.ready, info.leased, info.dead, info.durability.replicas) == (0, 0, 0, 1)
    assert set(names) <= set(manager.list_queues())
    for name in names:
        manager.delete_queue(name)
    assert not set(names) & set(manager.list_queues())


def test_an_overwritten_registry_is_set_aside_in_its_own_slot(cluster, manager, names):
    """Under a name that the same node has."""
    with raw_client(cluster.url) as raw:
        raw.delete("psmq:queues")
        raw.set("psmq:queues", "garbage")
        manager.get_queue(names[0])
        assert manager.list_queues() == [names[0]]
        assert raw.get("psmq:garbage:{psmq:queues}") == b"garbage"


def test_asyncio_goes_the_same_ways(cluster, names):
    """Many at a time, on all nodes."""

    async def main():
        async with AsyncQueueManager(url=cluster.url, timeout=30) as manager:
            queues = [await manager.get_queue(name) for name in names]
            waiting = [asyncio.create_task(queue.get(wait=10)) for queue in queues for _ in range(5)]
            await asyncio.sleep(0.1)
            await asyncio.gather(*(queue.push(b"x") for queue in queues for _ in range(5)))
            for message in await asyncio.gather(*waiting):
                await message.delete()
            return [(await queue.info()).counters["deleted"] for queue in queues]

    assert asyncio.run(main()) == [5, 5, 5]


def test_a_cancelled_get_leaves_its_connection_to_nobody(cluster, names):
    """What it may have been given goes back; the next calls get their own answers."""

    async def main():
        async with AsyncQueueManager(url=cluster.url, timeout=30) as manager:
            queues = [await manager.get_queue(name) for name in names]
            for _ in range(10):
                waiting = [asyncio.create_task(queue.get(wait=10)) for queue in queues]
                await asyncio.sleep(0.01)
                pushing = [asyncio.create_task(queue.push(b"x")) for queue in queues]
                for task in waiting:
                    task.cancel()
                await asyncio.gather(*pushing)
                for task, queue in zip(waiting, queues, strict=True):
                    try:
                        message = await task
                    except asyncio.CancelledError:
                        message = await queue.get(wait=5)
                    assert message.retrieval_count == 1
                    await message.delete()
            return [(await queue.info()).counters["deleted"] for queue in queues]

    assert asyncio.run(main()) == [10, 10, 10]


def test_a_forked_child_has_ways_of_its_own(manager, names):
    """Its parent's connections stay its parent's, to each node."""
    queues = [manager.get_queue(name) for name in names]
    for queue in queues:
        queue.push(b"parent")

    def child():
        for queue in queues:
            for _ in range(50):
                queue.push(b"child")

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    for queue in queues:
        for _ in range(50):
            queue.push(b"parent")
    process.join(30)
    assert process.exitcode == 0
    assert [queue.info().ready for queue in queues] == [101] * 3


def test_one_waits_for_queues_of_several_nodes_at_once(manager, names):
    """Each token wakes, whichever it is; and nobody polls."""
    queues = [manager.get_queue(name) for name in names]
    consumer = manager.consumer()
    assert consumer.wait_any(queues, 0.05) is None
    for queue in queues * 2:
        timer = threading.Timer(0.1, queue.push, [b"x"])
        timer.start()
        began = time.monotonic()
        assert consumer.wait_any(queues, 10) is queue
        assert time.monotonic() - began < SOON
        assert len(consumer.exchange(queue, limit=10).messages) == 1
        timer.join()
    consumer.close()


def test_tokens_that_come_at_once_are_not_lost(manager, names):
    """One is followed up, the others are given back for whoever waits elsewhere."""
    queues = [manager.get_queue(name) for name in names]
    for queue in queues:
        queue.push(b"x")
    consumer, other = manager.consumer(), manager.consumer()
    first = consumer.wait_any(queues, 5)
    rest = [queue for queue in queues if queue is not first]
    assert {other.wait_any(rest, SOON), other.wait_any(rest, SOON)} <= {*rest}
    consumer.close()
    other.close()


def test_a_wait_that_ends_takes_no_token_along(manager, names):
    """The waits that were called off are over: the next token goes to who waits then."""
    queues = [manager.get_queue(name) for name in names]
    consumer, other = manager.consumer(), manager.consumer()
    for _ in range(5):
        timer = threading.Timer(0.02, queues[0].push, [b"x"])
        timer.start()
        assert consumer.wait_any(queues, 5) is queues[0]
        for queue in queues[1:]:
            queue.push(b"x")
            assert other.wait_any([queue], SOON) is queue
        for queue in queues:
            queue.purge()
        timer.join()
    consumer.close()
    other.close()


def test_shut_ends_a_wait_on_several_nodes(manager, names):
    """A worker that stops does not wait for two seconds."""
    queues = [manager.get_queue(name) for name in names]
    consumer = manager.consumer()
    threading.Timer(0.2, consumer.shut).start()
    began = time.monotonic()
    with pytest.raises(ServerUnreachable):
        consumer.wait_any(queues, 30)
    assert time.monotonic() - began < 5
    consumer.close()


def test_a_primary_without_the_library_is_given_it(cluster, manager, names):
    """A new shard, or one whose functions were flushed: loaded there by whoever meets it."""
    queues = [manager.get_queue(name) for name in names]
    for one in cluster.servers:
        if one.info("replication")["role"] == "master":
            one.ask("FUNCTION", "FLUSH")
    for queue in queues:
        queue.push(b"x")
        assert queue.get().data == b"x"


def test_an_administrator_brings_the_library_to_all_primaries(cluster, manager):
    """Whatever queues there will be."""
    primaries = [one for one in cluster.servers if one.info("replication")["role"] == "master"]
    for one in primaries:
        one.ask("FUNCTION", "FLUSH")
    manager.load_library()
    assert all(one.ask("FUNCTION", "LIST") for one in primaries)


def test_a_queue_that_moves_while_it_is_used_loses_nothing(cluster, manager, names):
    """Key by key, as resharding does: calls wait for the end of it, each message is there once, and in order."""
    queue = manager.get_queue(names[0])
    slot = slot_of(queue._address.base)
    target = cluster.node_of(slot_of(manager._address(names[1]).base))
    sent, got, done = [], [], threading.Event()

    def push():
        while not done.is_set():
            sent.append(queue.push(b"%d" % len(sent)))

    def get():
        while not done.is_set() or queue.info().ready:
            if message := queue.get(wait=0.2):
                got.append(message)

    threads = [threading.Thread(target=push), threading.Thread(target=get)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(got) > 100)
    cluster.move(slot, target)
    before = len(got)
    wait_until(lambda: len(got) > before + 100)
    done.set()
    for thread in threads:
        thread.join()
    assert [message.message_id for message in got] == sent
    assert {message.retrieval_count for message in got} == {1}


def test_an_idle_worker_waits_on_all_nodes_without_polling(cluster, works, names):
    """Three queues on three nodes; what comes is run soon."""
    stage = works(cluster.url, names)
    stage.start("--threads", "2")
    for number in range(3):
        stage.send(number, f"warm{number}")
    wait_until(lambda: len(stage.done()) == 3)
    time.sleep(0.5)  # whatever was busy has come to rest
    before, began = commands(cluster), time.monotonic()
    time.sleep(2.5)
    a_second = (commands(cluster) - before) / (time.monotonic() - began)
    idle = 6 * 3  # nodes talk to each other and we ask each: not the worker's
    assert a_second < 20 + idle
    for number in range(3):
        began = time.monotonic()
        stage.send(number, f"word{number}").result(timeout=10)
        assert time.monotonic() - began < SOON


def test_a_primary_that_dies_under_load_costs_no_message(cluster, works, names):
    """Its replica takes over: each push that returned is run, by the same worker, which goes on by itself."""
    stage = works(f"{cluster.url}?durability=replica:1", names)
    stage.start("--threads", "4")
    sent, dying = [], threading.Event()

    def send(number):
        while not dying.is_set() or len(sent) < 900:
            word = f"{number}-{len(sent)}-{time.monotonic_ns()}"
            stage.send(number, word)
            sent.append(word)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(sent) > 300, 20)
    victim = cluster.node_of(slot_of(f"psmq:{{{names[0]}}}"))
    victim.kill()
    wait_until(lambda: cluster.node_of(slot_of(f"psmq:{{{names[0]}}}")) not in (None, victim), 20)
    victim.start()  # as a replica: pushes that waited for one go on
    before = len(sent)
    wait_until(lambda: len(sent) > before + 100, 20)
    dying.set()
    for thread in threads:
        thread.join()
    wait_until(lambda: not set(sent) - stage.done().keys(), 30)
    assert stage.done().keys() == set(sent)
    assert victim.info("replication")["role"] == "slave"
