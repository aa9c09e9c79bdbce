"""Answers that never arrive: a command that is sent again has the effect of one."""

from __future__ import annotations

import asyncio
import contextlib
import random
import select
import shutil
import socket
import tempfile
import threading
import time
from pathlib import Path

import pytest
from support import fresh_name

from psmq import AsyncQueueManager, Delete, QueueManager
from psmq.errors import OutcomeUnknown, ServerUnreachable


class LossyProxy:
    """A socket in front of the server's that swallows some answers, and cuts the connection then.

    ``lose(number)``: whether the answer number … (counted over all connections) gets lost.
    """

    def __init__(self, upstream, lose):
        self.folder = tempfile.mkdtemp(prefix="psmq-lossy-", dir="/tmp")
        self.path = str(Path(self.folder) / "s")
        self.upstream, self.lose, self.number, self.lost = upstream, lose, 0, 0
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(100)
        self.threads = [threading.Thread(target=self.accept, daemon=True)]
        self.threads[0].start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                thread = threading.Thread(target=self.serve, args=(client,), daemon=True)
                self.threads.append(thread)
                thread.start()

    def serve(self, client):
        with client, socket.socket(socket.AF_UNIX) as server:
            server.connect(self.upstream)
            while True:
                readable, _, _ = select.select([client, server], [], [])
                for source in readable:
                    data = source.recv(1 << 20)
                    if not data:
                        return
                    if source is client:
                        server.sendall(data)
                        continue
                    self.number += 1
                    if self.lose(self.number):
                        self.lost += 1
                        return
                    client.sendall(data)

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        shutil.rmtree(self.folder)


@pytest.fixture
def lossy(server_url):
    """Makes proxies: lossy(lose) → URL."""
    made = []
    if not server_url.startswith("unix://"):
        pytest.skip("the proxy speaks unix sockets")

    def make(lose):
        made.append(LossyProxy(server_url.removeprefix("unix://").partition("?")[0], lose))
        return f"unix://{made[-1].path}", made[-1]

    yield make
    for proxy in made:
        proxy.close()


def one_in(share, seed=1):
    """Loses one answer in so many, after the first few (a connection is opened by some that are not ours)."""
    dice = random.Random(seed)
    return lambda number: number > 5 and dice.random() < 1 / share


def test_a_thousand_pushes_are_a_thousand_messages(lossy, queue):
    """One answer in ten is lost: none is pushed twice, none is missing."""
    url, proxy = lossy(one_in(10))
    with QueueManager(url=url) as manager:
        mine = manager.get_queue(queue.name)
        ids = [mine.push(b"%d" % number) for number in range(1000)]
    assert proxy.lost > 50
    assert queue.info().ready == len(set(ids)) == 1000
    held = []
    while got := queue.get_many(1000):
        held += got
    assert [(message.message_id, message.data) for message in held] == [
        (message_id, b"%d" % number) for number, message_id in enumerate(ids)
    ]


def test_gets_deliver_each_message_once(lossy, queue):
    """No lease that nobody knows of: what was given and not heard is given again, by the same receipt."""
    queue.push_many([b"%d" % number for number in range(500)])
    url, proxy = lossy(one_in(5))
    with QueueManager(url=url) as manager:
        mine = manager.get_queue(queue.name)
        got = []
        while found := mine.get_many(3):
            got += found
            words, more = mine.exchange([(message, Delete()) for message in found], 2)
            assert set(words) == {"done"}
            got += more
            for message in more:
                message.delete()
    assert proxy.lost > 20
    assert [message.data for message in got] == [b"%d" % number for number in range(500)]
    assert {message.retrieval_count for message in got} == {1}
    info = queue.info()
    assert (info.ready, info.leased, info.counters["deleted"], info.counters["received"]) == (0, 0, 500, 500)


def test_pops_lose_nothing(lossy, queue):
    """Deleted on the server, lost on the way: the repeat still has it."""
    queue.push_many([b"%d" % number for number in range(300)])
    url, proxy = lossy(one_in(5))
    with QueueManager(url=url) as manager:
        mine = manager.get_queue(queue.name)
        got = []
        while message := mine.pop():
            got.append(message.data)
    assert proxy.lost > 20
    assert got == [b"%d" % number for number in range(300)]


def test_redrive_and_purge_count_once(lossy, queue):
    """What was done is reported, not done again."""
    ids = queue.push_many([b"x"] * 60)
    for message in queue.get_many(60):
        message.bury("why")
    url, proxy = lossy(one_in(3))
    with QueueManager(url=url) as manager:
        mine = manager.get_queue(queue.name)
        assert [mine.redrive([message_id]) for message_id in ids] == [1] * 60
        assert mine.purge() == 60
    assert proxy.lost > 10


def test_waiting_gets_survive_lost_answers(lossy, queue):
    """Only the exchange is repeated, never the wait for the token."""
    url, proxy = lossy(one_in(4))
    with QueueManager(url=url) as manager:
        mine = manager.get_queue(queue.name)
        got = []
        pusher = threading.Thread(target=lambda: [queue.push(b"%d" % number) for number in range(100)])
        pusher.start()
        while len(got) < 100:
            if message := mine.get(wait=2):
                got.append(message)
        pusher.join()
    assert sorted(int(message.data) for message in got) == list(range(100))
    assert {message.retrieval_count for message in got} == {1}


def test_asyncio_repeats_the_same(lossy, queue):
    """One dialogue, two drivers."""
    url, proxy = lossy(one_in(3))

    async def main():
        async with AsyncQueueManager(url=url) as manager:
            mine = await manager.get_queue(queue.name)
            ids = await asyncio.gather(*(mine.push(b"%d" % number) for number in range(300)))
            got = []
            while found := await mine.get_many(10):
                got += found
            return ids, got

    ids, got = asyncio.run(main())
    assert proxy.lost > 10
    assert sorted(ids) == [message.message_id for message in got]
    assert {message.retrieval_count for message in got} == {1}
    assert queue.info().counters["sent"] == 300


def test_no_answer_at_all_is_an_outcome_unknown(lossy, queue):
    """After the manager's timeout: sent, and nobody knows. In truth it is there, once."""
    silent = threading.Event()
    url, _ = lossy(lambda number: silent.is_set())
    with QueueManager(url=url, timeout=0.5) as manager:
        mine = manager.get_queue(queue.name)
        silent.set()
        with pytest.raises(OutcomeUnknown, match="push may have been done"):
            mine.push(b"x")
    assert queue.info().ready == 1


def test_what_is_read_slowly_meanwhile_takes_no_time_from_the_server(lossy, queue):
    """An answer is lost while the next messages are made, which takes longer than the timeout: it is asked again."""
    due = threading.Event()
    url, proxy = lossy(lambda number: due.is_set() and (due.clear() or True))

    def slow():
        for number in range(400):
            if number == 200:
                time.sleep(0.7)
            yield b"%d" % number

    with QueueManager(url=url, timeout=0.5) as manager:
        mine = manager.get_queue(queue.name)
        due.set()
        assert len(mine.push_many(slow())) == 400
    assert (proxy.lost, queue.info().ready) == (1, 400)


def test_what_is_done_meanwhile_is_done_once_though_the_answer_is_lost(lossy, queue):
    """The question is sent again; the work that went on beside it is not."""
    due = threading.Event()
    url, proxy = lossy(lambda number: due.is_set() and (due.clear() or True))
    done = []
    with QueueManager(url=url) as manager:
        mine, consumer = manager.get_queue(queue.name), manager.consumer()
        queue.push(b"x")
        consumer.exchange(mine)
        due.set()
        answer = consumer.exchange(mine, (), 1, meanwhile=lambda: done.append(1))
        consumer.close()
    assert (proxy.lost, done, len(answer.messages)) == (1, [1], 1)


def test_what_is_to_be_done_meanwhile_does_not_wait_for_a_server(lossy, queue):
    """It is gone before it is asked: the work is done at once, not when the server comes back or is given up."""
    url, proxy = lossy(lambda number: False)
    took = []
    with QueueManager(url=url, timeout=1.5) as manager:
        mine, consumer = manager.get_queue(queue.name), manager.consumer()
        Path(proxy.path).unlink()  # the consumer has no connection yet
        began = time.monotonic()
        with pytest.raises(ServerUnreachable):
            consumer.exchange(mine, (), 1, meanwhile=lambda: took.append(time.monotonic() - began))
        gave_up = time.monotonic() - began
        consumer.close()
    assert len(took) == 1
    assert took[0] < gave_up / 2


def test_a_server_that_is_not_there_is_unreachable(tmp_path):
    """Nothing was sent, so nothing was done; and it takes no longer than the timeout says."""
    with QueueManager(url=f"unix://{tmp_path}/none", timeout=0.3) as manager:
        with pytest.raises(ServerUnreachable):
            manager.get_queue(fresh_name())

    async def main():
        async with AsyncQueueManager(url=f"unix://{tmp_path}/none", timeout=0.3) as manager:
            with pytest.raises(ServerUnreachable):
                await manager.get_queue(fresh_name())

    asyncio.run(main())


def test_a_server_that_does_not_answer_is_given_up(tmp_path, monkeypatch):
    """It takes the connection and says nothing: both kinds of client give up, and leave no answer for the next call."""
    monkeypatch.setattr("psmq.connection.ANSWER_TIMEOUT", 0.2)
    path = tempfile.mkdtemp(prefix="psmq-mute-", dir="/tmp")
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(f"{path}/s")
        mute.listen(10)
        url = f"unix://{path}/s"
        with QueueManager(url=url, timeout=0.5) as manager, pytest.raises(ServerUnreachable):
            manager.list_queues()

        async def main():
            async with AsyncQueueManager(url=url, timeout=0.5) as manager:
                with pytest.raises(ServerUnreachable):
                    await manager.list_queues()

        asyncio.run(main())
    shutil.rmtree(path)
