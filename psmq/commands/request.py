"""What a command is: one request to the server and how to read its reply, as a value that sync and async queues run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, Literal, NamedTuple, TypeVar

from psmq import errors
from psmq.config import check_name
from psmq.library import NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")

State = Literal["ready", "delayed", "leased", "dead"]
STATES: Final = ("ready", "delayed", "leased", "dead")

#: messages or ids in one trip, and settlements, which cost more: what the server does in some 3 ms while others wait
BATCH: Final = 200
SETTLED: Final = 100
#: messages that a get or a page may ask for
MOST: Final = 1000
#: dead letters in one adopt
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
    #: whose server is asked
    key: str
    patience: float = 0.0


def keyed(words: Sequence[bytes | str | int], parse: Callable[[Any], T], *, patience: float = 0.0) -> Plain[T]:
    """A plain command that goes where its key is: the second word."""
    return Plain(words, parse, str(words[1]), patience)


def checked_ids(ids: Sequence[str]) -> Sequence[str]:
    if isinstance(ids, str) or not all(isinstance(found, str) for found in ids):
        raise errors.InvalidOption("ids", "must be message ids")
    return ids


def optional_bytes(option: str, value: bytes | None) -> bytes:
    if value is None:
        return b""
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise errors.InvalidOption(option, f"must be bytes, not {type(value).__name__}")
    return bytes(value)


def bounded_reason(text: str) -> bytes:
    if not isinstance(text, str):
        raise errors.InvalidOption("reason", f"must be a str, not {type(text).__name__}")
    return text[:1000].encode("utf-8", "replace")


def as_bytes(data: object) -> bytes:
    """Data as exactly bytes; NotSerializable for what is not bytes-like."""
    if type(data) is bytes:
        return data
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise errors.NotSerializable(
            f"data must be bytes, not {type(data).__name__}: encode it, or open the queue with a serializer"
        )
    return bytes(data)


def text(reply: bytes) -> str:
    return reply.decode("utf-8", "replace")


def bytes_or_none(reply: Any) -> bytes | None:
    return None if reply is None else bytes(reply)


def texts(reply: Any) -> list[str]:
    return [word.decode() for word in reply]


def fields(flat: Sequence[bytes]) -> dict[str, str]:
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
