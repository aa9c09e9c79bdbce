"""The server of this process that keeps everything in memory: one per process, gone with it, also when it is killed.

A shell stands between: it starts the server and waits for it, while a second one reads from a pipe that only this
process holds open. When this process ends, in whatever way, the pipe does, and the server is killed and its folder
removed. PDEATHSIG would not do: it fires when the *thread* that started the server ends.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from psmq import data_folder, server_process
from psmq.errors import ServerUnreachable

# the shell ignores what a terminal sends to everybody: it is there to clean up. fd 3: background jobs have no stdin
_WATCHER = """
trap '' HUP INT TERM
folder=$1; shift
exec 3<&0
"$@" </dev/null 3<&- & server=$!
{ read -r _ <&3; kill -9 $server; } 2>/dev/null & watcher=$!
exec 3<&-
exec 2>/dev/null
wait $server
kill -9 $watcher
wait
rm -rf -- "$folder"
"""

START_TIMEOUT = 15.0


@dataclass(slots=True)
class _MemoryServer:
    owner: int
    socket: Path
    watcher: subprocess.Popen[bytes]
    #: held open as long as the server shall live; -1: not ours to hold
    pipe: int

    def is_alive(self) -> bool:
        """False when nothing listens any more; one that is slow to answer lives."""
        try:
            return server_process.ask(self.socket, "PING", timeout=1.0) != ""
        except TimeoutError:
            return True
        except OSError:
            return False

    def close(self) -> None:
        """End it and wait for that: no zombie, no folder stays."""
        if self.pipe >= 0:
            os.close(self.pipe)
            self.pipe = -1
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.watcher.wait(timeout=5)

    def disown(self) -> None:
        """In a forked child, which may use the socket, but must neither keep the server alive nor wait for it."""
        if self.pipe >= 0:
            os.close(self.pipe)
            self.pipe = -1
        # else Popen warns at exit that it is still running: it is, but no child of ours
        self.watcher.returncode = 0


_lock = threading.Lock()
_server: _MemoryServer | None = None


def ensure_memory() -> Path:
    """The socket of this process's memory server, started on first use, from any thread."""
    global _server
    _hook_once()
    with _lock:
        if _server is None:
            _server = _start()
        elif not _server.is_alive():
            _server.close()
            raise ServerUnreachable(
                f"the in-memory server of process {_server.owner} has ended, and what was in its queues is gone; "
                "start the process again, or use db_dir=... to keep messages"
            )
        return _server.socket


def _start() -> _MemoryServer:
    binary = server_process.identify(server_process.find_binary())
    folder = Path(tempfile.mkdtemp(prefix=f"memory-{os.getpid()}-", dir=data_folder.runtime_folder()))
    socket = folder / "s"
    settings = server_process.common_settings(socket, folder) | {"appendonly": "no", "loglevel": "warning"}
    with tempfile.TemporaryFile() as log:
        try:
            server = _spawn([os.fspath(binary.path), *server_process.arguments(settings)], folder, socket, log)
            _await(server, binary, log)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return server


def _spawn(command: list[str], folder: Path, socket: Path, log: IO[bytes]) -> _MemoryServer:
    reading, writing = os.pipe()
    try:
        watcher = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHER, "psmq-memory", os.fspath(folder), *command],
            stdin=reading,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
            umask=0o077,
        )
    except OSError as error:
        os.close(writing)
        raise ServerUnreachable(f"the in-memory server cannot be started: {error}") from error
    finally:
        os.close(reading)
    return _MemoryServer(os.getpid(), socket, watcher, writing)


def _await(server: _MemoryServer, binary: server_process.Binary, log: IO[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    try:
        while not server_process.answers(server.socket, timeout=1.0):
            if server.watcher.poll() is not None or time.monotonic() > deadline:
                log.seek(0)
                said = log.read(4000).decode("utf-8", "replace").strip().splitlines()
                raise ServerUnreachable(f"the in-memory server ({binary}) did not start: {said[-1] if said else '?'}")
            time.sleep(0.002)
    except BaseException:
        server.close()
        raise


_hooked = False


def _hook_once() -> None:
    global _hooked
    if not _hooked:
        _hooked = True
        # a fork in the middle of a start would carry the pipe into a child that does not know it
        os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_after_fork)
        atexit.register(_at_exit)


def _after_fork() -> None:
    # held by the forking thread: no other one can have been in the middle of something
    _lock.release()
    if _server is not None:
        _server.disown()


def _at_exit() -> None:
    if _server is not None and _server.owner == os.getpid():
        with contextlib.suppress(OSError):
            _server.close()
