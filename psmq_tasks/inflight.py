"""What a child holds, in memory that it shares with its supervisor.

The supervisor runs no user code, so it can go on when a child is stuck or dead: extend leases, end what passes its
limit, know at once what died with a child. The child writes, the supervisor reads (but for four kinds of bytes that
it sets), with no lock, no pipe and nobody's GIL. An entry is one slice assignment of ready bytes with a checksum; the
reader that meets a torn one keeps its last good copy. Where a message stands (held, started, done) is a byte of its
own, because it is written at moments that must not be missed.
"""

from __future__ import annotations

import mmap
import re
import struct
import threading
import time
import zlib
from collections import deque
from itertools import count as counting
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["DONE", "ENDED", "FREE", "HELD", "STARTED", "Entry", "Table", "Unread"]

#: where a message stands: nobody's; leased to us, not started; its payload was touched; ended, to be deleted, with
#: no result to store; ended in another way. What has ended stays here until the server knows.
FREE, HELD, STARTED, DONE, ENDED = 0, 1, 2, 3, 4
_TAKEN: Final = re.compile(rb"[^\0]")

#: generation, slot, queue's index, retrieval_count, message id, receipt
_ENTRY: Final = struct.Struct("<IHHI22s40s")
#: the slot of what was handed to the event loop
ON_LOOP: Final = 0xFFFF
#: when it started (monotonic s), its hard limit (s, 0: none), generation
_RUN: Final = struct.Struct("<ddI")
_SUM: Final = struct.Struct("<I")
_RUN_AND_SUM: Final = _RUN.size + _SUM.size
#: generation, and how often its lease was extended
_EXTENDED: Final = struct.Struct("<II")
#: names of tasks that a table has room for, and bytes of one; a message notes its task's number here and the end of its
#: generation
_MOST_NAMES, _NAME_SIZE = 255, 120
_ENTRY_SIZE: Final = 80
_RUN_SIZE: Final = 32

# the header: single bytes, and the shortest lease of the child's (ms)
_STOPPING, _SUSPECTS, _READY = 0, 1, 2
_LEASE: Final = struct.Struct("<Q")
_LEASE_AT: Final = 8
# messages settled: done, failed
_SETTLED: Final = struct.Struct("<QQ")
_SETTLED_AT: Final = 16
_HEADER: Final = 64
#: of a command; eight bytes at their place are written and read at once
_NUMBER: Final = struct.Struct("<Q")
#: set in the number of a command whose answer its slot waits for
_AWAITED: Final = 1 << 63
#: client ids of its connections, one for each slot and one for the settler
_CLIENT_SIZE: Final = 40


class Entry(NamedTuple):
    """One message in a child's hands, as the supervisor reads it."""

    place: int
    generation: int
    #: None: on the event loop
    slot: int | None
    queue: int
    #: deliveries so far
    attempt: int
    message_id: str
    receipt: str
    state: int
    #: monotonic seconds; 0.0: not started
    started_at: float
    #: seconds after which its process is ended; 0.0: no limit
    limit: float


class Unread(NamedTuple):
    """An answer that a slot has not read, as the supervisor sees it."""

    slot: int
    client_id: str
    #: of the command
    number: int
    #: the slot waits for it: it reads it as soon as it comes, as long as its process runs
    awaited: bool


class Table:
    """Entries for ``capacity`` messages and flags for ``slots`` slots; made by the supervisor before it forks."""

    def __init__(self, slots: int, capacity: int, connections: int) -> None:
        self.capacity = capacity
        self._numbers_of_slots = struct.Struct(f"<{slots}Q")
        self._connections = connections
        self._clients = _HEADER
        self._batches = self._clients + connections * _CLIENT_SIZE
        self._revoked = self._batches + slots
        self._unread = (self._revoked + slots + 7) // 8 * 8
        self._unwanted = self._unread + _NUMBER.size * slots
        self._states = self._unwanted + _NUMBER.size * slots
        self._lost = self._states + capacity
        self._extended = self._lost + 4 * capacity
        self._entries = (self._extended + _EXTENDED.size * capacity + 63) // 64 * 64
        self._runs = self._entries + capacity * _ENTRY_SIZE
        self._tasks = self._runs + capacity * _RUN_SIZE
        self._names = self._tasks + capacity * 2
        self._memory = mmap.mmap(-1, self._names + (_MOST_NAMES + 1) * _NAME_SIZE)
        self._numbers: dict[str, int] = {}
        self._naming = threading.Lock()
        self._memory[self._batches : self._revoked] = b"\x01" * slots  # 0 is what nothing was revoked for
        self._generations = counting(1)
        self._good: dict[int, tuple[int, int, int, int, str, str]] = {}
        self._places = deque(range(capacity))

    # --- the child's side

    @property
    def is_empty(self) -> bool:
        """Whether the child holds nothing, and so runs nothing."""
        return len(self._places) == self.capacity

    @property
    def room(self) -> int:
        """Messages that can still be noted; nothing may be got without."""
        return len(self._places)

    def put(self, slot: int, queue: int, count: int, message_id: str, receipt: str) -> tuple[int, int]:
        """Note a message that was got. → its index and generation; IndexError without room."""
        index = self._places.popleft()
        generation = next(self._generations) & 0xFFFFFFFF
        self._write(index, generation, slot, queue, count, message_id, receipt)
        self._memory[self._states + index] = HELD
        return index, generation

    def hand_to_loop(self, index: int, generation: int, queue: int, count: int, message_id: str, receipt: str) -> None:
        """A slot is done with it: the event loop runs it from now on."""
        self._write(index, generation, ON_LOOP, queue, count, message_id, receipt)

    def _write(
        self, index: int, generation: int, slot: int, queue: int, count: int, message_id: str, receipt: str
    ) -> None:
        count = min(count, 0xFFFFFFFF)
        body = _ENTRY.pack(generation, slot, queue, count, message_id.encode(), receipt.encode())
        start = self._entries + index * _ENTRY_SIZE
        self._memory[start : start + _ENTRY.size + 4] = body + _SUM.pack(zlib.crc32(body))

    def start(self, index: int, generation: int) -> None:
        """Its payload will be touched now: from here on a death counts."""
        memory = self._memory
        memory[self._states + index] = STARTED
        # as run() writes it; this is done for every message
        body = _RUN.pack(time.monotonic(), 0.0, generation)
        at = self._runs + index * _RUN_SIZE
        memory[at : at + _RUN_AND_SUM] = body + _SUM.pack(zlib.crc32(body))

    def run(self, index: int, generation: int, limit: float) -> None:
        """It runs from now on, for at most ``limit`` seconds (0: no limit)."""
        body = _RUN.pack(time.monotonic(), limit, generation)
        at = self._runs + index * _RUN_SIZE
        self._memory[at : at + _RUN.size + 4] = body + _SUM.pack(zlib.crc32(body))

    def name(self, index: int, generation: int, task: str) -> None:
        """Which task it is a call of; for display, so nothing is summed."""
        number = self._numbers.get(task)
        if number is None:
            number = self._number(task)
        memory, at = self._memory, self._tasks + index * 2
        memory[at] = number
        memory[at + 1] = generation & 0xFF

    def _number(self, task: str) -> int:
        """A name's place among the names; 0 where there is no room for more."""
        with self._naming:
            number = len(self._numbers) + 1
            if task in self._numbers or number > _MOST_NAMES:
                return self._numbers.get(task, 0)
            at = self._names + number * _NAME_SIZE
            # Cut where a character may not end; it is read so.
            self._memory[at : at + _NAME_SIZE] = task.encode()[:_NAME_SIZE].ljust(_NAME_SIZE, b"\0")
            self._numbers[task] = number
            return number

    def unstart(self, index: int) -> None:
        """It was marked and then left alone: it goes back."""
        self._memory[self._states + index] = HELD

    def end(self, index: int, *, done: bool) -> None:
        """It has ended: no limit concerns it. ``done``: it is to be deleted, without a result to store."""
        self._memory[self._states + index] = DONE if done else ENDED

    def free(self, index: int) -> None:
        """It is settled: nothing of it is ours any more."""
        self._memory[self._states + index] = FREE
        self._places.append(index)

    def is_lost(self, index: int, generation: int) -> bool:
        """Whether the supervisor found the lease passed on, or let it go."""
        at = self._lost + index * 4
        return bytes(self._memory[at : at + 4]) == _SUM.pack(generation)

    def extensions(self, index: int, generation: int) -> int:
        """How often the supervisor has extended its lease."""
        whose, count = _EXTENDED.unpack_from(self._memory, self._extended + index * _EXTENDED.size)
        return count if whose == generation else 0

    def begin_batch(self, slot: int) -> None:
        """A slot takes new messages: what was revoked before does not concern them."""
        at = self._batches + slot
        number = self._memory[at] % 255 + 1
        if number == self._memory[self._revoked + slot]:  # come round: an old revocation must not strike
            number = number % 255 + 1
        self._memory[at] = number

    def is_revoked(self, slot: int) -> bool:
        """Whether the supervisor takes back what the slot has not started of this batch."""
        return self._memory[self._revoked + slot] == self._memory[self._batches + slot]

    def set_client(self, connection: int, client_id: str) -> None:
        """Which client a connection of the child is to the server."""
        at = self._clients + connection * _CLIENT_SIZE
        self._memory[at : at + _CLIENT_SIZE] = client_id.encode().ljust(_CLIENT_SIZE, b"\0")

    def expect(self, slot: int, number: int, *, awaited: bool = False) -> None:
        """A command of this number of a slot's client is under way: nobody has seen what that gives.

        The slot works meanwhile, or (``awaited``) waits for it.
        """
        self._set_number(self._unread, slot, number | (_AWAITED if awaited else 0))

    def read(self, slot: int, number: int) -> bool:
        """The slot reads that answer now. → whether it may keep what that gives"""
        # In this order, as with marks and revocations: the supervisor revokes, then looks whether it is unread still.
        self._set_number(self._unread, slot, 0)
        if self._number_at(self._unwanted, slot) != number:
            return True
        self._set_number(self._unwanted, slot, 0)
        return False

    def _set_number(self, area: int, slot: int, number: int) -> None:
        at = area + slot * _NUMBER.size
        self._memory[at : at + _NUMBER.size] = _NUMBER.pack(number)

    def _number_at(self, area: int, slot: int) -> int:
        number: int = _NUMBER.unpack_from(self._memory, area + slot * _NUMBER.size)[0]
        return number

    @property
    def stopping(self) -> bool:
        """No new gets."""
        return self._memory[_STOPPING] == 1

    def report_suspects(self, count: int) -> None:
        """How many messages wait for a process of their own, as the server last said."""
        self._memory[_SUSPECTS] = min(count, 255)

    def report_ready(self, lease: float) -> None:
        """The child has imported its app and serves; the shortest of its leases lasts so many seconds."""
        self._memory[_LEASE_AT : _LEASE_AT + _LEASE.size] = _LEASE.pack(int(lease * 1000))
        self._memory[_READY] = 1

    def report_settled(self, done: int, failed: int) -> None:
        """How many messages the child has finished, and how many of its deliveries failed."""
        self._memory[_SETTLED_AT : _SETTLED_AT + _SETTLED.size] = _SETTLED.pack(done, failed)

    # --- the supervisor's side

    def stop(self) -> None:
        """Tell the child to get nothing more."""
        self._memory[_STOPPING] = 1

    @property
    def suspects(self) -> int:
        """What the child last reported."""
        return self._memory[_SUSPECTS]

    @property
    def ready(self) -> bool:
        """Whether the child serves."""
        return self._memory[_READY] == 1

    @property
    def lease(self) -> float:
        """Seconds that the shortest lease lasts which the child asks for; 0.0: it does not serve yet."""
        milliseconds: int = _LEASE.unpack_from(self._memory, _LEASE_AT)[0]
        return milliseconds / 1000

    @property
    def settled(self) -> tuple[int, int]:
        """Done, failed."""
        done, failed = _SETTLED.unpack_from(self._memory, _SETTLED_AT)
        return done, failed

    def clients(self) -> list[str]:
        """The client ids of the child's connections."""
        area = bytes(self._memory[self._clients : self._batches])
        found = (area[at : at + _CLIENT_SIZE].rstrip(b"\0") for at in range(0, len(area), _CLIENT_SIZE))
        return [client.decode() for client in found if client]

    def revoke(self, slot: int) -> None:
        """Take back what a slot has not started of the batch it is at."""
        self._memory[self._revoked + slot] = self._memory[self._batches + slot]

    def unread(self) -> list[Unread]:
        """Answers that slots are to read, but for those revoked."""
        found = []
        for slot, noted in enumerate(self._numbers_of_slots.unpack_from(self._memory, self._unread)):
            number = noted & ~_AWAITED
            if number and number != self._number_at(self._unwanted, slot):
                at = self._clients + slot * _CLIENT_SIZE
                client = bytes(self._memory[at : at + _CLIENT_SIZE]).rstrip(b"\0").decode()
                found.append(Unread(slot, client, number, awaited=noted != number))
        return found

    def revoke_unread(self, answer: Unread) -> None:
        """Its slot shall not have what this answer gives."""
        self._set_number(self._unwanted, answer.slot, answer.number)

    def is_unread(self, answer: Unread) -> bool:
        """Whether its slot has not come to read it."""
        return self._number_at(self._unread, answer.slot) & ~_AWAITED == answer.number

    def lose(self, entry: Entry) -> None:
        """Tell the child that this lease has passed on."""
        at = self._lost + entry.place * 4
        self._memory[at : at + 4] = _SUM.pack(entry.generation)

    def task_of(self, entry: Entry) -> str:
        """The name of the task that it is a call of; "": not known (yet)."""
        at = self._tasks + entry.place * 2
        number, generation = self._memory[at : at + 2]
        if not number or generation != entry.generation & 0xFF:
            return ""
        at = self._names + number * _NAME_SIZE
        return bytes(self._memory[at : at + _NAME_SIZE]).rstrip(b"\0").decode("utf-8", "ignore")

    def note_extended(self, entry: Entry) -> None:
        """Its lease was extended once more."""
        count = min(self.extensions(entry.place, entry.generation) + 1, 0xFFFFFFFF)
        at = self._extended + entry.place * _EXTENDED.size
        self._memory[at : at + _EXTENDED.size] = _EXTENDED.pack(entry.generation, count)

    def entries(self) -> Iterator[Entry]:
        """What the child holds now."""
        states = bytes(self._memory[self._states : self._states + self.capacity])
        for found in _TAKEN.finditer(states):
            index, state = found.start(), states[found.start()]
            fields = self._read(index)
            if fields is None:
                continue
            generation, slot, queue, count, message_id, receipt = fields
            started_at, limit = self._read_run(index, generation) if state == STARTED else (0.0, 0.0)
            where = None if slot == ON_LOOP else slot
            yield Entry(index, generation, where, queue, count, message_id, receipt, state, started_at, limit)

    def _read(self, index: int) -> tuple[int, int, int, int, str, str] | None:
        start = self._entries + index * _ENTRY_SIZE
        for _ in range(3):
            raw = bytes(self._memory[start : start + _ENTRY.size + 4])
            body = raw[: _ENTRY.size]
            if _SUM.unpack_from(raw, _ENTRY.size)[0] == zlib.crc32(body):
                *numbers, message_id, receipt = _ENTRY.unpack(body)
                fields = (*numbers, message_id.rstrip(b"\0").decode(), receipt.rstrip(b"\0").decode())
                self._good[index] = fields
                return fields
        return self._good.get(index)

    def _read_run(self, index: int, generation: int) -> tuple[float, float]:
        at = self._runs + index * _RUN_SIZE
        for _ in range(3):
            raw = bytes(self._memory[at : at + _RUN.size + 4])
            body = raw[: _RUN.size]
            if _SUM.unpack_from(raw, _RUN.size)[0] == zlib.crc32(body):
                started_at, limit, its_generation = _RUN.unpack(body)
                return (started_at, limit) if its_generation == generation else (0.0, 0.0)
        return 0.0, 0.0

    def close(self) -> None:
        """Unmap it."""
        self._memory.close()
