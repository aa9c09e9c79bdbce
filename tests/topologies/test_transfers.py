"""Dead letters that go from one node of a cluster to another."""

from __future__ import annotations

import signal

import pytest
from support import fresh_name, python
from topology import Cluster

from psmq import QueueManager
from psmq.routes import slot_of


@pytest.fixture(scope="module")
def cluster():
    with Cluster() as found:
        yield found


@pytest.fixture
def manager(cluster):
    with QueueManager(url=cluster.url, timeout=30) as found:
        yield found


@pytest.fixture
def pair(cluster, manager):
    """Two queues on different nodes."""
    found = {}
    while len(found) < 2:
        name = fresh_name()
        found.setdefault(cluster.node_of(slot_of(f"psmq:{{{name}}}")), name)
    queues = [manager.get_queue(name) for name in found.values()]
    yield queues
    for queue in queues:
        manager.delete_queue(queue.name)


def bury(queue, count):
    ids = queue.push_many([b"x"] * count)
    for message in queue.get_many(count):
        message.bury("why")
    return ids


def test_letters_go_from_node_to_node(manager, pair):
    """No call needs both."""
    one, other = pair
    ids = bury(one, 150)
    assert sorted(one.transfer(ids, other.name).done) == ids
    assert sorted(message.message_id for message in other.get_many(999)) == ids
    assert [found.level for queue in pair for found in manager.audit(queue.name)] == ["fine", "fine"]


CARRY = """
import sys
from psmq import QueueManager

with QueueManager(url=sys.argv[1]) as manager:
    manager.find_queue(sys.argv[2]).transfer(sys.argv[4:], sys.argv[3])
"""


@pytest.mark.parametrize("step", ["departed", "arrived", "left", "admitted"])
def test_killed_between_two_nodes_it_is_completed(cluster, manager, pair, step):
    """kill -9: one copy, on one node."""
    one, other = pair
    ids = bury(one, 3)
    with python(CARRY, cluster.url, one.name, other.name, *ids, PSMQ_KILL_AT=f"transfer.{step}:1") as program:
        assert program.wait(30) == -signal.SIGKILL
    finished = one.finish_transfers() + other.finish_transfers()
    done = one.transfer([letter.message.message_id for letter in one.dead_letters()], other.name).done
    assert sorted({*finished, *done}) == ids
    assert sorted(message.message_id for message in other.get_many(9)) == ids
    assert [found.level for queue in pair for found in manager.audit(queue.name)] == ["fine", "fine"]
