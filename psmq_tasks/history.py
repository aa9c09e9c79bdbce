"""The failure record: what one attempt at a message came to, in words, kept with the message on the server.

Written by workers and, for a child that died, by its supervisor; read by whoever looks at retries and dead letters.
JSON, so that any tool can read it and nobody has to unpickle.
"""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Literal

__all__ = ["Failure"]

Kind = Literal["raised", "timed out", "lost", "edited"]

#: characters of a traceback in a record, fewer where they make many bytes, and of what was decided and why
_LONGEST, _DECISION = 12_000, 500
#: bytes of a record; the server keeps 64 KiB of them for a message, and refuses a longer one
_LARGEST: Final = 60_000
#: what a field may hold where somebody else wrote the record
_TYPES: Final[dict[str, Any]] = {
    "int": int,
    "str": str,
    "Kind": str,
    "float": (int, float),
    "float | None": (int, float, type(None)),
}
#: how a record begins; its message may be cut off
_BEGINNING: Final = re.compile(
    rb'\{"attempt":-?\d+,"outcome":"([a-z ]*)","type":"((?:[^"\\]|\\.)*)","message":"((?:[^"\\]|\\.)*)'
)


@dataclass(frozen=True, slots=True)
class Failure:
    """One attempt that did not succeed, or a change by hand. Times in seconds since 1970 by the worker's clock."""

    attempt: int
    outcome: Kind
    #: the error's type, like ``ValueError``; "" when there was none to see
    type: str
    message: str
    traceback: str
    #: 0.0: not known
    started: float
    ended: float
    #: of the process that ran it
    host: str
    pid: int
    task: str
    #: what was decided: "again in 2.5 s", "gave up: …"
    decision: str
    #: which part of the policy said so: "wait_fixed(3) → 3 s; stop_after_attempt(5): 1 of 5"; "" in older records
    why: str = ""
    #: seconds until the next attempt; None: there is none, or nobody knows yet
    delay: float | None = None
    #: "host:pid" of the worker, as ``psmq workers`` lists it; "" where there was none, and in older records
    worker: str = ""
    #: how often its worker extended the lease of this delivery
    extensions: int = 0
    #: edited: the message's data before it, zlib and base64; "" otherwise
    original: str = ""

    def pack(self) -> bytes:
        """As it is stored."""
        longest = _LONGEST
        while len(packed := self._pack(longest)) > _LARGEST:
            longest //= 2
        return packed

    def _pack(self, longest: int) -> bytes:
        values = asdict(self)
        if not self.original:
            del values["original"]
        values["decision"], values["why"] = self.decision[:_DECISION], self.why[:_DECISION]
        for name in ("traceback", "message"):
            text = values[name]
            if len(text) > longest:
                values[name] = text[: longest // 2] + "\n  …\n" + text[len(text) - longest // 2 :]
        return json.dumps(values, separators=(",", ":")).encode("utf-8", "backslashreplace")

    @classmethod
    def unpack(cls, record: bytes) -> Failure:
        """What was stored; a record that is not ours shows as its own text."""
        try:
            found = json.loads(record)
            known = {field.name: found[field.name] for field in fields(cls) if field.name in found}
            if all(
                isinstance(known[field.name], _TYPES[str(field.type)]) for field in fields(cls) if field.name in known
            ):
                return cls(**known)
        except (ValueError, TypeError, KeyError, RecursionError):
            pass  # it is shown as it is
        text = record.decode("utf-8", "replace")
        return cls(0, "raised", "", text, "", 0.0, 0.0, "", 0, "", "")

    @classmethod
    def in_short(cls, record: bytes) -> tuple[str, str]:
        """Outcome, and type and message as in a reason, of a record of which perhaps only the beginning is there.

        A fifth of the time that ``unpack`` takes.
        """
        found = _BEGINNING.match(record)
        if found is None:
            failure = cls.unpack(record)
            return failure.outcome, f"{failure.type}: {failure.message}"
        return found[1].decode(), f"{_text(found[2])}: {_text(found[3])}"


def _text(inside: bytes) -> str:
    """What stands in a JSON string of ours, which is ASCII."""
    if b"\\" not in inside:
        return inside.decode("utf-8", "replace")
    for cut in range(6):  # an escape may be cut in two, and so may be a character of two escapes
        with contextlib.suppress(ValueError):
            text: str = json.loads(b'"%b"' % inside[: len(inside) - cut])
            return text[:-1] if "\ud800" <= text[-1:] <= "\udbff" else text
    return inside.decode("utf-8", "replace")
