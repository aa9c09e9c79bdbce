"""psmq doctor: a server's set-up and its queues, and the second count of a queue's books."""

from __future__ import annotations

import asyncio
import json

import pytest
import redis
from support import fresh_name

from psmq import AsyncQueueManager, QueueManager
from psmq_tasks.inspection import AsyncInspector

from .conftest import run_psmq

pytestmark = pytest.mark.timeout(60)


def examined(url, *words, code=0):
    """{subject: [(level, message, fix), …]}"""
    document = json.loads(run_psmq("doctor", url, "--json", *words, code=code).stdout)
    found = {}
    for finding in document["findings"]:
        found.setdefault(finding["subject"], []).append((finding["level"], finding["message"], finding["fix"]))
    assert document["problems"] == sum(level == "problem" for all_ in found.values() for level, _, _ in all_)
    return found


def test_a_bare_server_is_told_what_it_lacks(own_server):
    """Nothing on disk is a problem, and the fix is the line to type; done so, the problem is gone."""
    found = examined(own_server, code=1)
    ((level, message, fix),) = found["persistence"]
    assert (level, "a restart loses every message" in message) == ("problem", True)
    assert fix.startswith("CONFIG SET appendonly yes")
    assert found["eviction"][0][0] == "fine"
    with redis.Redis.from_url(own_server) as client:
        client.config_set("appendonly", "yes")
        assert examined(own_server)["persistence"][0][0] == "fine"
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("appendfsync", "no")
        found = examined(own_server, code=1)
        assert found["eviction"][0][0] == found["persistence"][0][0] == "problem"
        client.config_set("maxmemory", "1mb")
        assert examined(own_server, code=1)["memory"][0][0] == "problem"


def test_the_functions_are_found_by_their_revision(own_server):
    """Missing, older than ours, ours."""
    from psmq import library

    def said():
        return examined(own_server, code=1)["functions"][0]

    assert said()[:2] == ("advice", "psmq_v1 is not loaded")
    with redis.Redis.from_url(own_server) as client:
        older = library.source().replace(f"calls.revision = {library.revision()}", "calls.revision = 0")
        client.function_load(older)
        assert "revision 0" in said()[1]
        client.function_load(library.source(), replace=True)
        assert said()[0] == "fine"


def test_what_an_account_may_not_do_is_named(own_server):
    """With the line that allows it."""
    with redis.Redis.from_url(own_server) as client:
        client.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all", "-function|load", "-blmove")
    url = own_server.replace("unix://", "unix://app:pw@")
    ((level, message, fix),) = examined(url, code=1)["rights"]
    assert (level, "BLMOVE" in message) == ("problem", True)
    assert fix.startswith("ACL SETUSER app +function|load +blmove") or "+blmove" in fix


def test_an_account_that_may_look_at_nothing_gets_an_answer_all_the_same(own_server):
    """What cannot be asked is said to be so; no traceback, whatever is refused."""
    with redis.Redis.from_url(own_server) as client:
        client.execute_command(
            "ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all", "-acl", "-config", "-function|list"
        )  # fmt: skip
    found = examined(own_server.replace("unix://", "unix://app:pw@"), code=1)
    assert "may not ask" in found["rights"][0][1]
    assert found["functions"][0][0] == "advice"


def test_queues_in_trouble_are_named(manager, read, run):
    """Unserved, large and dead messages, forged calls; each with what to do."""
    queue = manager.get_queue("mail")
    queue.push_many([b"x"] * 3)
    queue.push(b"x" * 300_000)
    queue.bury(queue.get(), "ForgedPayload: the signature does not fit")
    with redis.Redis.from_url(manager.url) as client:
        client.delete(f"{queue._address.base}:consumers")
    said = [f for f in read("doctor", code=1)["findings"] if f["subject"] == "queue mail"]
    told = " ".join(f"{one['level']}: {one['message']} → {one['fix']}" for one in said)
    for words in (
        "problem: 3 messages wait and nobody has asked",
        "psmq-worker APP -q mail",
        "advice: 1 dead letter →",
        "293 KiB",
        "problem: 1 of its last 1 dead letters carry no signature",
        "PSMQ_SECRET",
    ):
        assert words in told
    shown = run("doctor", code=1).stdout
    assert "PROBLEM  queue mail: 3 messages wait" in shown
    assert max(map(len, shown.splitlines())) < 200


def test_one_message_waits_and_two_wait(manager, read, raw_server, namespace):
    """Nobody comes for them, or the queue is paused."""
    queue = manager.get_queue("mail")
    for count, words in ((1, "1 message waits"), (2, "2 messages wait")):
        queue.push(b"x")
        raw_server.delete(f"{namespace}:{{mail}}:consumers")
        (found,) = [one["message"] for one in read("doctor", code=1)["findings"] if one["subject"] == "queue mail"]
        assert found == f"{words} and nobody has asked for one within the last minute"
        queue.pause()
        (found,) = [one["message"] for one in read("doctor", code=1)["findings"] if one["subject"] == "queue mail"]
        assert found == f"paused, and {words}"
        queue.resume()
        assert queue.info().ready == count


def test_no_server_is_3_and_no_queue_4(run):
    """One line each."""
    result = run_psmq("doctor", "unix:///nonexistent/socket", code=3)
    assert len(result.stderr.splitlines()) == 1
    assert "no queue 'nope'" in run("doctor", "--audit", "nope", code=4).stderr


def test_the_books_of_a_busy_queue_are_right(manager, read):
    """Messages in every state, and the counters that say how they came there."""
    queue = manager.get_queue("q", max_retrievals=1)
    queue.push_many([b"x"] * 700)
    queue.push_many([b"x"] * 5, delay=60, ttl=100)
    for message in queue.get_many(9):
        queue.bury(message, "because")
    queue.delete(queue.get())
    queue.pop()
    queue.get_many(3)
    queue.redrive([letter.message.message_id for letter in queue.dead_letters(limit=2)])
    (finding,) = read("doctor", "--audit", "q")["findings"]
    assert finding["level"] == "fine"
    assert "705 came in, 2 left, 703 are there" in finding["message"]


def test_what_is_off_in_the_books_is_found(manager, read, run):
    """Each kind of damage, on its own line, by number and id."""
    queue = manager.get_queue("q")
    base = queue._address.base
    lost, both, bare, garbled, plain = queue.push_many([b"x"] * 5)
    with redis.Redis.from_url(manager.url) as client:
        client.zrem(f"{base}:ready", lost)
        client.zadd(f"{base}:dead", {both: 1})
        client.hdel(f"{base}:messages", bare)
        client.hset(f"{base}:state", garbled, "what is this")
        client.hset(f"{base}:messages", plain, "no head")
        client.hset(f"{base}:reasons", "stranger", "why")
        client.zadd(f"{base}:expiring", {"stranger": 1})
        client.hincrby(base, "deleted", 7)
    told = [one["message"] for one in read("doctor", "--audit", "q", code=1)["findings"]]
    for message_id, words in (
        (lost, "in no state"),
        (both, "in two states"),
        (bare, "have no bytes"),
        (garbled, "state that cannot be read"),
        (plain, "no psmq wrote"),
        ("stranger", "reasons of 1 messages that are not there"),
        ("stranger", "expiring of 1 messages that are not there"),
    ):
        assert [words in text and message_id in text for text in told].count(True) == 1, words
    assert any("not accounted for" in text for text in told)
    assert "Traceback" not in run("doctor", "--audit", "q", code=1).output


def test_async_programs_ask_the_same(server_url):
    """The same findings, awaited."""
    name = fresh_name()

    async def body():
        async with AsyncQueueManager(url=server_url, namespace=name) as manager:
            await manager.get_queue("q")
            found = await manager.audit("q"), await manager.diagnose()
            await manager.delete_queue("q")
            return found

    audited, diagnosed = asyncio.run(body())
    assert [one.level for one in audited] == ["fine"]
    with QueueManager(url=server_url, namespace=name) as manager:
        assert {one.subject for one in manager.diagnose()} == {one.subject for one in diagnosed} - {"queue q"}


@pytest.mark.parametrize("overwritten", [False, True])
def test_the_doctor_writes_nothing(own_server, overwritten):
    """Not even where the list of queues names one that is gone, or is none: that is said, and left to who may write."""
    with redis.Redis.from_url(own_server) as client, QueueManager(url=own_server) as manager:
        manager.get_queue("there").push(b"x")
        client.sadd("psmq:queues", "gone")
        if overwritten:
            client.set("psmq:queues", "garbage")

        def changes():
            return client.info("persistence")["rdb_changes_since_last_save"], sorted(client.keys())

        before = changes()
        found = examined(own_server, code=1)
        assert changes() == before
        assert ("queue there" in found, "queues" in found) == (not overwritten, overwritten)
        assert "queue gone" not in found

        async def main():
            async with AsyncQueueManager(url=own_server) as other:
                return {one.subject for one in await AsyncInspector(other).diagnose()}

        assert asyncio.run(main()) == {*found}
        assert changes() == before
        if overwritten:
            assert "psmq queues" in found["queues"][0][2]
            run_psmq("queues", "-u", own_server)
            assert "queues" not in examined(own_server, code=1)
