"""psmq doctor where there is more than one server: each finding is of the server that it names."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys

import pytest
from support import ROOT, fresh_name
from topology import Cluster, Guarded

from psmq import AsyncQueueManager, QueueManager
from psmq.routes import slot_of

RUN = "import sys; from psmq_tasks.cli import psmq; sys.exit(psmq())"


@pytest.fixture(scope="module")
def cluster():
    with Cluster(replicas=1) as found:
        yield found


@pytest.fixture(scope="module")
def guarded():
    with Guarded() as found:
        yield found


def diagnoses(url):
    """What both kinds of managers find: the same subjects, levels and fixes."""
    with QueueManager(url=url, timeout=5) as manager:
        found = manager.diagnose()

    async def main():
        async with AsyncQueueManager(url=url, timeout=5) as manager:
            return await manager.diagnose()

    assert [(one.subject, one.level, one.fix) for one in asyncio.run(main())] == [
        (one.subject, one.level, one.fix) for one in found
    ]
    return {one.subject: one for one in found}


def doctor(url):
    """The command's document, if it ends with the status of a server that has a problem."""
    words = [sys.executable, "-W", "error", "-c", RUN, "doctor", url, "--json"]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
    )
    assert done.returncode == 1, done.stderr
    return json.loads(done.stdout)


def test_each_primary_of_a_cluster_is_examined_by_itself(cluster):
    """What is set up otherwise on one of them is said of that one."""
    first, second, third, _ = cluster.servers
    first.ask("CONFIG", "SET", "appendonly", "yes")
    second.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        found = diagnoses(f"{cluster.url}?allow_eviction=1")
    finally:
        second.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
        first.ask("CONFIG", "SET", "appendonly", "no")
    of = {one: f"of 127.0.0.1:{one.port}" for one in (first, second, third)}
    for kind in ("version", "functions", "rights", "memory", "latency", "clock"):
        assert all(f"{kind} {of[one]}" in found for one in of), found.keys()
    assert [found[f"persistence {of[one]}"].level for one in of] == ["fine", "problem", "problem"]
    assert [found[f"eviction {of[one]}"].level for one in of] == ["fine", "problem", "fine"]
    assert "1 replicas" in found[f"replication {of[first]}"].message
    assert "CLUSTER REPLICATE" in found[f"replication {of[third]}"].fix


def test_the_command_names_the_nodes_of_a_cluster(cluster):
    """And the queues of all of them."""
    with QueueManager(url=cluster.url) as manager:
        names = {}
        while len(names) < 3:
            name = fresh_name()
            names.setdefault(cluster.node_of(slot_of(f"psmq:{{{name}}}")), name)
        for name in names.values():
            manager.get_queue(name)
        subjects = [finding["subject"] for finding in doctor(cluster.url)["findings"]]
        for name in names.values():
            manager.delete_queue(name)
    assert {f"queue {name}" for name in names.values()} <= {*subjects}
    assert [one for one in subjects if one.startswith("persistence")] == [
        f"persistence of {place}" for place in sorted(f"127.0.0.1:{one.port}" for one in cluster.servers[:3])
    ]


def test_behind_sentinels_the_primary_is_examined(guarded):
    """As a single server is: there is only one to speak of."""
    found = diagnoses(guarded.url)
    assert (found["replication"].level, "1 replicas" in found["replication"].message) == ("advice", True)
    assert found["latency"].level in ("fine", "advice")
    subjects = [finding["subject"] for finding in doctor(guarded.url)["findings"]]
    assert {"version", "functions", "rights", "eviction", "persistence", "replication", "clock"} <= {*subjects}
