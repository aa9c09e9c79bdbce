"""A running server as its sentinel sees it: whether it lives, who uses it, whether clients find it, and its end."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from psmq import data_folder, server_process
from psmq.sentinel_log import log

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

__all__ = ["END_TIMEOUT", "KeptServer"]

#: seconds; a server that does not end by TERM is killed; what it has written to its AOF survives that
END_TIMEOUT = 6.0


@dataclass(slots=True)
class KeptServer:
    """A running server: our child, or one that another sentinel left behind."""

    pid: int
    socket: Path
    #: None: adopted
    process: subprocess.Popen[bytes] | None
    #: of the socket file: another one at the same path is not ours
    inode: int = 0
    #: held open, for its end tells at once that the server ended; None: the server is too busy to accept one
    control: server_process.Connection | None = None
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.inode = self.socket.lstat().st_ino
        self.call()

    def call(self) -> None:
        """Open the control connection, if the server is there and has time."""
        with contextlib.suppress(OSError):
            control = server_process.Connection(self.socket, timeout=2.0)
            try:
                control.ask("CLIENT", "SETNAME", server_process.SENTINEL_NAME)
            except BaseException:
                control.close()
                raise
            self.control = control

    def hang_up(self) -> None:
        if self.control is not None:
            self.control.close()
            self.control = None

    def clients(self) -> int:
        """Somebody else's connections. A server that does not answer has work, or its end is noticed next."""
        if self.control is None:
            return 1
        try:
            return server_process.count_clients(self.control)
        except OSError:
            self.hang_up()  # a late answer must not be taken for that to the next question
            return 1

    def is_alive(self) -> bool:
        if self.process is not None:
            return self.process.poll() is None
        return data_folder.is_process(self.pid, str(self.socket))

    def await_end(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while self.is_alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return True

    def end(self) -> None:
        """Cleanly, else by force, with everything it started."""
        self.hang_up()
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
            if not self.await_end(END_TIMEOUT):
                log(f"server {self.pid} did not end by TERM within {END_TIMEOUT:g} s: killing it")
        self.kill()

    def kill(self) -> None:
        self.hang_up()
        server_process.end_group(self.pid)
        self.await_end(END_TIMEOUT)

    def has_its_socket(self) -> bool:
        """Whether clients find it. Touches it as well: what cleans temporary folders takes what looks old."""
        try:
            if self.socket.lstat().st_ino != self.inode:
                return False
            os.utime(self.socket)
            os.utime(self.socket.parent)
        except OSError:
            return False
        return True
