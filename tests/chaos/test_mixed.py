"""Everything at once, at random, by a seed that is printed: PSMQ_CHAOS_SEED=… repeats the choices."""

from __future__ import annotations

import contextlib
import signal
import time

import pytest
import redis
from chaos.copies import copy_packages
from chaos.proxy import Proxy
from support import wait_until

from psmq import library


class Trouble:
    """What may happen; each act takes at most a few seconds."""

    def __init__(self, arena, proxy):
        self.arena, self.proxy, self.dice = arena, proxy, arena.dice
        self.done = {}

    def any_worker(self):
        return self.dice.choice(self.keep())

    def keep(self):
        """Two workers, one of them behind the bad network."""
        living = [worker for worker in self.arena.workers if worker.alive]
        while len(living) < 2:
            url = self.proxy.url if len(self.arena.workers) % 2 else ""
            living.append(self.arena.worker("-p", 2, "-t", 4, wait=False, url=url))
        return living

    def kill_child(self):
        self.any_worker().kill_a_child(self.dice)

    def kill_worker(self):
        self.any_worker().kill()
        self.keep()

    def stop_and_continue(self):
        worker = self.any_worker()
        worker.signal_all(signal.SIGSTOP)
        time.sleep(self.dice.uniform(0.2, 2.6))
        worker.signal_all(signal.SIGCONT)

    def end_worker(self):
        self.any_worker().process.terminate()
        self.keep()

    def kill_server(self):
        self.arena.kill_server()
        time.sleep(self.dice.uniform(0, 0.8))
        self.arena.start_server()

    def freeze_server(self):
        self.arena.server.send_signal(signal.SIGSTOP)
        time.sleep(self.dice.uniform(0.1, 1.5))
        self.arena.server.send_signal(signal.SIGCONT)

    def kill_connections(self):
        with redis.Redis.from_url(self.arena.url) as client, contextlib.suppress(redis.RedisError):
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def cut_network(self):
        self.proxy.cut_all()

    def freeze_network(self):
        self.proxy.frozen.set()
        time.sleep(self.dice.uniform(0.1, 2.5))
        self.proxy.frozen.clear()

    ACTS = (
        *("kill_child",) * 4, "kill_worker", "stop_and_continue", "end_worker", "kill_server", "freeze_server",
        "kill_connections", "cut_network", "freeze_network",
    )  # fmt: skip

    def act(self):
        name = self.dice.choice(self.ACTS)
        getattr(self, name)()
        self.done[name] = self.done.get(name, 0) + 1


def torment(arena, seconds, rate):
    """→ the verdict"""
    with Proxy(str(arena.socket), arena.seed, drop_reply=0.01, drop_request=0.01, cut_reply=0.005, delay=0.02) as proxy:
        trouble = Trouble(arena, proxy)
        for worker in trouble.keep():
            wait_until(lambda worker=worker: worker.serving or not worker.alive, 30)
        feeding = [arena.feed(seconds, rate, 0.01), arena.feed(seconds, rate / 4, 0.05, task="coroutine")]
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            trouble.act()
            time.sleep(arena.dice.uniform(0.05, 0.4))
        print(trouble.done, proxy.happened)
        proxy.calm = True
        for thread in feeding:
            thread.join()
        trouble.keep()
        arena.drain(90)
        return arena.verdict()


def test_nothing_is_lost_whatever_happens(arena):
    """Kills, stops, restarts, cut and lossy lines mixed: every job that was taken is done, and each has one message."""
    found = torment(arena, 8.0, 100)
    assert found.holds
    assert found.done >= found.pushed, "those that were pushed, and perhaps some whose push got no answer"
    assert (found.queued, found.dead) == (0, 0)


def test_a_release_and_the_next_one_share_a_server(arena, tmp_path):
    """Workers of both serve one queue; the newer library stays, whoever comes later."""
    ours = library.revision()
    line = f"calls.revision = {ours}\n"
    copy = copy_packages(tmp_path / "next", ("psmq/lua/calls.lua", line, f"calls.revision = {ours + 1}\n"))
    arena.worker("-p", 1, "-t", 2)
    arena.push(200, 0.002)
    newer = arena.worker("-p", 1, "-t", 2, packages=copy)
    with redis.Redis.from_url(arena.url) as client:

        def revision():
            (found,) = client.function_list("psmq_v1", withcode=True)
            return (
                f"calls.revision = {ours + 1}\n".encode()
                in dict(zip(found[::2], found[1::2], strict=True))[b"library_code"]
            )

        wait_until(revision)
        arena.push(300, 0.002)
        arena.worker("-p", 1, "-t", 2)
        arena.push(300, 0.002)
        arena.drain(30)
        assert revision()
    found = arena.verdict()
    assert found.holds
    assert (found.done, found.twice) == (800, 0)
    runners = {record.pid for record in arena.history.read() if record.kind == "end"}
    assert runners & set(newer.children())
    assert runners - set(newer.children())


@pytest.mark.chaos_long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("round_", range(3))
def test_nothing_is_lost_in_minutes_of_it(arena, round_):
    """The same for two minutes each."""
    found = torment(arena, 120.0, 200)
    assert found.holds
    assert found.done >= found.pushed
