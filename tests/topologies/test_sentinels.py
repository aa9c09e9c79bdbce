"""redis+sentinel://: the primary is where the Sentinels say, and when it changes the work goes on there."""

from __future__ import annotations

import asyncio
import threading

import pytest
from support import fresh_name, wait_until
from topology import Guarded

from psmq import AsyncQueueManager, QueueManager
from psmq.errors import OutcomeUnknown, ServerUnreachable, ServerUnsuitable


@pytest.fixture(scope="module")
def guarded():
    with Guarded() as found:
        yield found


@pytest.fixture
def whole(guarded):
    """Afterwards the old primary is a replica again."""
    yield guarded
    guarded.heal()


def test_the_primary_is_found_by_whichever_sentinel_answers(guarded):
    """Some of those that are named may be gone."""
    url = guarded.url.replace("//", "//127.0.0.1:1,127.0.0.1:2,")
    with QueueManager(url=url) as manager:
        queue = manager.get_queue(fresh_name())
        queue.push(b"x")
        assert queue.info().durability.replicas == 1
    with guarded.primary.client() as client:
        assert client.exists(queue._address.base)


def test_what_is_wrong_with_the_url_is_said(guarded):
    """No such service, no Sentinels, nobody there."""
    with QueueManager(url=guarded.url.replace("/main", "/mian"), timeout=1) as manager:
        with pytest.raises(ServerUnsuitable, match="know no service 'mian'"):
            manager.list_queues()
    with QueueManager(url=f"{guarded.primary.url.replace('redis:', 'redis+sentinel:')}/main", timeout=1) as manager:
        with pytest.raises(ServerUnsuitable, match="is no Sentinel"):
            manager.list_queues()
    with QueueManager(url="redis+sentinel://127.0.0.1:1/main", timeout=0.5) as manager:
        with pytest.raises(ServerUnreachable):
            manager.list_queues()


def test_a_sentinel_is_no_server(guarded):
    """redis:// to one of them says which scheme it takes."""
    with QueueManager(url=guarded.sentinels[0].url, timeout=1) as manager:
        with pytest.raises(ServerUnsuitable, match=r"use redis\+sentinel://"):
            manager.list_queues()


@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_a_failover_under_load_loses_nothing_that_was_replicated(whole, how):
    """Threads that push and get through it, the primary killed or cut off: each push that returned is there, in one
    copy, on the new one."""
    with QueueManager(url=whole.url, durability="replica:1", timeout=30) as manager:
        queue = manager.get_queue(fresh_name(), visibility_timeout=600)
        sent, unknown, got, done = [], [], [], threading.Event()

        def push():
            number = 0
            while not done.is_set():
                number += 1
                try:
                    sent.append(queue.push(b"%d" % number))
                except OutcomeUnknown:
                    unknown.append(number)

        def get():
            while not done.is_set() or queue.info().ready:
                if message := queue.get(wait=0.5):
                    got.append(message)

        threads = [threading.Thread(target=work) for work in (push, push, push, get)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(sent) > 200)
        whole.fail_over(how)
        whole.heal()  # its pushes ask for a replica
        before = len(sent)
        wait_until(lambda: len(sent) > before + 100, 20)
        done.set()
        for thread in threads:
            thread.join()
        assert len(got) > before
        # a delivery that was not replicated is a delivery again: nothing is lost by that
        there = {message.message_id for message in [*got, *queue.get_many(1000)]}
        there |= {message.message_id for message in queue.messages("leased", limit=1000)}
        assert set(sent) <= there
        assert len(set(sent)) == len(sent)
        assert queue.info().counters["sent"] <= len(sent) + len(unknown) * 2
        manager.delete_queue(queue.name)


def test_asyncio_goes_over_to_the_new_primary(whole):
    """A get that waits, and pushes behind the failover."""

    async def main():
        async with AsyncQueueManager(url=whole.url, timeout=30) as manager:
            queue = await manager.get_queue(fresh_name())
            waiting = asyncio.create_task(queue.get(wait=30))
            await queue.info()
            await asyncio.to_thread(whole.fail_over, "kill")
            await queue.push(b"after")
            return (await waiting).data

    assert asyncio.run(main()) == b"after"


def test_a_worker_goes_on_after_a_failover(whole, works):
    """By itself, with the same processes."""
    stage = works(whole.url, [fresh_name()])
    stage.start()
    (worker, log) = stage.workers[0]
    assert stage.send(0, "before").result(timeout=10) is None
    whole.fail_over("kill")
    assert stage.send(0, "after").result(timeout=20) is None
    assert stage.done() == {"before": 1, "after": 1}
    assert worker.poll() is None
    assert log.read_text().count("does not answer") <= 1
