"""What several test rooms need: bounded waits, programs to kill, a look at the process table."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

PS = shutil.which("ps") or "ps"
ROOT = Path(__file__).resolve().parent.parent


def wait_until(predicate: Callable[[], T], timeout: float = 10.0) -> T:
    """The first true answer; an error with the last one when there is none in time."""
    deadline = time.monotonic() + timeout
    while not (answer := predicate()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"still {answer!r} after {timeout:g} s: {predicate}")
        time.sleep(0.01)
    return answer


def raw_client(url: str) -> Any:
    """A redis-py client of any kind of server that psmq has a URL for."""
    import redis.sentinel

    parts = urlsplit(url)
    if "+" not in parts.scheme:
        return redis.Redis.from_url(url)
    hosts = [(host, int(port)) for host, _, port in (one.partition(":") for one in parts.netloc.split(","))]
    if "+cluster" in parts.scheme:
        return redis.RedisCluster(startup_nodes=[redis.cluster.ClusterNode(*host) for host in hosts])
    return redis.sentinel.Sentinel(hosts).master_for(parts.path.strip("/"))


def fresh_name(prefix: str = "t") -> str:
    """A queue name that no other test has."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


def python(code: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Run a program of ours, warnings being errors; the caller waits for it (``with``) or kills it."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def output(code: str, *arguments: object, **environment: str) -> str:
    """What such a program prints, if it ends well and complains of nothing."""
    with python(code, *arguments, **environment) as program:
        out, err = program.communicate(timeout=60)
    assert (program.returncode, err) == (0, "")
    return out


def processes(mark: str) -> dict[int, str]:
    """Living processes with ``mark`` in their command line; the dead that init has yet to bury have none."""
    found = {}
    command = [PS, "-ww", "-eo", "pid=,command="]
    listing = subprocess.run(command, capture_output=True, text=True, errors="replace", check=True)
    for line in listing.stdout.splitlines():
        pid, _, its_line = line.strip().partition(" ")
        if mark in its_line and int(pid) != os.getpid():
            found[int(pid)] = its_line
    return found


def children(pid: int) -> list[int]:
    """The living children of a process."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in path.read_text().split()] if path.exists() else []
