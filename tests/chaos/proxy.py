"""A network between clients and their server that loses, delays, cuts and freezes, on unix sockets."""

from __future__ import annotations

import contextlib
import random
import select
import shutil
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import Self

#: what can happen to a chunk of bytes on its way
FATES = ("drop reply", "drop request", "cut reply", "delay", "cut both")


class Proxy:
    """A socket in front of the server's. ``rates``: fate → probability for each chunk; none while ``calm``."""

    def __init__(self, upstream: str, seed: int, **rates: float) -> None:
        self.upstream = upstream
        self.rates = {name.replace("_", " "): rate for name, rate in rates.items()}
        assert set(self.rates) <= set(FATES)
        self.folder = tempfile.mkdtemp(prefix="psmq-proxy-", dir="/tmp")
        self.path = str(Path(self.folder) / "s")
        self.url = f"unix://{self.path}"
        self.calm = False
        #: nothing passes; no answer passes
        self.frozen, self.mute = threading.Event(), threading.Event()
        self.happened = dict.fromkeys(FATES, 0)
        self._dice = random.Random(seed)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(200)
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut_all()
        shutil.rmtree(self.folder)

    def cut_all(self) -> None:
        """End every connection, as a firewall or a failover does."""
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _fate(self, *among: str) -> str:
        with self._lock:
            if self.calm:
                return ""
            for name in among:
                if self._dice.random() < self.rates.get(name, 0.0):
                    self.happened[name] += 1
                    return name
        return ""

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server, contextlib.suppress(OSError):
            server.connect(self.upstream)
            with self._lock:
                self._open |= {client, server}
            try:
                while self._carry(client, server):
                    pass
            finally:
                with self._lock:
                    self._open -= {client, server}

    def _carry(self, client: socket.socket, server: socket.socket) -> bool:
        """One round. → False when the connection is over"""
        readable, _, _ = select.select([client, server], [], [], 1.0)
        for source in readable:
            data = source.recv(1 << 20)
            if not data:
                return False
            while self.frozen.is_set() or (source is server and self.mute.is_set()):
                time.sleep(0.01)
            if source is client:
                fate = self._fate("drop request", "delay", "cut both")
                if fate in ("drop request", "cut both"):
                    return False
            else:
                fate = self._fate("drop reply", "cut reply", "delay")
                if fate == "cut reply":
                    client.sendall(data[: len(data) // 2])
                if fate in ("drop reply", "cut reply"):
                    return False
            if fate == "delay":
                time.sleep(self._dice.random() * 0.05)
            (server if source is client else client).sendall(data)
        return True
