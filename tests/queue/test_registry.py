"""The sets of names beside the queues, when a stranger has written in their place."""

from __future__ import annotations

import asyncio
import threading

import pytest
from support import fresh_name, raw_client

from psmq import AsyncQueueManager, QueueManager
from psmq.errors import ServerUnsuitable

PLANT = {
    "string": lambda raw, key: raw.set(key, "garbage"),
    "list": lambda raw, key: raw.rpush(key, "garbage"),
    "hash": lambda raw, key: raw.hset(key, "garbage", "1"),
}


@pytest.fixture(params=PLANT)
def planted(request, raw_server):
    """Puts something of another type there: planted(key)."""

    def plant(key):
        raw_server.delete(key)
        PLANT[request.param](raw_server, key)

    return plant


@pytest.fixture
def namespace(raw_server):
    """One of the test's own: the registry belongs to all queues in it."""
    found = fresh_name("ns")
    yield found
    for key in [*raw_server.scan_iter(f"{found}:*", count=1000)]:
        raw_server.delete(key)


@pytest.fixture
def own(server_url, namespace):
    with QueueManager(url=server_url, namespace=namespace) as found:
        yield found


def test_an_overwritten_registry_is_set_aside_and_fills_again(own, namespace, raw_server, planted):
    """The queues are what they were; who is opened is listed again."""
    one, two = own.get_queue("one"), own.get_queue("two")
    one.push(b"x")
    planted(f"{namespace}:queues")
    assert own.list_queues() == []
    assert raw_server.exists(f"{namespace}:garbage:{{{namespace}:queues}}")
    planted(f"{namespace}:queues")
    assert own.get_queue("one").get().data == b"x"
    assert own.list_queues() == ["one"]
    own.get_queue("two")
    assert own.list_queues() == ["one", "two"]
    planted(f"{namespace}:queues")
    own.delete_queue(two.name)
    assert own.list_queues() == []
    assert one.info().leased == 1


def test_asyncio_does_the_same(server_url, namespace, planted):
    """By the same steps."""

    async def main():
        async with AsyncQueueManager(url=server_url, namespace=namespace) as manager:
            planted(f"{namespace}:queues")
            await manager.get_queue("one")
            return await manager.list_queues()

    assert asyncio.run(main()) == ["one"]


def test_overwritten_names_of_workers_are_set_aside(own, namespace, planted):
    """Each says again that it lives."""
    own.note_worker("w1", b"here", seconds=60)
    planted(f"{namespace}:workers")
    assert own.worker_notes() == {}
    planted(f"{namespace}:workers")
    own.note_worker("w1", b"still here", seconds=60)
    assert own.worker_notes() == {"w1": b"still here"}
    planted(f"{namespace}:workers")
    own.forget_worker("w1")
    assert own.worker_notes() == {}


def test_many_who_notice_at_once_lose_no_name(server_url, namespace, planted):
    """One sets it aside; the names that came since are left where they are."""
    managers = [QueueManager(url=server_url, namespace=namespace) for _ in range(8)]
    for round_ in range(10):
        planted(f"{namespace}:queues")
        together = threading.Barrier(len(managers))

        def open_one(manager, number, round_=round_, together=together):
            together.wait(10)
            manager.get_queue(f"q-{round_}-{number}")

        threads = [threading.Thread(target=open_one, args=(one, number)) for number, one in enumerate(managers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert managers[0].list_queues() == [f"q-{round_}-{number}" for number in range(8)]
    for manager in managers:
        manager.close()


def test_who_may_not_set_it_aside_is_told_what_to_do(own_server):
    """The key by its name, and that it is to be renamed."""
    with raw_client(own_server) as raw:
        raw.execute_command(
            "ACL", "SETUSER", "narrow", "on", ">word", "~psmq:*", "-@all", "+@hash", "+@sortedset", "+@list", "+sadd",
            "+smembers", "+exists", "+time", "+info", "+function|load", "+fcall|psmq_v1_create_queue",
        )  # fmt: skip
        raw.set("psmq:queues", "garbage")
        url = f"{own_server.replace('unix://', 'unix://narrow:word@')}"
        with QueueManager(url=url, timeout=2) as manager:
            with pytest.raises(ServerUnsuitable, match="key 'psmq:queues' holds .* rename it") as caught:
                manager.get_queue("one")
        assert "\n" not in str(caught.value)
        assert raw.get("psmq:queues") == b"garbage"


def test_looking_at_the_names_leaves_them_as_they_are(own, namespace, raw_server, planted):
    """``tidy=False``: what is gone stays listed, what is no list stays and is told."""
    own.get_queue("one")
    raw_server.sadd(f"{namespace}:queues", "gone")
    assert own.list_queues(tidy=False) == ["one"]
    assert raw_server.smembers(f"{namespace}:queues") == {b"one", b"gone"}
    assert own.list_queues() == ["one"]
    assert raw_server.smembers(f"{namespace}:queues") == {b"one"}
    planted(f"{namespace}:queues")
    with pytest.raises(ServerUnsuitable, match=f"key '{namespace}:queues' holds"):
        own.list_queues(tidy=False)
    assert raw_server.type(f"{namespace}:queues") != b"set"
