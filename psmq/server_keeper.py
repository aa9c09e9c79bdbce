"""Keeping one server alive on one folder, and ending it when nobody needs it: the sentinel's main work.

The keeper is the server's parent, or, when its predecessor was killed, adopts the running server, which it can only
watch. It restarts a server that died, at once the first time, then after 0.1, 0.2, 0.4 … at most 5 s. It gives up only
when the server cannot be started: the next client then starts another sentinel and gets to know why.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from psmq import data_folder, server_process
from psmq.errors import ServerUnreachable
from psmq.kept_server import END_TIMEOUT, KeptServer
from psmq.kill_points import passing
from psmq.sentinel_log import log, read_from, size, trim
from psmq.server import DURABILITIES

if TYPE_CHECKING:
    from psmq.data_folder import DataFolder, Record

#: a server that lived this long had started well: its next restart is immediate
HEALTHY_AFTER = 60.0

#: in a row, before a sentinel gives up: some 25 s; then the next client tries, and is told the reason
MAX_DEATHS = 12

#: seconds that a server which holds the lock may be without a socket before it is ended
LOST_AFTER = 2.0


class Stopping(Exception):  # not an error
    """We were asked to end while no server was up."""


class Keeper:
    """Holds sentinel.lock from take_folder() to the end of the process; the rest in order: bring_up(), keep()."""

    def __init__(self, folder: DataFolder, durability: str, linger: float) -> None:
        self.folder = folder
        self._durability = durability
        self._linger = linger
        self._lock = -1
        self._stopping = False
        self._wake, self._waker = socket.socketpair()
        #: in a row, of servers that had not lived for long
        self._deaths = 0

    def listen_to_signals(self) -> None:
        for end in (self._wake, self._waker):
            end.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _on_signal(self, *_: object) -> None:
        self._stopping = True

    def is_stopping(self) -> bool:
        return self._stopping

    def take_folder(self) -> bool:
        """Become this folder's sentinel; False: there is one."""
        self.folder.prepare()
        lock = _patiently_lock(self.folder.sentinel_lock, 2.0)
        if lock is None:
            return False
        self._lock = lock
        data_folder.sign_lock(lock, f"{os.getpid()}\n")
        return True

    def _has_its_folder(self) -> bool:
        """Whether the lock that we hold is still the one that others would try to take."""
        try:
            return os.path.samestat(os.fstat(self._lock), self.folder.sentinel_lock.lstat())
        except OSError:
            return False

    # ---- bringing a server up ----

    def bring_up(self) -> KeptServer:
        """Start one, or adopt the one that holds the folder."""
        lock = _patiently_lock(self.folder.server_lock, 0.2)
        if lock is None:
            server, lock = self._adopt()
            if server is not None:
                return server
        try:
            return self._start(lock)
        finally:
            os.close(lock)  # the server has its copy

    def _start(self, lock: int) -> KeptServer:
        folder = self.folder
        binary = server_process.identify(server_process.find_binary())
        writer = folder.record()
        server_process.check_can_read(binary, folder, writer)
        path = data_folder.socket_path(folder)
        trim(folder.server_log)
        log_start = size(folder.server_log)
        sizes = {file.name: size(file) for file in folder.data.glob("*.aof")}
        # never weaker than before: somebody relies on it
        durability = max(self._durability, writer.durability, key=DURABILITIES.index)
        # before it can write: a newer release that dies in its first moment has left its traces
        folder.update(
            flavour=binary.flavour,
            version=binary.version,
            host=data_folder.host_name(),
            boot_id=data_folder.boot_id(),
            socket=str(path),
            durability=durability,
            started=time.time(),
            mended=False,
        )
        process = server_process.launch(binary, folder, path, durability, lock)
        passing("keeper.launched")
        try:
            folder.update(pid=process.pid)
            if not server_process.await_ready(process, path, self.is_stopping):
                code = process.poll()
                if code is None:
                    raise Stopping
                said = read_from(folder.server_log, log_start)
                raise server_process.start_failure(folder, binary, writer, code, said)
            passing("keeper.loaded")
            server = KeptServer(process.pid, path, process)
        except BaseException:
            _give_up(process)
            self.record_end()
            raise
        self._mend(server, server_process.truncations(read_from(folder.server_log, log_start), sizes))
        log(f"server {server.pid} started: {binary}, durability {durability}, {path}")
        return server

    def _mend(self, server: KeptServer, cuts: list[tuple[str, int]]) -> None:
        """Tell what the server has cut off, and have what is left written anew.

        Redis 7.0 (not Valkey 9.1.2) cuts in the middle of a MULTI block: writes that follow become part of that
        block, and are dropped, or the half block comes to life, at the next start.
        """
        for name, cut in cuts:
            passing("keeper.mending")
            log(f"the tail of {name} was incomplete: {cut} bytes cut off, no whole operation among them")
        self._write_anew(server.socket, needed=bool(cuts))

    def _write_anew(self, path: Path, *, needed: bool) -> None:
        if needed and not server_process.rewrite(path, self.is_stopping):
            log(f"the AOF could not be rewritten after the cut: see {self.folder.server_log}")
            return
        self.folder.update(mended=True)

    def _adopt(self) -> tuple[KeptServer | None, int]:
        """Somebody's server lives: take it over; if nobody can reach it, end it and return the freed lock."""
        lost_since = 0.0
        while not self._stopping:
            lock = data_folder.try_lock(self.folder.server_lock)
            if lock is not None:
                return None, lock
            record = self.folder.record()
            path = Path(record.socket or "/nowhere")
            with contextlib.suppress(OSError):
                if not path.exists():
                    # from a sentinel that was killed while it ended an idle server
                    _aside(path).rename(path)
            try:
                if server_process.answers(path, timeout=2.0):
                    pid = server_process.serving_pid(path, timeout=2.0)
                    self.folder.update(pid=pid)
                    passing("keeper.adopting")
                    # killed before it had read what the server cut off
                    self._write_anew(path, needed=not record.mended)
                    log(f"server {pid} adopted: its sentinel is gone")
                    return KeptServer(pid, path, None), -1
                server_process.ask(path, "PING", timeout=2.0)
                lost_since = 0.0
            except TimeoutError:
                lost_since = 0.0
            except OSError:
                lost_since = lost_since or time.monotonic()
            if lost_since and time.monotonic() - lost_since > LOST_AFTER:
                self._end_lost(record)
                lost_since = 0.0
            time.sleep(0.05)
        raise Stopping

    def _end_lost(self, record: Record) -> None:
        """A server without a socket helps nobody, and as long as it lives nobody can start another."""
        if not data_folder.is_process(record.pid, record.socket):
            raise ServerUnreachable(
                f"somebody holds {self.folder.server_lock}, but no server that server.json names is alive; "
                f"find and end the process that has it open: fuser {self.folder.server_lock}"
            )
        log(f"server {record.pid} has lost its socket {record.socket}: ending it")
        os.kill(record.pid, signal.SIGTERM)

    # ---- keeping it ----

    def keep(self, server: KeptServer) -> None:
        """Until asked to stop, or idle for long enough, or the folder is gone."""
        tick = min(max(self._linger / 4, 0.05), 1.0)
        last_used = time.monotonic()
        while True:
            ended = self._wait(server, tick)
            if self._stopping:
                server.end()
                self.record_end()
                return
            if not self._has_its_folder():
                log(f"{self.folder.path} is gone: ending its server")
                # not by TERM: it would remove the socket of the server that a new folder of this name has
                server.kill()
                return
            if ended or not server.has_its_socket():
                server = self._replace(server, ended=ended)
                last_used = time.monotonic()
                continue
            for path in (self.folder.server_log, self.folder.sentinel_log):
                trim(path)
            if server.clients():
                last_used = time.monotonic()
            elif time.monotonic() - last_used >= self._linger and self._end_idle(server):
                return

    def _wait(self, server: KeptServer, seconds: float) -> bool:
        """Sleep, less if something happens; True if the server has ended."""
        sources: list[socket.socket | server_process.Connection] = [self._wake]
        if server.control is not None:
            sources.append(server.control)
        readable, _, _ = select.select(sources, [], [], seconds)
        if server.control in readable:
            # nothing was asked: the server ends, or somebody killed this connection
            server.hang_up()
            server.await_end(0.5)
        if not server.is_alive():
            return True
        if server.control is None and not self._stopping:
            server.call()
        return False

    def _replace(self, server: KeptServer, *, ended: bool) -> KeptServer:
        code = None if server.process is None else server.process.poll()
        how = "its socket is gone" if not ended else "it ended" if code is None else f"it ended with exit code {code}"
        log(f"server {server.pid}: {how}; starting it again")
        server.end()
        passing("keeper.replacing")
        self._deaths = 0 if time.monotonic() - server.started > HEALTHY_AFTER else self._deaths + 1
        while True:
            if self._deaths > 1:
                select.select([self._wake], [], [], min(0.1 * 2 ** min(self._deaths - 2, 10), 5.0))
            if self._stopping:
                raise Stopping
            try:
                return self.bring_up()
            except ServerUnreachable as error:
                # killed while it started, or a full disk, which may have space again in a moment
                self._deaths += 1
                if self._deaths > MAX_DEATHS:
                    raise
                log(str(error))

    def _end_idle(self, server: KeptServer) -> bool:
        """Nobody starts, nobody comes in any more, and still nobody is there: only then."""
        lock = data_folder.try_lock(self.folder.start_lock)
        if lock is None:
            return False
        aside = _aside(server.socket)
        server.socket.rename(aside)
        passing("keeper.aside")
        if server.clients():
            aside.rename(server.socket)
            os.close(lock)
            return False
        log(f"server {server.pid}: no client for {self._linger:g} s, ending it")
        server.end()
        aside.unlink(missing_ok=True)
        self.record_end()
        # the lock stays taken until this process ends: who gets it then finds the others free as well
        return True

    def record_end(self) -> None:
        with contextlib.suppress(OSError):
            if self._has_its_folder():
                self.folder.update(pid=0)


def _aside(path: Path) -> Path:
    return path.with_name(path.name + ".idle")


def _give_up(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_TIMEOUT)
    server_process.end_group(process.pid)
    process.wait()


def _patiently_lock(path: Path, seconds: float) -> int | None:
    """Who only looks whether a lock is taken holds it for some microseconds."""
    deadline = time.monotonic() + seconds
    while (lock := data_folder.try_lock(path)) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    return lock
