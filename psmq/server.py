"""The embedded server as its clients see it: a folder goes in, a socket that answers comes out.

No client owns the server. Whoever comes first starts a psmq sentinel (psmq/sentinel.py), a process of its own that is
the server's parent; everybody else finds the socket in the folder's server.json. Whoever finds neither starts it again,
so after any crash, kill or idle end the next use brings the server back on the same files.

The rooms behind: data_folder (what lies in the folder), server_process (the binary), memory_server (without a folder).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from psmq import data_folder, server_process
from psmq.data_folder import DataFolder
from psmq.errors import InvalidOption, PsmqError, ServerUnreachable, ServerUnsuitable
from psmq.memory_server import ensure_memory
from psmq.server_process import find_binary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psmq.data_folder import Record

__all__ = [
    "ServerStatus",
    "default_db_dir",
    "ensure",
    "ensure_memory",
    "find_binary",
    "linger",
    "signing_key",
    "status",
    "stop",
]

#: weakest first
DURABILITIES = ("everysec", "always")


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """The server of a folder at one moment; what is not known is 0, "" or None."""

    db_dir: Path
    running: bool
    pid: int
    socket: Path | None
    #: of the running server, else of the last one
    flavour: str
    version: str
    sentinel_pid: int
    durability: str
    uptime_s: float
    memory_bytes: int
    clients: int
    #: where the last server ran
    host: str
    #: the last lines of sentinel.log, oldest first
    notices: tuple[str, ...]


def default_db_dir() -> Path:
    """PSMQ_DB_DIR, else this user's data folder: an app and a worker started from different folders find each other."""
    named = os.environ.get("PSMQ_DB_DIR", "")
    if named:
        return Path(named).expanduser()
    import platformdirs

    return Path(platformdirs.user_data_dir("psmq", appauthor=False))


def linger() -> float:
    """PSMQ_SERVER_LINGER: seconds that a server without clients stays; 60 by default, "inf" for ever."""
    text = os.environ.get("PSMQ_SERVER_LINGER", "") or "60"
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise InvalidOption("PSMQ_SERVER_LINGER", f"must be seconds, 0 or more, or inf, not {text!r}")
    return seconds


def signing_key(db_dir: Path) -> bytes:
    """The secret that lies beside the data; made on first use."""
    folder = DataFolder.at(db_dir)
    try:
        return data_folder.read_secret(folder)
    except FileNotFoundError:
        folder.prepare()
        return data_folder.read_secret(folder)


# ---- ensure --------------------------------------------------------------------------------------------------------


def ensure(db_dir: Path, *, durability: str = "everysec", timeout: float = 15.0) -> Path:
    """See to it that a server runs on this folder, kept by a psmq sentinel, and return its socket.

    Costs a connect and a PING when one does (0.2 ms). Any number of processes may call it at once, and again whenever
    the server has gone. Waits while a server loads its data, at most ``timeout`` seconds.
    """
    if sys.platform == "win32":
        raise ServerUnsuitable("the embedded server runs on Linux, macOS and WSL; here use a server by url=...")
    if durability not in DURABILITIES:
        raise InvalidOption("durability", f"must be one of {', '.join(DURABILITIES)}, not {durability!r}")
    folder = DataFolder.at(db_dir)
    deadline = time.monotonic() + timeout
    record = _running(folder, deadline) or _bring_up(folder, durability, deadline)
    if _is_weaker(record.durability, durability):
        _strengthen(folder, Path(record.socket), durability)
    return Path(record.socket)


def _running(folder: DataFolder, deadline: float) -> Record | None:
    """server.json, if it names a server that answers and a sentinel keeps it."""
    record = folder.record()
    if not record.socket or not data_folder.is_locked(folder.sentinel_lock):
        return None
    patience = min(max(deadline - time.monotonic(), 0.05), 1.0)
    return record if server_process.answers(Path(record.socket), timeout=patience) else None


def _bring_up(folder: DataFolder, durability: str, deadline: float) -> Record:
    came = time.time()
    silent = 0
    try:
        folder.prepare()
        for pause in _pauses():
            # before the check: what is found missing afterwards is missing although nobody starts it
            lock = data_folder.try_lock(folder.start_lock)
            try:
                if (record := _running(folder, deadline)) is not None:
                    return record
                _check_host(folder)
                if time.monotonic() > deadline:
                    raise ServerUnreachable(_why_not_yet(folder))
                if lock is not None and not data_folder.is_locked(folder.sentinel_lock):
                    _raise_fresh_failure(folder, came)
                    word = _start_sentinel(folder, durability, deadline)
                    if word:
                        _pass_on(word, lock)
                    # None: it is still at it. Nothing at all: it crashed or was killed, which a second try may survive
                    silent += word == b""
                    if silent > 2:
                        raise ServerUnreachable(_about_silence(folder))
                    continue
            finally:
                if lock is not None:
                    os.close(lock)
            time.sleep(pause)
    except OSError as error:
        if isinstance(error, PsmqError):
            raise
        # ENOSPC in a lock's or the record's write, a folder removed under our feet, too many open files
        reason = "no space left" if server_process.is_full(folder.path) else error.strerror or str(error)
        raise ServerUnreachable(f"the server of {folder.path} cannot be started: {reason}") from error
    raise AssertionError("_pauses() does not end")


def _pauses() -> Iterator[float]:
    pause = 0.005
    while True:
        yield pause
        pause = min(pause * 1.5, 0.05)


def _start_sentinel(folder: DataFolder, durability: str, deadline: float) -> bytes | None:
    """Start one and wait for its first word: that the server answers, or why it does not."""
    linger()  # a bad value is the caller's error, not a line in a log
    with data_folder.open_log(folder.sentinel_log) as log:
        process = subprocess.Popen(
            [_python(), "-P", "-m", "psmq.sentinel", "--detach", "--durability", durability, os.fspath(folder.path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd="/",
            env=_sentinel_environment(),
            start_new_session=True,
            umask=0o077,
        )
    assert process.stdout is not None
    try:
        # it has forked itself away: what we wait for ends at once, and the sentinel is no child of ours
        return _first_line(process.stdout, deadline)
    finally:
        process.stdout.close()
        _reap(process, deadline)


def _pass_on(word: bytes, lock: int) -> None:
    """Raise what a sentinel reports, and leave it in the lock that we hold."""
    error = _reported(word)
    if error is not None:
        # those who wait for the lock would only find out the same, one after the other
        data_folder.sign_lock(lock, json.dumps({"at": time.time(), "report": word.decode("utf-8", "replace")}))
        raise error


def _first_line(stream: IO[bytes], deadline: float) -> bytes | None:
    """What the sentinel says; b"" when it ends without a word, None when it says nothing in time."""
    import select

    found = b""
    poll = select.poll()
    poll.register(stream, select.POLLIN)
    while not found.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(math.ceil(left * 1000)):
            return None
        more = os.read(stream.fileno(), 65536)
        if not more:
            return b""
        found += more
    return found


def _reap(process: subprocess.Popen[bytes], deadline: float) -> None:
    try:
        process.wait(timeout=max(deadline - time.monotonic(), 1.0))
    except subprocess.TimeoutExpired:
        # a machine so slow that Python has not come to its first lines; better none than a zombie
        process.kill()
        process.wait()


def _reported(word: bytes) -> PsmqError | None:
    report = json.loads(word)
    kinds: dict[str, type[PsmqError]] = {
        kind.__name__: kind for kind in (ServerUnreachable, ServerUnsuitable) if kind.__name__ == report.get("error")
    }
    return next((kind(report["message"]) for kind in kinds.values()), None)


def _raise_fresh_failure(folder: DataFolder, came: float) -> None:
    try:
        last = json.loads(data_folder.lock_text(folder.start_lock) or "{}")
        error = _reported(last["report"].encode()) if last.get("at", 0) > came else None
    except (ValueError, AttributeError, KeyError):
        return
    if error is not None:
        raise error


def _check_host(folder: DataFolder) -> None:
    """A server that another machine or container runs on this folder cannot be reached, only respected."""
    record = folder.record()
    here = data_folder.host_name()
    elsewhere = bool(record.pid) and (record.host, record.boot_id) != (here, data_folder.boot_id())
    # a laptop's host name changes while its server runs
    elsewhere = elsewhere and not data_folder.is_process(record.pid, record.socket)
    if elsewhere and data_folder.is_locked(folder.server_lock):
        raise ServerUnsuitable(
            f"a server of host {record.host} (process {record.pid}) uses {folder.path}, and its socket "
            f"{record.socket} does not answer on {here}; share queues between hosts by a server with url=..."
        )


def _why_not_yet(folder: DataFolder) -> str:
    record = folder.record()
    if not data_folder.is_locked(folder.server_lock):
        return f"the server of {folder.path} was not started in time; its sentinel's last word: {_last_word(folder)}"
    return (
        f"the server of {folder.path} (process {record.pid}) did not answer in time: it loads its data or hangs; "
        f"see {folder.server_log}"
    )


def _about_silence(folder: DataFolder) -> str:
    return f"the psmq sentinel of {folder.path} did not start; its last word: {_last_word(folder)}"


def _last_word(folder: DataFolder) -> str:
    return next(iter(_tail(folder.sentinel_log, lines=1)), "none")


def _python() -> str:
    """The interpreter; in one that is embedded in a server (uwsgi), sys.executable is that server."""
    executable = Path(sys.executable or "python3")
    if executable.name.lower().startswith(("python", "pypy")):
        return str(executable)
    return str(Path(sys.exec_prefix, "bin", "python3"))


def _sentinel_environment() -> dict[str, str]:
    """Ours, in which it finds the psmq that we run: it may not be installed, only on our path."""
    root = str(Path(__file__).resolve().parent.parent)
    path = os.environ.get("PYTHONPATH", "")
    return {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{path}" if path else root}


def _is_weaker(found: str, wanted: str) -> bool:
    ranks = {name: rank for rank, name in enumerate(DURABILITIES)}
    return ranks.get(found, 0) < ranks[wanted]


def _strengthen(folder: DataFolder, socket: Path, durability: str) -> None:
    """For all clients and all later starts: remembered first, so that no crash can forget what was promised."""
    folder.update(durability=durability)
    try:
        reply = server_process.ask(socket, "CONFIG", "SET", "appendfsync", durability, timeout=5.0)
    except OSError as error:
        raise ServerUnreachable(f"the server of {folder.path} went away: {error}") from error
    if reply != "OK":
        raise ServerUnsuitable(f"the server of {folder.path} refuses durability={durability!r}: {reply}")


# ---- status and stop -----------------------------------------------------------------------------------------------


def status(db_dir: Path) -> ServerStatus | None:
    """What runs on a folder; None if there is no such folder. Makes and changes nothing."""
    folder = DataFolder.at(db_dir)
    if not folder.path.is_dir():
        return None
    record = folder.record()
    found: dict[str, str] = {}
    clients = 0
    if record.socket:
        try:
            with server_process.Connection(Path(record.socket), timeout=2.0) as connection:
                found = server_process.info(connection, "server") | server_process.info(connection, "memory")
                clients = max(server_process.count_clients(connection) - 1, 0)  # but for this one
        except OSError:
            pass  # it does not run, or does not answer: the lock tells
    running = data_folder.is_locked(folder.server_lock)
    return ServerStatus(
        db_dir=folder.path,
        running=running,
        pid=int(found.get("process_id", record.pid)) if running else 0,
        socket=Path(record.socket) if running and record.socket else None,
        flavour=record.flavour,
        version=record.version,
        sentinel_pid=data_folder.lock_pid(folder.sentinel_lock),
        durability=record.durability,
        uptime_s=max(time.time() - record.started, 0.0) if running and record.started else 0.0,
        memory_bytes=int(found.get("used_memory", 0)),
        clients=clients,
        host=record.host,
        notices=_tail(folder.sentinel_log, lines=5),
    )


def _tail(path: Path, lines: int) -> tuple[str, ...]:
    try:
        with path.open("rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - 8192, 0))
            return tuple(file.read().decode("utf-8", "replace").splitlines()[-lines:])
    except OSError:
        return ()


def stop(db_dir: Path, *, timeout: float = 10.0) -> bool:
    """End the sentinel and the server of a folder cleanly; False if nothing ran. The next use starts them anew."""
    folder = DataFolder.at(db_dir)
    deadline = time.monotonic() + timeout
    asked: set[tuple[int, int]] = set()
    if not any(map(data_folder.is_locked, _kept_locks(folder))):
        return False
    for pause in _pauses():
        # with the start lock nobody brings back what we wait to see gone
        lock = data_folder.try_lock(folder.start_lock)
        try:
            while lock is not None and time.monotonic() < deadline:
                if not any(map(data_folder.is_locked, _kept_locks(folder))):
                    return True
                _ask_to_end(folder, asked, by_force=deadline - time.monotonic() < timeout * 0.2)
                time.sleep(0.01)
        finally:
            if lock is not None:
                os.close(lock)
        if time.monotonic() > deadline:
            break
        time.sleep(pause)
    raise ServerUnreachable(f"the server of {folder.path} (process {folder.record().pid}) did not end in {timeout:g} s")


def _kept_locks(folder: DataFolder) -> tuple[Path, Path]:
    return folder.sentinel_lock, folder.server_lock


def _ask_to_end(folder: DataFolder, asked: set[tuple[int, int]], *, by_force: bool) -> None:
    """Each once: a sentinel ends its server too, by force if need be; a server without one is asked itself."""
    record = folder.record()
    number = signal.SIGTERM
    if data_folder.is_locked(folder.sentinel_lock):
        pid = data_folder.lock_pid(folder.sentinel_lock)
    else:
        pid = record.pid if data_folder.is_process(record.pid, record.socket) else 0
        number = signal.SIGKILL if by_force else number
    if pid and (pid, number) not in asked:
        asked.add((pid, number))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
