"""What the benchmarks stand on: a server of the run's own, and what processes use."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import redis

from psmq.server import find_binary

HERE = Path(__file__).resolve().parent
SYSTEMS = HERE / "systems"


@contextmanager
def server(folder: Path, *, unix: bool = False):
    """A server of the run's own; over TCP unless asked otherwise, because not every peer takes a socket."""
    with (folder / "server.log").open("w") as log:
        port, path = _free_port(), folder / "s"
        where = ["--port", 0, "--unixsocket", path] if unix else ["--port", port, "--bind", "127.0.0.1"]
        words = [find_binary(), *where, "--save", "", "--hz", "100", "--dir", folder]
        process = subprocess.Popen(list(map(str, words)), stdout=log)
    client = redis.Redis(unix_socket_path=str(path)) if unix else redis.Redis(port=port)
    deadline = time.monotonic() + 10
    while True:
        try:
            client.ping()
            break
        except redis.ConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
    try:
        yield f"unix://{path}" if unix else f"redis://127.0.0.1:{port}/0", client, process.pid
    finally:
        client.close()
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def family(pids: list[int]) -> list[int]:
    found = list(pids)
    for pid in found:
        path = Path(f"/proc/{pid}/task/{pid}/children")
        with suppress(OSError):
            found += [int(child) for child in path.read_text().split()]
    return found


def cpu(pids: list[int]) -> float:
    total = 0
    for pid in pids:
        with suppress(OSError, IndexError):
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> float:
    """Unique MiB of a process: what would come free if it ended."""
    with suppress(OSError):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        lines = [line.split() for line in text.splitlines() if line.startswith("Private_")]
        return sum(int(words[1]) for words in lines) / 1024
    return 0.0
