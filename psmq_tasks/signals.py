"""Signals that a waiting thread wakes for."""

from __future__ import annotations

import contextlib
import selectors
import signal
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["handled", "heeded"]


def heeded() -> tuple[signal.Signals, ...]:
    """The signals that stop a worker: TERM, INT, QUIT, and HUP unless it is ignored (nohup)."""
    stops = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
    return stops if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (*stops, signal.SIGHUP)


@contextlib.contextmanager
def handled(handler: Callable[[int, Any], None]) -> Any:
    """Handles what stops a worker, and yields a wait that any signal (a child's death too) ends."""
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    old_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    handlers = {number: signal.signal(number, handler) for number in heeded()}
    handlers[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
    with selectors.DefaultSelector() as selector, reader, writer:
        selector.register(reader, selectors.EVENT_READ)

        def wait(seconds: float) -> None:
            if selector.select(seconds):
                with contextlib.suppress(BlockingIOError):
                    while reader.recv(256):
                        pass

        try:
            yield wait
        finally:
            signal.set_wakeup_fd(old_fd)
            for number, old in handlers.items():
                signal.signal(number, old)
