"""Servers of every kind, on free ports of 127.0.0.1: single ones, replicas, Sentinels, clusters; all to be killed."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import redis
from support import wait_until

from psmq import server

BINARY = os.environ.get("PSMQ_TEST_BINARY") or str(server.find_binary())


def free_port():
    """Below the ports that the system hands out by itself, so that it stays free."""
    while True:
        port = random.randrange(15000, 32000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def text(answer):
    """Some answers are bytes, some are not."""
    return answer.decode() if isinstance(answer, bytes) else answer


class Server:
    """One process. ``options``: as in a configuration file, by name."""

    def __init__(self, folder, *words, binary=BINARY, password="", **options):
        self.port = free_port()
        self.password = password
        self.folder = Path(tempfile.mkdtemp(dir=folder))
        common = {"save": "", "hz": "50", "bind": "127.0.0.1", "port": self.port, "dir": self.folder}
        options = {**common, "repl_diskless_sync_delay": "0", "repl_timeout": "5", **options}
        given = [
            word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", *str(value).split(" "))
        ]
        self.command = [binary, *words, *given, "--logfile", str(self.folder / "log")]
        self.start()

    def start(self):
        """Again with what it had stored, after a kill."""
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(self.answers)

    def answers(self):
        assert self.process.poll() is None, (self.folder / "log").read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}"

    def client(self, **options):
        return redis.Redis("127.0.0.1", self.port, password=self.password or None, **options)

    def ask(self, *words):
        with self.client() as client:
            return client.execute_command(*words)

    def info(self, section):
        with self.client() as client:
            return client.info(section)

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    def kill(self):
        self.process.kill()
        self.process.wait()


class Fleet:
    """Servers that are killed together."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="psmq-fleet-", dir="/tmp"))
        self.servers = []

    def start(self, *words, **options):
        self.servers.append(Server(self.folder, *words, **options))
        return self.servers[-1]

    def replica(self, primary, **options):
        """A replica in step with its primary."""
        found = self.start(replicaof=f"127.0.0.1 {primary.port}", **options)
        wait_until(lambda: found.info("replication")["master_link_status"] == "up")
        return found

    def close(self):
        for one in self.servers:
            one.kill()
        shutil.rmtree(self.folder)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Guarded(Fleet):
    """A primary, a replica and three Sentinels, which hand over within a second or two."""

    def __init__(self):
        super().__init__()
        try:
            self.primary = self.start()
            self.others = [self.replica(self.primary)]
            self.sentinels = [self._sentinel() for _ in range(3)]
            for sentinel in self.sentinels:
                wait_until(lambda sentinel=sentinel: self._knows_all(sentinel), 20)
        except BaseException:
            self.close()
            raise

    def _sentinel(self):
        config = self.folder / f"sentinel{len(self.servers)}.conf"
        config.write_text(
            f"sentinel monitor main 127.0.0.1 {self.primary.port} 2\n"
            "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 1000\n"
        )
        found = Server.__new__(Server)
        found.port, found.password, found.folder = free_port(), "", config.parent
        config.write_text(f"port {found.port}\nbind 127.0.0.1\ndir {self.folder}\n" + config.read_text())
        found.command = [BINARY, str(config), "--sentinel", "--logfile", str(config.with_suffix(".log"))]
        self.servers.append(found)
        found.start()
        return found

    @staticmethod
    def _knows_all(sentinel):
        with sentinel.client() as client:
            (found,) = client.sentinel_masters().values()
            return found["num-other-sentinels"] == 2 and found["num-slaves"] >= 1

    @property
    def url(self):
        return f"redis+sentinel://{','.join(f'127.0.0.1:{one.port}' for one in self.sentinels)}/main"

    def fail_over(self, how):
        """Take the primary away, and wait until another one is: → that one. ``how``: kill or freeze."""
        old = self.primary
        getattr(old, how)()
        ports = {one.port: one for one in self.servers}
        with self.sentinels[0].client() as client:
            port = wait_until(
                lambda: (found := client.sentinel_get_master_addr_by_name("main")[1]) != old.port and found, 20
            )
        self.primary = ports[port]
        wait_until(lambda: self.primary.info("replication")["role"] == "master")
        self.others = [old]
        return self.primary

    def heal(self):
        """The old primary comes back as a replica: told here, because Sentinels take their time for it."""
        for old in self.others:
            if old.process.poll() is not None:
                old.start()
            else:
                old.thaw()
            wait_until(lambda old=old: self._follows(old), 20)

    def _follows(self, old):
        """Told again until it does: a Sentinel may tell it something else meanwhile."""
        old.ask("REPLICAOF", "127.0.0.1", self.primary.port)
        return old.info("replication").get("master_link_status") == "up"


class Cluster(Fleet):
    """Three primaries with a replica each. A queue of each node: ``names``."""

    def __init__(self, replicas=3):
        super().__init__()
        try:
            nodes = [self._node() for _ in range(3 + replicas)]
            self._join(nodes, replicas)
        except BaseException:
            self.close()
            raise

    def _node(self):
        return self.start(
            cluster_enabled="yes", cluster_port=free_port(), cluster_node_timeout="1000",
            cluster_allow_replica_migration="no",
        )  # fmt: skip

    def _join(self, nodes, replicas):
        self.ids = {one.port: text(one.ask("CLUSTER", "MYID")) for one in nodes}
        for number, one in enumerate(nodes[:3]):
            one.ask("CLUSTER", "ADDSLOTSRANGE", number * 5462, min(number * 5462 + 5461, 16383))
            one.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for one in nodes[1:]:
            self.meet(one, nodes[0])
        for one in nodes:
            wait_until(lambda one=one: self.state(one)["cluster_known_nodes"] == str(len(nodes)), 20)
        for number in range(replicas):
            replica, primary = nodes[3 + number], self.ids[nodes[number].port]
            # gossip may not have brought the primary's name yet
            wait_until(lambda replica=replica, primary=primary: self._follow(replica, primary))
        for one in nodes:
            wait_until(lambda one=one: self.state(one)["cluster_state"] == "ok", 20)
        for one in nodes[3:]:
            wait_until(lambda one=one: one.info("replication")["master_link_status"] == "up", 20)

    @staticmethod
    def state(one):
        """What CLUSTER INFO says."""
        return dict(line.split(":") for line in text(one.ask("CLUSTER", "INFO")).splitlines())

    @staticmethod
    def meet(one, other):
        bus = other.command[other.command.index("--cluster-port") + 1]
        one.ask("CLUSTER", "MEET", "127.0.0.1", other.port, bus)

    @staticmethod
    def _follow(replica, primary):
        with contextlib.suppress(redis.ResponseError):
            return replica.ask("CLUSTER", "REPLICATE", primary)

    @property
    def url(self):
        return f"redis+cluster://{','.join(f'127.0.0.1:{one.port}' for one in self.servers[:2])}"

    def move(self, slot, target, pause=0.01):
        """As resharding does it: key by key, so many seconds apart, the owner being told at the end. → keys moved"""
        source, moved = self.node_of(slot), 0
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", self.ids[source.port])
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", self.ids[target.port])
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 1):
            source.ask("MIGRATE", "127.0.0.1", target.port, keys[0], 0, 5000)
            moved += 1
            time.sleep(pause)
        for one in (target, source):
            one.ask("CLUSTER", "SETSLOT", slot, "NODE", self.ids[target.port])
        return moved

    def node_of(self, slot):
        """The primary that has a slot, as the living ones say."""
        for one in self.servers:
            if one.process.poll() is None:
                for line in text(one.ask("CLUSTER", "NODES")).splitlines():
                    _, place, flags, _, _, _, _, _, *ranges = line.split(" ")
                    for first, _, last in (word.partition("-") for word in ranges if word[0].isdigit()):
                        if "fail" not in flags and int(first) <= slot <= int(last or first):
                            port = int(place.partition("@")[0].rpartition(":")[2])
                            return next(found for found in self.servers if found.port == port)
        return None  # between two
