"""Calls the library as any client could: FCALL with arguments as they come."""

from __future__ import annotations

import contextlib
import os

import pytest
import redis
from support import raw_client

from psmq import QueueManager, library
from psmq.commands import Address, draw_randoms

#: the ms at which clocks of tests start
START = 1_900_000_000_000


class Raw:
    """One queue, seen from the wire. ``clock`` is what every call sends as its override."""

    def __init__(self, client, queue, clock=""):
        self.server = client
        self.address = Address.of("psmq", queue.name)
        self.base = self.address.base
        self.clock = clock
        self.client = draw_randoms(1)[0]
        self.number = 0

    def call(self, function, *args, clock=None, revision=None, keys=None):
        keys = (self.base, f"{self.base}:never") if keys is None else keys
        head = (self.clock if clock is None else clock, library.revision() if revision is None else revision)
        return self.server.execute_command("FCALL", f"psmq_v1_{function}", len(keys), *keys, *head, *args)

    def do(self, function, *args, client=None, number=None, nonce=None, **how):
        """A numbered call; by default the next one of this client."""
        if number is None:
            self.number += 1
            number = self.number
        return self.call(function, client or self.client, number, nonce or os.urandom(8).hex(), *args, **how)

    def push(self, body=b"x", options="", dedup="", **how):
        return self.do("push", draw_randoms(1)[0], options, dedup, body, **how)[0].decode()

    def exchange(self, limit=1, timeout="", mode="plain", settlements=(), **how):
        return self.do("exchange", limit, timeout, mode, *[part for item in settlements for part in item], **how)

    def get(self, limit=1, timeout="", mode="plain", **how):
        """[(id, receipt, count, first, options, value), …]"""
        reply = self.exchange(limit, timeout, mode, **how)
        return [
            (reply[at].decode(), reply[4].decode(), reply[at + 1], int(reply[at + 2]), reply[at + 3], reply[at + 4])
            for at in range(5, len(reply), 5)
        ]

    def settle(self, *settlements, **how):
        return [word.decode() for word in self.exchange(0, settlements=settlements, **how)[0]]

    def info(self):
        reply = self.call("info")
        stored = dict(zip(reply[7::2], reply[8::2], strict=True))
        counts = dict(zip(("ready", "delayed", "leased", "dead", "consumers", "oldest", "due"), reply, strict=False))
        return counts | {name.decode(): value for name, value in stored.items()}

    def dump(self):
        """Every key of the queue with its exact content, but for the time of the last call."""
        stored = self.server.hgetall(self.base)
        found = {name: value for name, value in stored.items() if name not in (b"seen", b"offset", b"grace")}
        keys = sorted(self.server.scan_iter(f"{self.base}:*", count=1000))
        return found | {key: self.server.dump(key) for key in keys}

    @contextlib.contextmanager
    def refused(self, code):
        """The call inside is refused with this code, and writes nothing."""
        before = self.dump()
        with pytest.raises(redis.ResponseError, match=f"^PSMQ_{code} .") as caught:
            yield caught
        assert self.dump() == before

    def later(self, seconds):
        self.clock = str(int(self.clock) + int(seconds * 1000))


@pytest.fixture
def raw(raw_server, queue):
    """A queue on the server's own clock."""
    return Raw(raw_server, queue)


@pytest.fixture
def timed(raw_server, new_queue):
    """Makes queues whose clock stands until ``later(seconds)``: timed(**config)."""

    def make(**config):
        return Raw(raw_server, new_queue(clock="test", **config), str(START))

    return make


@pytest.fixture
def alone(quiet_server):
    """A queue with an event log, on a server that nobody else uses."""
    with QueueManager(url=quiet_server) as manager, raw_client(quiet_server) as server:
        queue = manager.get_queue("alone", event_log=100_000)
        yield Raw(server, queue)
        manager.delete_queue("alone")


@pytest.fixture
def start():
    return START
