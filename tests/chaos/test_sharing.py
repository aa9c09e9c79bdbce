"""Forks, threads and interrupted calls: no reply and no lease reaches another."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from psmq import Delete, QueueManager, connection


def in_child(body):
    """Run it in a fork. → its exit code"""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            code = body() or 0
        except BaseException as error:
            print(repr(error), file=sys.stderr)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_forked_child_has_connections_and_an_identity_of_its_own(queue):
    """Both use the same objects at once: no answer of the one reaches the other, and no command counts as a repeat."""
    queue.push(b"before")

    def child():
        ids = {queue.push(b"child") for _ in range(200)}
        return 0 if len(ids) == 200 else 2

    pids = []
    for _ in range(3):
        pid = os.fork()
        if not pid:
            code = 1
            try:
                code = child()
            finally:
                os._exit(code)
        pids.append(pid)
    ids = {queue.push(b"parent") for _ in range(200)}
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert codes == [0, 0, 0]
    assert len(ids) == 200
    assert queue.info().counters["sent"] == queue.info().ready == 801


def test_a_forked_child_does_not_settle_what_its_parent_was_given_in_between(queue):
    """A lease is whoever's has the receipt: both may try, the second is told so."""
    queue.push(b"x")
    message = queue.get()
    assert in_child(message.delete) == 0
    words, _ = queue.exchange([(message, Delete())])
    assert words == ["stale"]


def test_a_consumer_is_another_client_in_a_forked_child(manager, queue):
    """Its connection is its parent's alone, and what it is given there is its own."""
    queue.push_many([b"x"] * 20)
    consumer = manager.consumer()
    ours = consumer.exchange(queue, limit=5).messages
    mine = consumer.client_id

    def child():
        theirs = consumer.exchange(queue, limit=5).messages
        fresh = not {m.message_id for m in theirs} & {m.message_id for m in ours}
        return 0 if len(theirs) == 5 and fresh and consumer.client_id != mine else 2

    assert in_child(child) == 0
    assert len(consumer.exchange(queue, limit=5).messages) == 5
    assert consumer.client_id == mine
    consumer.close()


def test_an_answer_that_nobody_waited_for_reaches_nobody(queue, monkeypatch):
    """Interrupted while the answer is under way: the next call has an answer of its own."""
    queue.push_many([b"%d" % number for number in range(5)])
    original, armed = connection._next_answer, []

    def interrupted(sock, parser):
        if armed:
            armed.clear()
            raise KeyboardInterrupt
        return original(sock, parser)

    monkeypatch.setattr(connection, "_next_answer", interrupted)
    for _ in range(5):
        armed.append(1)
        with pytest.raises(KeyboardInterrupt):
            queue.info()
        assert queue.peek().data == b"0"
        armed.append(1)
        with pytest.raises(KeyboardInterrupt):
            queue.push(b"interrupted")
        assert queue.info().delayed == 0
    assert queue.info().counters["sent"] == 10


def test_one_queue_serves_any_number_of_threads(server_url, queue):
    """Sixteen threads push, get and delete over one object: each message once, each answer to who asked."""
    with QueueManager(url=server_url) as manager:
        shared, got, lock = manager.get_queue(queue.name), [], threading.Lock()

        def work(number):
            for at in range(30):
                body = b"%d-%d" % (number, at)
                assert shared.push(body)
                message = shared.get()
                with lock:
                    got.append(message.data)
                message.delete()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(got) == sorted(b"%d-%d" % (number, at) for number in range(16) for at in range(30))
    counters = queue.info().counters
    assert counters["sent"] == counters["deleted"] == 480
