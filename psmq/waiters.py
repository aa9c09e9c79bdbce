"""Waiting for tokens of several queues of a cluster: one connection for each, since one cannot wait in two slots.

Nothing is taken that nobody follows up: when one token came, the other waits are called off, and one that came in that
moment is told of, too.
"""

from __future__ import annotations

import os
import selectors
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any, Final

from psmq.commands import keyed
from psmq.connection import Line, connect
from psmq.dialogue import Lost, Refused, error_for, pack
from psmq.errors import ServerUnreachable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from psmq.endpoint import Endpoint

__all__ = ["Waiters"]

#: seconds that a server's timers may be late
_LATENESS: Final = 1.0
#: seconds until one asks again after something went wrong, at least
_PAUSE: Final = 0.05


class Waiters:
    """Connections of one thread, but for ``shut``; opened when they are needed first."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._lines: dict[str, Line] = {}
        self._pid = os.getpid()
        self._shut = False

    def wait(self, keys: Mapping[str, Any], seconds: float) -> set[str]:
        """Wait until one of these lists has a token. → the lists whose token was taken; none: look by yourself."""
        from redis import exceptions

        if self._pid != os.getpid():
            self._pid, self._lines = os.getpid(), {}  # the parent's, dropped unread
        began = time.monotonic()
        found: set[str] = set()
        try:
            with selectors.DefaultSelector() as selector:
                for key in keys:
                    selector.register(self._begin(key, seconds), selectors.EVENT_READ, key)
                ready = [entry.data for entry, _ in selector.select(seconds + _LATENESS)]
            for key in [*ready, *(keys.keys() - set(ready))]:
                # Without a token the first wait has run out, and so have the others, now.
                runs_on = key not in ready and (found or not ready)
                if (self._call_off(key) if runs_on else self._end(key)) is not None:
                    found.add(key)
        except (Lost, exceptions.RedisError, OSError):
            self.close()  # whoever asks the server next finds out what it is
            self._check()
            if not found:
                time.sleep(max(0.0, _PAUSE - (time.monotonic() - began)))
        except BaseException:
            self.close()
            raise
        return found

    def _begin(self, key: str, seconds: float) -> Any:
        self._check()
        line = self._lines.get(key)
        if line is None:
            _, line = connect(self._endpoint, key)
            self._lines[key] = line
            self._check()
        line.ask(pack(("BLPOP", key, f"{seconds:.3f}")), 0, _LATENESS)
        return line.socket

    def _end(self, key: str) -> Any:
        """The answer to a wait: a token, or None when it ran out."""
        answer = self._lines[key].hear()
        if isinstance(answer, Refused):
            if answer.code == "NOPERM":
                raise error_for(answer, keyed(("BLPOP", key), bool), self._endpoint.shown)
            if answer.code == "MOVED":
                self._endpoint.moved(answer.detail, self._endpoint.node_of(key))
            raise Lost(answer.code, sent=True)
        return answer

    def _call_off(self, key: str) -> Any:
        """End a wait by ending our side of the connection; the answer may have come in that moment."""
        line = self._lines.pop(key)
        try:
            if isinstance(line.socket, ssl.SSLSocket):
                return None  # it has no such half: a token that came now is missed, which costs two seconds at most
            line.socket.shutdown(socket.SHUT_WR)
            return line.hear()
        except (Lost, OSError):
            return None  # closed by the server, with nothing taken
        finally:
            line.close()

    def _check(self) -> None:
        if self._shut:
            raise ServerUnreachable("shut")

    def shut(self) -> None:
        """From any thread: the wait ends now with ServerUnreachable, and there is no other."""
        self._shut = True
        for line in list(self._lines.values()):
            line.shut()

    def close(self) -> None:
        """Close all connections."""
        while self._lines:
            self._lines.popitem()[1].close()
