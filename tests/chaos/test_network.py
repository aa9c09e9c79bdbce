"""A bad network between everybody and the server: what is sent again is done once, and nothing is lost."""

from __future__ import annotations

import threading
import time

import redis
from chaos.proxy import Proxy
from support import wait_until

from psmq import Delete, QueueManager
from psmq_tasks.torture.jobs import make_app


def test_pushes_through_a_lossy_network_are_stored_once(arena):
    """Replies and requests lost, cut and delayed, 5 % each: as many messages as pushes, each under one id."""
    rates = {"drop_reply": 0.05, "drop_request": 0.05, "cut_reply": 0.05, "delay": 0.05}
    with Proxy(str(arena.socket), arena.seed, **rates) as proxy:
        with QueueManager(url=proxy.url, timeout=60) as manager:
            queue = manager.get_queue(arena.name)
            ids = [[] for _ in range(4)]

            def push(number):
                for at in range(150):
                    ids[number].append((queue.push(b"%d-%d" % (number, at)), b"%d-%d" % (number, at)))

            threads = [threading.Thread(target=push, args=(number,)) for number in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        print(proxy.happened)
        assert min(count for name, count in proxy.happened.items() if name.replace(" ", "_") in rates) > 5
    pushed = dict(pair for part in ids for pair in part)
    stored = {}
    while got := arena.queue.get_many(1000):
        stored |= {message.message_id: message.data for message in got}
    assert stored == pushed
    assert len(pushed) == 600
    assert arena.queue.info().counters["sent"] == 600


def test_workers_behind_a_lossy_network_do_everything(arena):
    """Their requests and answers are lost, cut and delayed: all jobs are done, and each has one message."""
    with Proxy(str(arena.socket), arena.seed, drop_reply=0.03, drop_request=0.03, cut_reply=0.02, delay=0.05) as proxy:
        proxy.calm = True
        arena.worker("-p", 2, "-t", 4, url=proxy.url)
        proxy.calm = False
        app = make_app(url=proxy.url, secret="torture" * 10)
        arena.push(600, 0.002, app=app, batch=10)
        app.close()
        arena.drain(60)
        assert sum(proxy.happened.values()) > 20
        proxy.calm = True
        found = arena.verdict()
        assert found.holds
        assert (found.done, found.dead) == (600, 0)
        assert arena.workers[0].end() == 0


def test_a_network_that_freezes_for_longer_than_the_leases_loses_nothing(arena):
    """Three seconds of silence at leases of two: what ran is told late or run again, never lost."""
    with Proxy(str(arena.socket), arena.seed) as proxy:
        arena.worker("-p", 1, "-t", 4, url=proxy.url)
        arena.worker("-p", 1, "-t", 4)
        feeding = arena.feed(5.0, 60, 0.05)
        time.sleep(1.0)
        proxy.frozen.set()
        time.sleep(3.0)
        proxy.frozen.clear()
        feeding.join()
        arena.drain(40)
        found = arena.verdict()
        assert found.holds
        assert found.done == found.pushed


def test_an_answer_that_came_late_is_confirmed_before_anything_starts(arena):
    """What passed on while it was under way is left out, what is still ours has its lease anew."""
    queue = arena.manager.get_queue(f"{arena.name}-late", visibility_timeout=1)
    ids = queue.push_many([b"%d" % number for number in range(6)])
    with Proxy(str(arena.socket), arena.seed) as proxy, QueueManager(url=proxy.url) as manager:
        mine, consumer, answers = manager.get_queue(queue.name), manager.consumer(), []
        consumer.exchange(mine)  # connected
        proxy.mute.set()
        thread = threading.Thread(target=lambda: answers.append(consumer.exchange(mine, limit=4, mode="plain")))
        thread.start()
        wait_until(lambda: queue.info().leased == 4)
        wait_until(lambda: queue.info().leased == 0)
        others = [queue.get(), queue.get()]
        proxy.mute.clear()
        thread.join()
        taken = [message.message_id for message in others]
        kept = [message.message_id for message in answers[0].messages]
        assert not set(kept) & set(taken)
        assert sorted(kept + taken + [m.message_id for m in queue.messages("ready")]) == sorted(ids)
        assert len(kept) == 4 - len(set(taken) & set(ids[:4]))
        words = consumer.exchange(mine, [(m.message_id, m.receipt, Delete()) for m in answers[0].messages]).words
        assert set(words) <= {"done"}
        consumer.close()


def test_killed_connections_are_replaced_and_repeat_nothing(arena):
    """CLIENT KILL to everybody, ten times a second, and cut lines: each job is done once all the same."""
    arena.worker("-p", 2, "-t", 4)
    feeding = arena.feed(4.0, 150, 0.01)
    with redis.Redis.from_url(arena.url) as client:
        while feeding.is_alive():
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            time.sleep(0.1)
    arena.drain(40)
    found = arena.verdict()
    assert found.holds
    assert (found.done, found.twice, found.overlapping) == (found.pushed, 0, 0)


def test_idle_connections_that_were_cut_are_noticed(arena):
    """A firewall that forgets idle connections: the next job runs at once, in the same processes."""
    with Proxy(str(arena.socket), arena.seed) as proxy:
        worker = arena.worker("-p", 1, "-t", 2, url=proxy.url)
        family = worker.children()
        for _ in range(3):
            time.sleep(0.5)
            proxy.cut_all()
            arena.push(1)
            pushed = time.monotonic()
            arena.drain(10)
            assert time.monotonic() - pushed < 4
        assert worker.children() == family
        assert arena.verdict().holds


def test_an_outage_is_said_once_and_work_resumes(arena):
    """No server for five seconds: the same processes go on within 2 s of its return, and their log is short."""
    worker = arena.worker("-p", 2, "-t", 4)
    arena.push(50, 0.001)
    arena.drain(20)
    family = wait_until(lambda: len(worker.children()) == 2 and worker.children())
    arena.kill_server()
    wait_until(lambda: "does not answer" in worker.log.read_text(), 20)
    time.sleep(3)
    arena.start_server()
    back = time.monotonic()
    arena.push(50, 0.001)
    wait_until(lambda: any(r.kind == "start" and r.time > back for r in arena.history.read()), 20)
    first = min(r.time for r in arena.history.read() if r.kind == "start" and r.time > back)
    assert first - back < 2.5
    arena.drain(20)
    assert worker.children() == family
    assert arena.verdict().holds
    wait_until(lambda: "answers again" in worker.log.read_text(), 20)
    said = worker.log.read_text()
    assert said.count("does not answer") == said.count("answers again") == 1
    assert len(said.splitlines()) < 15
