"""Resharding under load: the slots of queues go from node to node and back, key by key, while everybody goes on."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter

import pytest
from chaos.arena import Arena
from support import fresh_name, wait_until
from topology import Cluster

from psmq import AsyncQueueManager, Bury, Delete, QueueManager, Release
from psmq.routes import slot_of
from psmq_tasks.torture import places


@pytest.fixture(scope="module")
def cluster():
    with Cluster(replicas=0) as found:
        yield found


class Crowd:
    """Clients of one queue, each with its way to take and to settle, and what they were told."""

    def __init__(self, url):
        self.url, self.name = url, fresh_name("crowd")
        self.pushed, self.settled, self.receipts, self.done = [], [], [], threading.Event()
        self.dice = random.Random(7)
        self.manager = QueueManager(url=url, timeout=60)
        self.queue = self.manager.get_queue(self.name, visibility_timeout=120, max_retrievals=10_000)
        works = (self.push_one, self.push_many, self.get_and_delete, self.exchange, self.pop, self.fail, self.loop)
        self.errors = []
        self.threads = [threading.Thread(target=self._run, args=(work,)) for work in works]
        for thread in self.threads:
            thread.start()

    def _run(self, work):
        try:
            while not self.done.is_set():
                work()
        except BaseException as error:
            self.errors.append(error)
            raise

    def take(self, messages):
        self.receipts += [(message.message_id, message.receipt) for message in messages]
        return messages

    def push_one(self):
        self.pushed.append(self.queue.push(b"one", priority=self.dice.choice((0, 5))))
        time.sleep(0.002)

    def push_many(self):
        self.pushed += self.queue.push_many([b"many"] * 5)
        self.pushed.append(self.queue.push(b"later", delay=0.05, ttl=600))
        time.sleep(0.01)

    def get_and_delete(self):
        if message := self.queue.get(wait=0.2):
            self.take([message])
            message.extend(120)
            message.delete()
            self.settled.append(message.message_id)

    def exchange(self):
        held = []
        for _ in range(3):
            result = b"result" if self.dice.random() < 0.05 else None  # a key each, which has to move too
            codes, got = self.queue.exchange([(message, Delete(result)) for message in held], 5, wait=0.1)
            assert codes == ["done"] * len(held)
            self.settled += [message.message_id for message in held]
            held = self.take(got)
        self.queue.exchange([(message, Release(0)) for message in held])

    def pop(self):
        if message := self.queue.pop():
            self.settled.append(message.message_id)
        self.queue.peek()
        self.queue.info()
        time.sleep(0.02)

    def fail(self):
        """Bury, and send back."""
        held = self.take(self.queue.get_many(3))
        self.queue.exchange([(message, Bury("no", failure=b"f")) for message in held])
        assert self.queue.redrive([message.message_id for message in held]) == len(held)
        time.sleep(0.01)

    def loop(self):
        """The same from an event loop."""

        async def main():
            async with AsyncQueueManager(url=self.url, timeout=60) as manager:
                queue = await manager.get_queue(self.name)
                while not self.done.is_set():
                    self.pushed.append(await queue.push(b"async"))
                    if message := await queue.get(wait=0.1):
                        self.take([message])
                        await message.delete()
                        self.settled.append(message.message_id)

        asyncio.run(main())

    def end(self):
        self.done.set()
        for thread in self.threads:
            thread.join(60)
        assert not self.errors

    def judge(self):
        """Each push is settled once or is there once; no delivery was given twice; the books add up."""
        # What becomes due between a look at the ready and one at the delayed would be seen in neither.
        wait_until(lambda: self.queue.info().delayed == 0)
        where = places(self.queue)
        found = Counter([*self.settled, *where])
        assert set(self.pushed) == found.keys()
        assert set(found.values()) == {1}
        assert all(len(states) == 1 for states in where.values())
        assert len(set(self.pushed)) == len(self.pushed)
        assert max(Counter(self.receipts).values()) == 1
        counters = self.queue.info().counters
        assert counters["sent"] == len(self.pushed)
        assert counters["deleted"] + counters["popped"] == len(self.settled)
        assert not [finding for finding in self.manager.audit(self.name) if finding.level != "fine"]


def reshard(cluster, seconds, pause):
    """Move the slot of a worker's queue and that of a crowd's round the cluster for so long, and home again."""
    arena, crowd = Arena(url=cluster.url, timeout=10), Crowd(cluster.url)
    try:
        slots = [slot_of(arena.queue._address.base), slot_of(crowd.queue._address.base)]
        homes = [cluster.node_of(slot) for slot in slots]
        arena.worker("-p", 2, "-t", 2)
        feeding = arena.feed(seconds, 150, 0.002)
        moves, keys, ends = 0, 0, time.monotonic() + seconds
        while time.monotonic() < ends or any(cluster.node_of(slot) is not home for slot, home in zip(slots, homes)):
            for slot in slots:
                at = cluster.servers.index(cluster.node_of(slot))
                keys += cluster.move(slot, cluster.servers[(at + 1) % 3], pause)
                moves += 1
                before = len(crowd.pushed)
                wait_until(lambda before=before: len(crowd.pushed) > before, 20)
        feeding.join()
        crowd.end()
        arena.drain(60)
        found = arena.verdict()
        print(f"{moves} moves, {keys} keys; {len(crowd.pushed)} pushed by hand, {len(crowd.settled)} settled")
        assert found.holds
        assert (found.done, found.twice, found.overlapping) == (found.pushed, 0, 0)
        crowd.judge()
        return moves
    finally:
        crowd.done.set()
        crowd.manager.close()
        arena.close()


def test_queues_whose_slots_move_under_load_lose_and_double_nothing(cluster):
    """Workers and clients with all verbs, sync and async; there and back."""
    assert reshard(cluster, 2.0, 0.001) >= 6


@pytest.mark.chaos_long
@pytest.mark.timeout(300)
def test_queues_whose_slots_never_rest_lose_and_double_nothing(cluster):
    """The same for a minute and a half, with keys that take their time."""
    assert reshard(cluster, 90.0, 0.01) > 20
