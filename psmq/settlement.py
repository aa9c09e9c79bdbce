"""What the holder of a message does with it: plain values, acted on in one place (``Queue.exchange``)."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Bury", "Delete", "Release", "Settlement"]


@dataclass(frozen=True, slots=True)
class Delete:
    """Done: the message leaves the queue. ``result`` is kept for the message's result_ttl (1 h by default)."""

    result: bytes | None = None


@dataclass(frozen=True, slots=True)
class Release:
    """Back to the queue: ready after ``delay`` seconds, unless retrieval_count has reached its maximum (then dead).

    ``count=False`` takes the delivery back: it was never started. ``max_retrievals`` replaces the message's own limit.
    ``failure`` is appended to the message's history; ``reason`` and ``result`` are the dead letter's, should the limit
    be reached.
    ``crashed`` says that the process holding it died; ``unknown`` that this worker cannot read it.
    """

    delay: float = 0.0
    count: bool = True
    max_retrievals: int | None = None
    failure: bytes | None = None
    reason: str = ""
    crashed: bool = False
    unknown: bool = False
    result: bytes | None = None


@dataclass(frozen=True, slots=True)
class Bury:
    """Out of circulation, with the reason; ``failure`` ends its history, ``result`` is what waiters get."""

    reason: str
    failure: bytes | None = None
    result: bytes | None = None


Settlement = Delete | Release | Bury
