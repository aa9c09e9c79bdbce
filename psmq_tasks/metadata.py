"""What people see of a call without anyone unpickling it. Display only: nobody vouches for it, nothing acts on it."""

from __future__ import annotations

import os
import reprlib
import socket
from functools import lru_cache
from itertools import islice
from typing import Any, Final

__all__ = ["describe_call", "show_arguments"]

#: characters of the arguments' repr; secrets among them are a reason for show_arguments=False
ARGUMENTS_LENGTH: Final = 200
#: more would not fit into those
ARGUMENTS_SHOWN: Final = 50

_limited: Final = reprlib.Repr()
_limited.maxstring = _limited.maxother = 60
_host: Final = socket.gethostname()


def describe_call(task: str, args: tuple[Any, ...], kwargs: dict[str, Any], *, arguments: bool) -> dict[str, str]:
    """The metadata of a message: task, sender (host:pid) and, unless the task opted out, the arguments."""
    metadata = {"task": task, "sender": _sender(os.getpid())}
    if arguments and (args or kwargs):
        metadata["args"] = show_arguments(args, kwargs)
    return metadata


@lru_cache(maxsize=1)
def _sender(pid: int) -> str:
    return f"{_host}:{pid}"


def show_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """``'a@example.org', copies=3``, cut to a printable 200 characters whatever the arguments do."""
    parts = [_show(value) for value in args[:ARGUMENTS_SHOWN]]
    if kwargs:
        parts += [f"{name}={_show(value)}" for name, value in islice(kwargs.items(), ARGUMENTS_SHOWN)]
    shown = ", ".join(parts)
    if len(shown) > ARGUMENTS_LENGTH or len(args) + len(kwargs) > len(parts):
        shown = shown[: ARGUMENTS_LENGTH - 1] + "…"
    return shown if shown.isprintable() else "".join(c if c.isprintable() else "�" for c in shown)


def _show(value: Any) -> str:
    kind: Any = type(value)
    if kind is str or kind is bytes:
        # Cut before, not after: the repr of a megabyte takes milliseconds.
        return repr(value) if len(value) <= ARGUMENTS_LENGTH else repr(value[:ARGUMENTS_LENGTH]) + "…"
    if kind is int:
        # Python refuses to write out very long ones.
        bits = value.bit_length()
        return repr(value) if bits <= 2 * ARGUMENTS_LENGTH else f"<int of {bits} bits>"
    if kind is float or kind is bool or value is None:
        return repr(value)
    if kind.__repr__ is object.__repr__:
        return f"<{kind.__qualname__}>"
    try:
        return _limited.repr(value)
    except Exception:
        return f"<{kind.__qualname__}>"
