"""durability=…: what is demanded is given, or the push says that it was not; and what is given is told."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from support import wait_until

from psmq import AsyncQueueManager, QueueManager
from psmq.durability import Durability
from psmq.errors import InvalidOption, NotReplicated, OutcomeUnknown


def test_a_push_returns_when_a_replica_has_it(fleet):
    """In one trip: the server waits for the replica behind the push."""
    primary = fleet.start()
    replica = fleet.replica(primary)
    with QueueManager(url=primary.url, durability="replica:1") as manager:
        queue = manager.get_queue("q")
        queue.push(b"x")
        primary.ask("CONFIG", "RESETSTAT")
        before = primary.info("stats")["total_reads_processed"]
        for _ in range(50):
            message_id = queue.push(b"x")
            with replica.client() as client:
                assert client.hexists(f"{queue._address.base}:messages", message_id)
        stats = primary.info("commandstats")
        assert (stats["cmdstat_wait"]["calls"], stats["cmdstat_fcall"]["calls"]) == (50, 50)
        # one for each push, one for each word of the replica, some of this test's own
        assert primary.info("stats")["total_reads_processed"] - before < 50 * 3 + 20
        queue.push_many([b"x"] * 500)
        assert primary.info("commandstats")["cmdstat_wait"]["calls"] == 53
        queue.get().delete()  # a delivery or deletion that is lost costs a redelivery: nobody waits for it
        assert primary.info("commandstats")["cmdstat_wait"]["calls"] == 53


@pytest.mark.parametrize("demand", ["replica:1", "replica:2"])
def test_a_push_that_no_replica_has_says_so(fleet, demand):
    """After the timeout, as a kind of OutcomeUnknown that knows: stored, once, and on how many replicas."""
    primary = fleet.start()
    replicas = [fleet.replica(primary) for _ in range(int(demand[-1]))]
    replicas[0].freeze()

    async def main():
        async with AsyncQueueManager(url=f"{primary.url}?durability={demand}", timeout=1.5) as manager:
            await (await manager.get_queue("q")).push(b"x")

    with QueueManager(url=primary.url, durability=demand, timeout=1.5) as manager:
        queue = manager.get_queue("q")
        with pytest.raises(NotReplicated, match=f"only {len(replicas) - 1} of {len(replicas)} replicas") as caught:
            queue.push(b"x", deduplication_id="once")
        assert isinstance(caught.value, OutcomeUnknown)
        assert (caught.value.replicas, caught.value.wanted) == (len(replicas) - 1, len(replicas))
        with pytest.raises(NotReplicated):
            asyncio.run(main())
        assert queue.info().ready == 2
        replicas[0].thaw()
        queue.push(b"x", deduplication_id="once")
        assert queue.info().ready == 2


def test_a_letter_leaves_only_when_a_replica_has_its_copy(fleet):
    """In a cluster the other queue may be on another node: its failover would lose what the source gave up."""
    primary = fleet.start()
    replica = fleet.replica(primary)
    with QueueManager(url=primary.url, durability="replica:1", timeout=1.5) as manager:
        queue, other = manager.get_queue("q"), manager.get_queue("other")
        message_id = queue.push(b"x")
        queue.get().bury("why")
        replica.freeze()
        with pytest.raises(NotReplicated):
            queue.transfer([message_id], "other")
        assert (queue.info().dead, other.info().ready) == (1, 0)
        letters = queue.dead_letters()
        queue.purge(ids=[message_id])
        with pytest.raises(NotReplicated):
            queue.adopt(letters)
        replica.thaw()
        assert queue.transfer([message_id], "other").done == (message_id,)
        assert other.pop().data == b"x"


def test_a_push_waits_for_a_replica_that_comes_back(fleet):
    """It is asked again, with the same number, until the timeout: one message."""
    primary = fleet.start()
    replica = fleet.replica(primary)
    with QueueManager(url=primary.url, durability="replica:1", timeout=20) as manager, ThreadPoolExecutor(1) as pool:
        queue = manager.get_queue("q")
        replica.freeze()
        future = pool.submit(queue.push, b"x")
        wait_until(lambda: primary.info("commandstats").get("cmdstat_wait", {}).get("calls", 0) >= 1)
        replica.thaw()
        message_id = future.result(timeout=20)
        assert [message.message_id for message in queue.messages("ready")] == [message_id]


@pytest.mark.parametrize("demand", ["everysec", "always"])
def test_a_killed_server_has_the_pushes_that_returned(fleet, demand):
    """All of them with "always". With "everysec" the server does not write while an earlier flush is still under way,
    for up to two seconds: what came in that time is missing, whole pushes from the end, and nothing before them."""
    server = fleet.start(appendonly="yes", appendfsync=demand)
    with QueueManager(url=server.url, durability=demand, timeout=0.2) as manager:
        queue = manager.get_queue("q")
        assert queue.info().durability == Durability(aof=True, fsync=demand, replicas=0)
        sent = {}

        def push():
            while True:
                try:
                    sent[queue.push(b"x")] = time.monotonic()
                except (OutcomeUnknown, ConnectionError):
                    return

        with ThreadPoolExecutor(4) as pool:
            done = [pool.submit(push) for _ in range(4)]
            wait_until(lambda: len(sent) > 300)
            server.kill()
            killed = time.monotonic()
            for future in done:
                future.result()
    server.start()
    with QueueManager(url=server.url, durability=demand) as manager:
        queue, there, last = manager.get_queue("q"), [], None
        while page := queue.messages("ready", limit=1000, after=last):
            there, last = there + page, page[-1]
    found = {message.message_id for message in there}
    missing = [message_id for message_id in sorted(sent) if message_id not in found]
    if demand == "always":
        assert missing == []
    assert missing == sorted(sent)[len(sent) - len(missing) :]
    assert all(killed - sent[message_id] < 2.5 for message_id in missing)


def test_a_replica_that_takes_over_has_all_that_was_acknowledged(fleet):
    """Promoted by hand, the primary gone for good."""
    primary = fleet.start()
    replica = fleet.replica(primary)
    with QueueManager(url=primary.url, durability="replica:1") as manager:
        queue = manager.get_queue("q")
        with ThreadPoolExecutor(4) as pool:
            sent = list(pool.map(queue.push, [b"x"] * 400))
        primary.kill()
    replica.ask("REPLICAOF", "NO", "ONE")
    with QueueManager(url=replica.url) as manager:
        assert {message.message_id for message in manager.get_queue("q").messages("ready", limit=1000)} == set(sent)


def test_info_tells_what_the_server_gives(fleet):
    """At this moment, whoever asks how; unknown is not the same as none."""
    server = fleet.start()
    with QueueManager(url=server.url) as manager:
        queue = manager.get_queue("q")
        assert queue.info().durability == Durability(aof=False, fsync=None, replicas=0)
        server.ask("CONFIG", "SET", "appendonly", "yes")
        fleet.replica(server)
        given = Durability(aof=True, fsync="everysec", replicas=1)
        assert manager.queue_info("q").durability == queue.info().durability == given
        assert queue.info().as_dict()["durability"] == {"aof": True, "fsync": "everysec", "replicas": 1}
    server.ask("ACL", "SETUSER", "ada", "on", ">pw", "~*", "+@all", "-info", "-config")
    with QueueManager(url=server.url.replace("//", "//ada:pw@")) as manager:
        assert manager.get_queue("q").info().durability == Durability(None, None, None)


def test_an_embedded_server_has_no_replicas_and_memory_nothing(tmp_path):
    """A demand that cannot be met is refused where it is written."""
    with pytest.raises(InvalidOption, match="everysec or always"):
        QueueManager(db_dir=tmp_path, durability="replica:1")
    with pytest.raises(InvalidOption, match="durability"):
        QueueManager(durability="always")


def test_the_demand_goes_along_to_other_processes(fleet):
    """A worker's children are made from the settings of a manager."""
    given = QueueManager(url="redis://h", durability="replica:2").settings()
    assert given == {"url": "redis://h", "durability": "replica:2", "namespace": "psmq"}
    again = QueueManager(**given)
    assert again.settings() == given
