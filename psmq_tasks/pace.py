"""How the slots of a child share its work: how much each takes at once, and whether they work side by side.

Threads that share a GIL only get in each other's way while tasks compute, however short they are. Tasks that wait, for
a disk, a server or a timer, are another matter: then every slot is needed. Which it is shows in how often a slot that
works alone gives up its processor.
"""

from __future__ import annotations

import threading
import time
from typing import Final

try:
    import resource

    _WHO: Final = resource.RUSAGE_THREAD  # Linux only
except (ImportError, AttributeError):
    _WHO = None  # type: ignore[misc, assignment]

__all__ = ["MOST_HELD", "Lead", "Pace"]

#: seconds of work that a slot holds and has not started, and messages at most: no more than are settled in one trip
HOLD_SECONDS: Final = 0.01
MOST_HELD: Final = 100
#: slots work side by side when one message in so many waits for something, in so many batches in a row (others may
#: still have been at work during the first, and waiting for them is waiting, too)
_SELDOM, _BATCHES = 4, 3
#: seconds until it is tried again whether one slot does as well, and how long messages may take for that
_PROBE_AFTER, _PROBE_BELOW = 1.0, 0.002


def waits() -> int:
    """How often this thread has given up its processor to wait for something."""
    return resource.getrusage(_WHO).ru_nvcsw if _WHO is not None else 0


class Pace:
    """How long messages take, and so how many a slot may hold; and whether one slot at a time does."""

    def __init__(self) -> None:
        self._seconds = HOLD_SECONDS  # unknown: one message at a time
        self._side_by_side = _WHO is None
        self._probe_at = 0.0
        self._waiting_batches = 0

    @property
    def batch(self) -> int:
        """Messages to ask for."""
        return max(1, min(MOST_HELD, int(HOLD_SECONDS / self._seconds))) if self._seconds > 0 else MOST_HELD

    @property
    def alone(self) -> bool:
        """Whether one slot at a time should work."""
        if not self._side_by_side:
            return True
        return self._seconds < _PROBE_BELOW and _WHO is not None and time.monotonic() >= self._probe_at

    def note(self, count: int, seconds: float) -> None:
        """A batch of ``count`` took so long. Slower is believed at once, faster by and by."""
        each = seconds / count
        self._seconds = each if each > self._seconds else 0.7 * self._seconds + 0.3 * each

    def note_alone(self, count: int, waited: int) -> None:
        """While one slot worked alone, a batch of ``count`` waited so often."""
        if waited * _SELDOM <= count:
            self._side_by_side, self._waiting_batches = False, 0
            return
        self._waiting_batches += 1
        if self._waiting_batches >= _BATCHES:
            self.note_stuck()

    def note_stuck(self) -> None:
        """A slot alone is not enough."""
        self._side_by_side, self._waiting_batches = True, 0
        self._probe_at = time.monotonic() + _PROBE_AFTER


class Lead:
    """The right to ask the server and wait there, held by one slot at a time; kept while it works if it works alone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._guard = threading.Lock()
        self._holder: object = None
        #: since when its holder works, monotonic seconds; None: it asks or waits
        self._works_since: float | None = None

    def take(self, holder: object, *, wait: bool) -> bool:
        """Become its holder. → False: another one is, and ``wait`` was not asked for"""
        if not self._lock.acquire(blocking=wait):
            return False
        self._works_since = None
        self._holder = holder
        return True

    def is_held_by(self, holder: object) -> bool:
        """Whether this slot holds it still: it may have been passed on while it worked."""
        return self._holder is holder

    def works(self, holder: object) -> None:
        """Its holder begins to work, and keeps it."""
        if self._holder is holder:
            self._works_since = time.monotonic()

    def asks(self, holder: object) -> bool:
        """Its holder has worked, and asks again. → False: it was passed on meanwhile"""
        with self._guard:
            if self._holder is not holder:
                return False
            self._works_since = None
            return True

    def pass_on(self, holder: object) -> None:
        """The next slot in line may ask; nothing happens if it has passed on already."""
        with self._guard:
            if self._holder is not holder:
                return
            self._holder = self._works_since = None
            self._lock.release()

    def pass_on_if_stuck(self, seconds: float) -> bool:
        """From any thread: the next slot may ask when this one works for longer. → whether one holds it and works"""
        with self._guard:
            since = self._works_since
            if since is None or self._holder is None:
                return False
            if time.monotonic() - since < seconds:
                return True
            self._holder = self._works_since = None
            self._lock.release()
            return False
