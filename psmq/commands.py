"""Every operation on a queue as a value: one request to the server and how to read its reply.

Sync and async queues run the same values; only what carries them differs. There is one builder for each function
of the Lua library, and the plain commands that wait on a list.
"""

from __future__ import annotations

import binascii
import os
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, NamedTuple, TypeVar

from psmq import errors, stats
from psmq.config import QueueConfig, check_name, integer, milliseconds
from psmq.library import NAME
from psmq.message import DeadLetter, MessageRecord, QueueInfo, instant, pack_metadata
from psmq.settlement import Bury, Delete, Release, Settlement

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import timedelta

T = TypeVar("T")

State = Literal["ready", "delayed", "leased", "dead"]
STATES: Final = ("ready", "delayed", "leased", "dead")
Mode = Literal["plain", "worker", "solo"]

#: messages in one push, settlements or messages in one exchange, ids in one redrive; dead letters in one adopt
BATCH: Final = 1000
LETTERS: Final = 100


class Address(NamedTuple):
    """Where a queue is: its two declared keys. The rest is spelled in ``lua/keys.lua``."""

    name: str
    base: str
    never: str

    @classmethod
    def of(cls, namespace: str, name: str) -> Address:
        base = f"{namespace}:{{{check_name(name)}}}"
        return cls(name, base, f"{base}:never")

    @property
    def wake(self) -> str:
        """The list whose token wakes a getter."""
        return f"{self.base}:wake"

    @property
    def failures(self) -> str:
        """The hash that keeps the failure records."""
        return f"{self.base}:failures"

    def result(self, message_id: str) -> str:
        """The list that keeps a message's result."""
        return f"{self.base}:result:{message_id}"


class Command(NamedTuple, Generic[T]):
    """One call of the library. ``numbered`` commands change something and are recognised when they are repeated."""

    function: str
    address: Address
    args: Sequence[bytes | str | int]
    parse: Callable[[Any], T]
    numbered: bool = True


class Plain(NamedTuple, Generic[T]):
    """A command of the server itself, harmless when repeated. ``patience``: seconds it may block there."""

    words: Sequence[bytes | str | int]
    parse: Callable[[Any], T]
    patience: float = 0.0
    #: whose server is asked; "": that of the first key, which is the second word
    key: str = ""


class NewMessage(NamedTuple):
    """One message to push; None stands for the queue's setting.

    ``delay`` and ``ttl`` in seconds or timedelta, ``priority`` -100 … 100 (higher first), ``deduplication_id`` at most
    256 bytes, ``metadata`` str → str (counted in max_size), ``result_ttl`` how long a result is kept (None: the server
    writes none by itself), ``random`` the last 11 digits of its id when the sender has drawn them (see draw_randoms).
    """

    data: Any
    delay: float | timedelta | None = None
    priority: int = 0
    ttl: float | timedelta | None = None
    deduplication_id: str | None = None
    max_retrievals: int | None = None
    metadata: Mapping[str, str] | None = None
    result_ttl: float | timedelta | None = None
    random: str | None = None


class Popped(NamedTuple):
    """What a pop answers."""

    message: MessageRecord | None
    #: none was found yet, but more is due than one call moves: ask again at once
    more: bool


class Delivered(NamedTuple):
    """What an exchange answers: a word for each settlement, and the messages that were got."""

    words: list[str]
    #: seconds until something becomes ready by itself; None: nothing will
    wait: float | None
    #: more is due than one call moves: ask again at once
    more: bool
    #: messages that wait for a process of their own
    suspects: int
    messages: list[MessageRecord]


# 64 symbols of base64 onto the 32 digits of ids: 5 random bits a digit
_DIGITS: Final = bytes.maketrans(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
    b"0123456789abcdefghjkmnpqrstvwxyz" * 2,
)


def draw_randoms(count: int) -> list[str]:
    """``count`` random ends of message ids, 11 digits (55 bits) each."""
    size = count * 11
    text = binascii.b2a_base64(os.urandom((size * 3 + 3) // 4), newline=False).translate(_DIGITS).decode()
    return [text[start : start + 11] for start in range(0, size, 11)]


# --- the way in


def push(address: Address, messages: Sequence[NewMessage]) -> Command[list[str]]:
    """Store 1 … 1000 messages whose data is bytes; all or none. → their ids"""
    args: list[bytes | str | int] = []
    drawn = iter(draw_randoms(sum(not message.random for message in messages)))
    for given, delay, priority, ttl, deduplication_id, max_retrievals, metadata, result_ttl, random in messages:
        data = as_bytes(given)
        options = _push_options(priority, delay, ttl, max_retrievals, result_ttl)
        if metadata:
            packed = pack_metadata(metadata)
            options += f"n{len(packed)}"
            data = packed + data
        args += (random or next(drawn), options, _deduplication(deduplication_id), data)
    return Command("push", address, args, _texts)


def push_size(push: Command[list[str]]) -> tuple[int, int]:
    """How many messages it stores, and the bytes of their bodies."""
    return len(push.args) // 4, sum(map(len, push.args[3::4]))  # type: ignore[arg-type]  # bodies are bytes


def joined_pushes(pushes: Sequence[Command[list[str]]]) -> Command[list[str]]:
    """One push of what these store in the same queue; all or none."""
    return pushes[0]._replace(args=[word for push in pushes for word in push.args])


def _push_options(*given: Any) -> str:
    try:
        return _spell_options(*given)
    except TypeError:  # what cannot be hashed is no number either: the check says so in its own words
        return _spell_options.__wrapped__(*given)


# Most pushes of a program have the same few. Typed: True is no priority, though it equals 1.
@lru_cache(maxsize=256, typed=True)
def _spell_options(priority: Any, delay: Any, ttl: Any, max_retrievals: Any, result_ttl: Any) -> str:
    options = ""
    if priority:
        options = f"p{integer('priority', priority, -100, 100)}"
    if delay is not None:
        options += f"d{milliseconds('delay', delay)}"
    if ttl is not None:
        options += f"t{milliseconds('ttl', ttl, least=1)}"
    if max_retrievals is not None:
        options += f"m{integer('max_retrievals', max_retrievals, 1, 1_000_000)}"
    if result_ttl is not None:
        options += f"r{milliseconds('result_ttl', result_ttl)}"
    return options


def as_bytes(data: object) -> bytes:
    """Data as exactly bytes; NotSerializable for what is not bytes-like."""
    if type(data) is bytes:
        return data
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise errors.NotSerializable(
            f"data must be bytes, not {type(data).__name__}: encode it, or open the queue with a serializer"
        )
    return bytes(data)


def _deduplication(name: str | None) -> str:
    if name is None:
        return ""
    if not isinstance(name, str) or not _is_utf8(name) or not 1 <= len(name.encode()) <= 256:
        raise errors.InvalidOption("deduplication_id", "must be a str of 1 to 256 bytes")
    return name


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# --- the way out


def exchange(
    address: Address,
    settlements: Sequence[tuple[str, str, Settlement]],
    limit: int,
    *,
    visibility_timeout: float | timedelta | None = None,
    mode: Mode = "plain",
) -> Command[Delivered]:
    """Settle (message_id, receipt, settlement)s, then get up to ``limit`` messages."""
    timeout = "" if visibility_timeout is None else milliseconds("visibility_timeout", visibility_timeout, least=1)
    args: list[bytes | str | int] = [integer("limit", limit, 0, BATCH), timeout, mode]
    # What is just to be deleted, of one delivery: one settlement, with the ids in the place of the id.
    done: list[str] = []
    done_receipt = ""
    for message_id, receipt, settlement in settlements:
        plain = type(settlement) is Delete and settlement.result is None and message_id and " " not in message_id
        if done and not (plain and receipt == done_receipt):
            args += (" ".join(done), done_receipt, "D", "", "", "")
            done = []
        if plain:
            done_receipt = receipt
            done.append(message_id)
            continue
        args += (message_id, receipt)
        if type(settlement) is Delete:
            args += ("d", "", "", _given("result", settlement.result))
        elif type(settlement) is Release:
            args += (
                _release(settlement),
                _reason(settlement.reason),
                _given("failure", settlement.failure),
                _given("result", settlement.result),
            )
        elif type(settlement) is Bury:
            if not settlement.reason:
                raise errors.InvalidOption("reason", "must say why the message is buried")
            reason = _reason(settlement.reason)
            args += ("b", reason, _given("failure", settlement.failure), _given("result", settlement.result))
        else:
            raise errors.InvalidOption("settlement", f"must be Delete, Release or Bury, not {settlement!r}")
    if done:
        args += (" ".join(done), done_receipt, "D", "", "", "")
    name = address.name

    def parse(reply: Any) -> Delivered:
        words = [word.decode() for word in reply[0]]
        receipt = reply[4].decode()
        messages = [
            MessageRecord(
                reply[at].decode(), reply[at + 4], name, receipt, reply[at + 1], int(reply[at + 2]), reply[at + 3]
            )
            for at in range(5, len(reply), 5)
        ]
        return Delivered(words, None if reply[1] < 0 else reply[1] / 1000, reply[2] == 1, reply[3], messages)

    return Command("exchange", address, args, parse)


def _given(option: str, value: bytes | None) -> bytes:
    if value is None:
        return b""
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise errors.InvalidOption(option, f"must be bytes, not {type(value).__name__}")
    return bytes(value)


def _reason(text: str) -> bytes:
    if not isinstance(text, str):
        raise errors.InvalidOption("reason", f"must be a str, not {type(text).__name__}")
    return text[:1000].encode("utf-8", "replace")


def _release(settlement: Release) -> str:
    options = "r"
    if settlement.delay:
        options += f"d{milliseconds('delay', settlement.delay)}"
    if not settlement.count:
        options += "u1"
    if settlement.max_retrievals is not None:
        options += f"m{integer('max_retrievals', settlement.max_retrievals, 1, 1_000_000)}"
    if settlement.crashed:
        options += "c1"
    if settlement.unknown:
        options += "k1"
    return options


def pop(address: Address) -> Command[Popped]:
    """Take the next message and delete it."""

    def parse(reply: Any) -> Popped:
        if len(reply) < 5:
            return Popped(None, more=bool(reply))
        return Popped(
            MessageRecord(reply[0].decode(), reply[4], address.name, "", reply[1], int(reply[2]), reply[3]), more=False
        )

    return Command("pop", address, (), parse)


def extend(address: Address, leases: Sequence[tuple[str, str]], timeout: float | timedelta) -> Command[list[str]]:
    """Let leases (message_id, receipt) end ``timeout`` seconds from now. → done | stale for each"""
    args: list[bytes | str | int] = [milliseconds("timeout", timeout, least=1)]
    for message_id, receipt in leases:
        args += (message_id, receipt)
    return Command("extend", address, args, _texts, numbered=False)


def abandon(
    address: Address, client_id: str, started: Sequence[str] = (), *, number: int | None = None
) -> Command[int]:
    """Hand back what a client's last get holds unstarted, and refuse its commands from now on.

    ``number``: only what this very command of it was given; an earlier get's messages are in somebody's hands.
    """
    return Command("abandon", address, (client_id, "" if number is None else number, *started), int, numbered=False)


# --- looking


def _record(address: Address, reply: Sequence[Any], at: int) -> MessageRecord:
    return MessageRecord(
        reply[at].decode("utf-8", "replace"),  # a stranger may have written it
        reply[at + 5],
        address.name,
        "",
        reply[at + 2],
        int(reply[at + 3]),
        reply[at + 4],
        int(reply[at + 1]),
    )


def peek(address: Address) -> Command[MessageRecord | None]:
    """The message that the next get would give."""
    return Command("peek", address, (), lambda reply: _record(address, reply, 0) if reply else None, numbered=False)


def messages(
    address: Address, state: State, limit: int, after: MessageRecord | None, *, data: bool
) -> Command[list[MessageRecord]]:
    """A page of one state in its order, behind ``after``; short when the bodies are large."""
    if state not in STATES:
        raise errors.InvalidOption("state", f"must be one of {', '.join(STATES)}, not {state!r}")
    args = (state, integer("limit", limit, 1, BATCH), _cursor(after), int(data))
    return Command(
        "messages",
        address,
        args,
        lambda reply: [_record(address, reply, at) for at in range(0, len(reply), 6)],
        numbered=False,
    )


def _cursor(after: MessageRecord | None) -> str:
    return "" if after is None else f"{after.score} {after.message_id}"


def dead_letters(
    address: Address, limit: int, after: DeadLetter | None, ids: Sequence[str], *, data: bool, history: bool = True
) -> Command[list[DeadLetter]]:
    """A page of dead letters, oldest burial first, or those with the given ids. Without history there is no data."""
    cursor = _cursor(after.message if after else None)
    args: tuple[bytes | str | int, ...] = (
        integer("limit", limit, 1, BATCH),
        cursor,
        int(data) if history else "-",
        *_ids(ids),
    )

    def parse(reply: Any) -> list[DeadLetter]:
        return [
            DeadLetter(
                _record(address, reply, at),
                reply[at + 6].decode("utf-8", "replace"),
                instant(int(reply[at + 1])),
                _netstrings(reply[at + 7]),
            )
            for at in range(0, len(reply), 8)
        ]

    return Command("dead_letters", address, args, parse, numbered=False)


def failures(address: Address, ids: Sequence[str]) -> Plain[list[tuple[bytes, ...]]]:
    """The failure records of messages in any state, for each id; none where there are none."""
    return Plain(("HMGET", address.failures, *ids), lambda reply: [_netstrings(text or b"") for text in reply])


def _netstrings(text: bytes) -> tuple[bytes, ...]:
    """``b"3:abc,"`` … as the records; what is damaged ends the list."""
    records, at = [], 0
    while at < len(text):
        colon = text.find(b":", at, at + 10)
        if colon < 0 or not text[at:colon].isdigit():
            break
        end = colon + 1 + int(text[at:colon])
        records.append(text[colon + 1 : end])
        at = end + 1
    return tuple(records)


#: fields of the queue hash that count things
COUNTERS: Final = (
    "sent",
    "received",
    "deleted",
    "popped",
    "released",
    "uncounted",
    "buried",
    "redriven",
    "expired",
    "purged",
    "imported",
)


def info(address: Address) -> Command[QueueInfo]:
    """Counts, ages, counters and settings of a queue."""

    def parse(reply: Any) -> QueueInfo:
        stored = _hash(reply[7:])
        return QueueInfo(
            name=address.name,
            ready=reply[0],
            delayed=reply[1],
            leased=reply[2],
            dead=reply[3],
            paused="paused" in stored,
            consumers=reply[4],
            oldest_ready=None if reply[5] < 0 else reply[5] / 1000,
            next_due=None if reply[6] < 0 else reply[6] / 1000,
            counters={name: _count(stored.get(name, "0")) for name in COUNTERS},
            config=QueueConfig.from_wire(stored),
            paused_since=instant(int(stored["paused"])) if stored.get("paused", "").isdigit() else None,
        )

    return Command("info", address, (), parse, numbered=False)


def _count(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0


def stats_of(address: Address, minutes: int) -> Command[stats.QueueStats]:
    """What was done in the minute that runs and the whole ones before it."""
    wanted = integer("minutes", minutes, 1, stats.MOST_MINUTES)
    return Command("stats", address, (wanted,), lambda reply: stats.read(address.name, wanted, reply), numbered=False)


def audit(address: Address, part: str, cursor: str) -> Command[tuple[str, list[tuple[str, Any]]]]:
    """One page of a recount. → the next cursor, "0" at the end; (problem, id) …, or (name, number) … of the totals"""

    def parse(reply: Any) -> tuple[str, list[tuple[str, Any]]]:
        words = [word.decode("utf-8", "replace") if isinstance(word, bytes) else word for word in reply]
        return words[0], list(zip(words[1::2], words[2::2], strict=True))

    return Command("audit", address, (part, cursor), parse, numbered=False)


# --- mending


def redrive(address: Address, ids: Sequence[str], *, keep_count: bool) -> Command[int]:
    """Make dead letters ready again; MessageNotFound if one of them is not dead, and nothing was done."""
    return Command("redrive", address, ("1" if keep_count else "", *_ids(ids)), int)


def _ids(ids: Sequence[str]) -> Sequence[str]:
    if isinstance(ids, str) or not all(isinstance(found, str) for found in ids):
        raise errors.InvalidOption("ids", "must be message ids")
    return ids


def purge(address: Address, state: State, ids: Sequence[str] = ()) -> Command[int]:
    """Delete up to 250 messages of one state, or the dead letters with these ids."""
    if state not in STATES:
        raise errors.InvalidOption("states", f"must be among {', '.join(STATES)}, not {state!r}")
    return Command("purge", address, (state, *_ids(ids)), int)


def hasten(address: Address, ids: Sequence[str]) -> Command[int]:
    """Make delayed messages ready now; MessageNotFound if one of them does not wait, and nothing was done."""
    return Command("hasten", address, _ids(ids), int)


def bury_waiting(address: Address, ids: Sequence[str], reason: str) -> Command[int]:
    """Make delayed messages dead letters; MessageNotFound if one of them does not wait, and nothing was done."""
    if not reason:
        raise errors.InvalidOption("reason", "must say why the message is buried")
    return Command("bury_waiting", address, (_reason(reason), *_ids(ids)), int)


def amend(
    address: Address,
    message_id: str,
    data: bytes,
    *,
    metadata: Mapping[str, str],
    note: bytes,
    redrive: bool,
) -> Command[int]:
    """Give a dead letter other bytes, add ``note`` to its history and, if told so, redrive it; all in one step."""
    packed = pack_metadata(metadata)
    body = packed + as_bytes(data)
    args = (*_ids([message_id]), len(packed), body, _given("note", note), "1" if redrive else "")
    return Command("amend", address, args, int)


def adopt(address: Address, letters: Sequence[DeadLetter]) -> Command[int]:
    """Store 1 … 100 dead letters under the ids they have; those whose ids are there already stay as they are."""
    args: list[bytes | str | int] = []
    for letter in letters:
        message = letter.message
        history = b"".join(b"%d:%b," % (len(record), record) for record in letter.failures)
        args += (message.message_id, message.score, message.retrieval_count, message.value)
        args += (_reason(letter.reason), history)
    return Command("adopt", address, args, int)


def pause(address: Address, *, paused: bool) -> Command[int]:
    """Stop or resume deliveries; pushes and settlements go on."""
    return Command("pause", address, (int(paused),), int, numbered=False)


def wake(address: Address) -> Command[int]:
    """Let a waiting getter look again."""
    return Command("wake", address, (), int, numbered=False)


# --- the queue as a thing


def create_queue(
    address: Address, config: QueueConfig, explicit: frozenset[str], *, must_be_new: bool
) -> Command[QueueConfig]:
    """Make or open a queue: ``explicit`` fields must agree with a stored one, the others are for a new one."""
    wire = config.wire()
    ordered = sorted(wire, key=lambda name: name not in explicit)
    args: list[bytes | str | int] = ["create" if must_be_new else "ensure", len(explicit)]
    for name in ordered:
        args += (name, wire[name])
    return Command("create_queue", address, args, lambda reply: QueueConfig.from_wire(_hash(reply[1:])), numbered=False)


def configure(address: Address, config: QueueConfig, explicit: frozenset[str]) -> Command[QueueConfig]:
    """Change the explicit fields. → the whole config"""
    args = [word for pair in config.wire(explicit).items() for word in pair]
    return Command("configure", address, args, lambda reply: QueueConfig.from_wire(_hash(reply)), numbered=False)


def delete_queue(address: Address, *, begin: bool) -> Command[int]:
    """Mark a queue as going and remove its keys. → results left; repeated until 0, without ``begin``"""
    return Command("delete_queue", address, (int(begin),), int, numbered=False)


def forget_queue(address: Address) -> Command[int]:
    """The last step of deleting, after the name has left the registry. → 0 when the queue was made anew meanwhile"""
    return Command("forget_queue", address, (), int, numbered=False)


# --- plain commands


def registry(namespace: str) -> str:
    """The set of queue names: a hint for listings; a queue's hash is the truth."""
    return f"{namespace}:queues"


def register(namespace: str, name: str) -> Plain[int]:
    return Plain(("SADD", registry(namespace), name), int)


def unregister(namespace: str, names: Sequence[str]) -> Plain[int]:
    return Plain(("SREM", registry(namespace), *names), int)


def registered(namespace: str) -> Plain[list[str]]:
    return Plain(("SMEMBERS", registry(namespace)), lambda reply: sorted(_texts(reply)))


def _workers(namespace: str) -> str:
    """The set of ids of workers: a hint; the note of each, which expires, is the truth."""
    return f"{namespace}:workers"


def _worker(namespace: str, worker_id: str) -> str:
    return f"{namespace}:worker:{worker_id}"


def note_worker(namespace: str, worker_id: str, note: bytes, seconds: float) -> Plain[bool]:
    """What a worker says of itself, kept for so long."""
    return Plain(("SET", _worker(namespace, worker_id), note, "PX", round(seconds * 1000)), bool)


def read_worker(namespace: str, worker_id: str) -> Plain[bytes | None]:
    return Plain(("GET", _worker(namespace, worker_id)), _bytes)


def forget_worker(namespace: str, worker_id: str) -> Plain[int]:
    return Plain(("DEL", _worker(namespace, worker_id)), int)


def list_worker(namespace: str, worker_id: str) -> Plain[int]:
    return Plain(("SADD", _workers(namespace), worker_id), int)


def unlist_workers(namespace: str, worker_ids: Sequence[str]) -> Plain[int]:
    return Plain(("SREM", _workers(namespace), *worker_ids), int)


def listed_workers(namespace: str) -> Plain[list[str]]:
    return Plain(("SMEMBERS", _workers(namespace)), lambda reply: sorted(_texts(reply)))


def exists(address: Address) -> Plain[bool]:
    return Plain(("EXISTS", address.base), bool)


def await_result(address: Address, message_id: str, seconds: float) -> Plain[bytes | None]:
    """Wait on the server for a result; all waiters get it, and it stays. 0 seconds: only look."""
    key = address.result(message_id)
    if seconds <= 0:
        return Plain(("LINDEX", key, 0), _bytes)
    return Plain(("BLMOVE", key, key, "LEFT", "LEFT", f"{seconds:.3f}"), _bytes, patience=seconds)


def keeping(address: Address) -> Plain[str]:
    """How the queue's server persists and replicates, in INFO's words."""
    return Plain(("INFO", "persistence", "replication"), _text, key=address.base)


def flushing(address: Address) -> Plain[str]:
    """When it flushes its file."""
    return Plain(("CONFIG", "GET", "appendfsync"), lambda reply: _text(reply[-1]) if reply else "", key=address.base)


def _text(reply: bytes) -> str:
    return reply.decode("utf-8", "replace")


def _bytes(reply: Any) -> bytes | None:
    return None if reply is None else bytes(reply)


def _texts(reply: Any) -> list[str]:
    return [word.decode() for word in reply]


def _hash(flat: Sequence[bytes]) -> dict[str, str]:
    return {flat[at].decode(): flat[at + 1].decode("utf-8", "replace") for at in range(0, len(flat), 2)}


# --- codes → errors


def _all(base: type[errors.PsmqError]) -> list[type[errors.PsmqError]]:
    return [base, *(found for child in base.__subclasses__() for found in _all(child))]


_CODES: Final = {cls.code: cls for cls in _all(errors.PsmqError) if "code" in vars(cls)}


def error_of(code: str, detail: str, queue_name: str) -> errors.PsmqError | None:
    """The error for a coded answer of the library; None for codes that it does not have."""
    found = _CODES.get(code)
    return found.from_wire(queue_name, detail) if found else None


def function_name(command: Command[Any]) -> str:
    """As the server knows it."""
    return f"{NAME}_{command.function}"
