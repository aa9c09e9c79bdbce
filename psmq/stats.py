"""What a queue did in the last minutes, as plain data: the server's rollups (``lua/rollups.lua``), read."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["MOST_MINUTES", "Histogram", "Minute", "QueueStats"]

#: the server keeps eight hours
MOST_MINUTES: Final = 480

_PARTS: Final = re.compile(r"([a-z])(\d*):(\d+)")
_COUNTS: Final = {"p": "pushed", "d": "delivered", "k": "done", "f": "failed", "b": "buried", "x": "expired"}


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often something took how long. Bucket 0 is below 1 ms, bucket n from 2^((n-1)/2) to 2^(n/2) ms."""

    buckets: dict[int, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many were measured."""
        return sum(self.buckets.values())

    def percentile(self, percent: float) -> float | None:
        """Seconds within which ``percent`` % (0 … 100) were, to about a fifth; None when none was measured."""
        rank, seen = self.count * percent / 100, 0
        for bucket, count in sorted(self.buckets.items()):
            if count and seen + count >= rank:
                start = 2 ** ((bucket - 1) / 2) if bucket else 0.0
                end = 2 ** (bucket / 2)
                return (start + (end - start) * max(rank - seen, 0.0) / count) / 1000
            seen += count
        return None

    def __add__(self, other: Histogram) -> Histogram:
        both = self.buckets.keys() | other.buckets.keys()
        return Histogram({at: self.buckets.get(at, 0) + other.buckets.get(at, 0) for at in both})


@dataclass(frozen=True, slots=True)
class Minute:
    """What was done in one minute. ``minute`` counts from 1970."""

    minute: int
    pushed: int = 0
    delivered: int = 0
    #: deleted, popped
    done: int = 0
    #: deliveries that counted and came back: released, or lost with their lease
    failed: int = 0
    buried: int = 0
    #: dropped when their ttl had ended
    expired: int = 0
    #: from being ready to delivery
    wait: Histogram = field(default_factory=Histogram)
    #: from delivery to settlement
    run: Histogram = field(default_factory=Histogram)


@dataclass(frozen=True, slots=True)
class QueueStats:
    """What a queue did in the ``seconds`` before now; minutes in which nothing was done are left out."""

    name: str
    #: the whole minutes that were asked for, and what has passed of the one that runs
    seconds: float
    #: oldest first
    minutes: tuple[Minute, ...]

    def total(self, what: str) -> int:
        """How many were ``pushed``, ``delivered``, ``done``, ``failed``, ``buried`` or ``expired``."""
        return sum(getattr(minute, what) for minute in self.minutes)

    def rate(self, what: str) -> float:
        """The same, for each second."""
        return self.total(what) / self.seconds

    @property
    def wait(self) -> Histogram:
        """From being ready to delivery."""
        return sum((minute.wait for minute in self.minutes), Histogram())

    @property
    def run(self) -> Histogram:
        """From delivery to settlement."""
        return sum((minute.run for minute in self.minutes), Histogram())

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``: totals, rates for each second, percentiles in seconds (null: nothing was measured)."""
        found: dict[str, Any] = {"name": self.name, "seconds": round(self.seconds, 3)}
        for what in _COUNTS.values():
            found[what] = self.total(what)
            found[f"{what}_rate"] = round(self.rate(what), 4)
        for what, histogram in (("wait", self.wait), ("run", self.run)):
            for percent in (50, 95, 99):
                seconds = histogram.percentile(percent)
                found[f"{what}_p{percent}"] = None if seconds is None else round(seconds, 6)
        return found


def read(name: str, minutes: int, reply: Sequence[bytes]) -> QueueStats:
    """The server's answer: now in ms, then minutes as text."""
    now = int(reply[0])
    found = sorted((_minute(text.decode("ascii", "replace")) for text in reply[1:]), key=lambda one: one.minute)
    return QueueStats(name, minutes * 60 + now % 60_000 / 1000, tuple(found))


def _minute(text: str) -> Minute:
    parts: Iterable[tuple[str, str, str]] = _PARTS.findall(text)
    counts: dict[str, int] = {}
    histograms: dict[str, dict[int, int]] = {"w": {}, "r": {}}
    for letter, bucket, count in parts:
        if letter in histograms and bucket:
            histograms[letter][int(bucket)] = int(count)
        elif letter in _COUNTS:
            counts[_COUNTS[letter]] = int(count)
    number = int(text.partition(" ")[0])
    return Minute(number, **counts, wait=Histogram(histograms["w"]), run=Histogram(histograms["r"]))
