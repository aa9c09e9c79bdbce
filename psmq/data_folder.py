"""The folder that an embedded server keeps its data in: who may use it, what lies in it, who holds which lock.

::

    appendonlydir/  server.log            the server's own
    server.lock     held by the server process through an inherited descriptor: as long as it lives, however it was
                    orphaned, nobody starts a second one on its files (two servers on one AOF lost 100 of 100
                    acknowledged writes)
    sentinel.lock   held by the psmq sentinel; says its process id
    start.lock      held by the one client that starts a sentinel, and by a sentinel while it ends an idle server
    server.json     who wrote here last, where its socket is: see Record
    secret          the key that signs payloads
    sentinel.log    what the sentinel did and noticed
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import secrets
import stat
import sys
import tempfile
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from psmq.environment import is_on
from psmq.errors import InvalidOption, ServerUnsuitable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: sun_path has 108 bytes on Linux, 104 on macOS, with the final NUL; the rest is for the suffix of a renamed socket
MAX_SOCKET_PATH = 95

#: flock is not to be relied on there, nor is fsync; every file system over fuse counts too
SHARED_FILE_SYSTEMS = frozenset({"9p", "afs", "ceph", "cifs", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3",
                                 "smbfs", "vboxsf", "virtiofs"})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Record:
    """server.json: what the next one on this folder must know, whichever process or machine it is."""

    db_dir: str = ""
    #: of the last writer, "valkey" or "redis" and "9.1.2": only it, or a newer one, reads its files reliably
    flavour: str = ""
    version: str = ""
    host: str = ""
    #: tells a pid of before a restart of the machine from one of now
    boot_id: str = ""
    socket: str = ""
    #: 0: shut down cleanly
    pid: int = 0
    durability: str = "everysec"
    #: seconds since 1970
    started: float = 0.0
    #: False: a server was started, and whether its log must be written anew is not known, or that was not done yet
    mended: bool = True


_KINDS: dict[str, Callable[[Any], Any]] = {"str": str, "int": int, "float": float, "bool": bool}


@dataclass(frozen=True, slots=True)
class DataFolder:
    """Real path of a data folder. Making one touches nothing."""

    path: Path

    @classmethod
    def at(cls, db_dir: Path) -> DataFolder:
        return cls(Path(os.path.realpath(Path(db_dir).expanduser())))

    @property
    def server_lock(self) -> Path:
        return self.path / "server.lock"

    @property
    def sentinel_lock(self) -> Path:
        return self.path / "sentinel.lock"

    @property
    def start_lock(self) -> Path:
        return self.path / "start.lock"

    @property
    def server_log(self) -> Path:
        return self.path / "server.log"

    @property
    def sentinel_log(self) -> Path:
        return self.path / "sentinel.log"

    @property
    def secret(self) -> Path:
        return self.path / "secret"

    @property
    def data(self) -> Path:
        return self.path / "appendonlydir"

    def prepare(self) -> None:
        """Make the folder and its key, or say in one line why no server may run on it."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except FileExistsError:
            raise InvalidOption("db_dir", f"{self.path} is a file, not a folder") from None
        except NotADirectoryError:
            raise InvalidOption("db_dir", f"{self.path} lies below a file, not a folder") from None
        except OSError as error:
            raise ServerUnsuitable(f"the data folder {self.path} cannot be made: {error.strerror}") from error
        self._check_owner()
        self._check_file_system()
        make_secret(self)

    def _check_owner(self) -> None:
        found = self.path.stat()
        if found.st_uid != os.geteuid():
            raise ServerUnsuitable(
                f"the data folder {self.path} belongs to user {found.st_uid}, not to this process's user "
                f"{os.geteuid()}; run as its owner or choose another db_dir"
            )
        if found.st_mode & stat.S_IWOTH:
            raise ServerUnsuitable(f"everybody may write into the data folder {self.path}: chmod o-w it")
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise ServerUnsuitable(f"the data folder {self.path} is not writable: chmod u+rwx it")

    def _check_file_system(self) -> None:
        if is_on("PSMQ_ALLOW_SHARED_FS"):
            return
        kind = file_system_of(self.path, mount_table())
        if kind in SHARED_FILE_SYSTEMS or kind.startswith("fuse"):
            raise ServerUnsuitable(
                f"the data folder {self.path} is on a shared file system ({kind}), where locks and fsync cannot be "
                "relied on; choose a local db_dir, or set PSMQ_ALLOW_SHARED_FS=1 if one machine at a time uses it"
            )

    def record(self) -> Record:
        """What server.json says of this very folder; a copied folder's says nothing, for it names the original's."""
        try:
            found = json.loads((self.path / "server.json").read_text("utf-8"))
            known = {field.name: _KINDS[str(field.type)] for field in fields(Record)}
            record = Record(**{name: known[name](value) for name, value in found.items() if name in known})
        except (OSError, ValueError, TypeError, AttributeError):
            return Record()
        if record.db_dir != str(self.path):
            # who wrote the data is true of a copy as well; where a server listens is not
            return Record(flavour=record.flavour, version=record.version, durability=record.durability)
        return record

    def update(self, **changes: Any) -> Record:
        """Change some fields of server.json, whoever else does; the folder's own descriptor is the lock."""
        import fcntl

        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            record = replace(self.record(), db_dir=str(self.path), **changes)
            # surrogates of names that are not UTF-8 survive as \udcxx escapes
            write_whole(self.path / "server.json", json.dumps(asdict(record), indent=1).encode("ascii"))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return record


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file in one step, also across a power cut: a reader finds the old or the new content."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        write_new(unfinished, content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_new(path: Path, content: bytes) -> None:
    """Make a file that only its owner reads, and see it to the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def open_log(path: Path) -> IO[bytes]:
    """To append to; for its owner alone, and never through a link."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600), "ab")


def make_secret(folder: DataFolder) -> None:
    """Made once: link() refuses to replace, so of several makers one wins and all read the same key."""
    if folder.secret.exists():
        return
    unfinished = folder.secret.with_name(f"secret.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        write_new(unfinished, secrets.token_hex(32).encode() + b"\n")
        with contextlib.suppress(FileExistsError):
            os.link(unfinished, folder.secret)
    finally:
        unfinished.unlink(missing_ok=True)


def read_secret(folder: DataFolder) -> bytes:
    """The key, if nobody else can have read it."""
    with folder.secret.open("rb") as file:
        found = os.fstat(file.fileno())
        text = file.read(4096)
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise ServerUnsuitable(
            f"others may read the signing key {folder.secret}: chmod 600 it, and if one of them may have done so, "
            "drain the queues and delete it: the next start makes a new one"
        )
    try:
        key = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        key = b""
    if len(key) < 32:
        raise ServerUnsuitable(f"{folder.secret} is damaged: a signing key is 64 or more hexadecimal digits")
    return key


def file_system_of(path: Path, mounts: str) -> str:
    """The kind of file system that a real path is on, by a text like /proc/self/mountinfo; "" if it does not say."""
    best, kind = "", ""
    for line in mounts.splitlines():
        left, separator, right = line.partition(" - ")
        words = left.split(" ")
        if not separator or len(words) < 5:
            continue
        point = _unescaped(words[4])
        # later lines are mounted over earlier ones
        if path.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, right.split(" ", 1)[0]
    return kind


def _unescaped(point: str) -> str:
    for octal, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        point = point.replace(octal, character)
    return point


def mount_table() -> str:
    """Linux's; elsewhere empty: there the file system is not checked."""
    try:
        return Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
    except OSError:
        return ""


def host_name() -> str:
    return platform.node()


def boot_id() -> str:
    """Changes with each start of the machine; empty where the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


# ---- sockets -------------------------------------------------------------------------------------------------------


def socket_path(folder: DataFolder) -> Path:
    """Where a server on this folder listens: a short name, for sun_path ends at about 100 bytes."""
    digest = hashlib.sha256(os.fsencode(folder.path) + b"\0%d" % os.geteuid()).hexdigest()[:16]
    return runtime_folder() / f"{digest}.sock"


def runtime_folder() -> Path:
    """The user's folder for sockets, made if need be; refused unless only we can have put something into it."""
    for parent, name in _runtime_places():
        place = parent / name
        if len(os.fsencode(place)) + 32 <= MAX_SOCKET_PATH:
            with contextlib.suppress(FileExistsError):
                place.mkdir(mode=0o700)
            _check_private(place)
            return place
    raise ServerUnsuitable("no folder for the server's socket: set XDG_RUNTIME_DIR or TMPDIR to a short path of yours")


def _runtime_places() -> Iterator[tuple[Path, str]]:
    ours = f"psmq-{os.geteuid()}"
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    # after su it often is another user's
    if runtime and os.path.isabs(runtime) and _is_ours(runtime):  # noqa: PTH117  # before it is worth a Path
        yield Path(runtime), "psmq"
    yield Path(tempfile.gettempdir()), ours
    yield Path("/tmp"), ours  # noqa: S108  # _check_private() is what S108 asks for


def _is_ours(path: str) -> bool:
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def _check_private(place: Path) -> None:
    found = place.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise ServerUnsuitable(
            f"{place} must be a folder of user {os.geteuid()} with mode 0700 to hold the server's socket; "
            "remove it, or set XDG_RUNTIME_DIR to a folder of yours"
        )


# ---- locks ---------------------------------------------------------------------------------------------------------


def try_lock(path: Path) -> int | None:
    """An open descriptor that holds the lock until it (and each inherited copy of it) is closed; None: it is taken."""
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def is_locked(path: Path) -> bool:
    """Whether somebody holds it. Makes no file; asks for a shared lock, so that two who ask do not see each other."""
    import fcntl

    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def sign_lock(descriptor: int, text: str) -> None:
    """Leave a word for those who find it taken."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)


def lock_text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def lock_pid(path: Path) -> int:
    """Who signed a lock; 0: nobody yet, or nobody holds it."""
    text = lock_text(path).strip()
    return int(text) if text.isdecimal() and is_locked(path) else 0


def is_process(pid: int, mark: str) -> bool:
    """Whether a process lives and has ``mark`` in its command line: a recycled pid is somebody else."""
    if pid <= 0:
        return False
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return sys.platform != "linux" and mark in _command_line(pid)
    except OSError:
        return False
    return os.fsencode(mark) in line


def _command_line(pid: int) -> str:
    import subprocess

    command = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
    return subprocess.run(command, capture_output=True, text=True, errors="surrogateescape", check=False).stdout
