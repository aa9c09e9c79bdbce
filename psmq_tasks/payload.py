"""What travels: calls and results. The only place that unpickles.

Whoever can make a worker unpickle their bytes runs their code in it. So nothing is unpickled here that the keyring did
not verify first, or was told to take unsigned. What an envelope (envelope.py) holds::

    call:   codec, by value, lengths | task | tag | headers | body
    result: kind, by value, lengths | tag | type name | message | traceback | body

stdlib pickle is tried first; cloudpickle, which extends the same format, writes what has to go *by value*: code of
``__main__``, lambdas, closures. Such a body carries the tag of the Python that compiled it; another one may crash on
it, so it is refused before it is read.
"""

from __future__ import annotations

import json
import pickle
import struct
import sys
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from psmq_tasks.envelope import Keyring
from psmq_tasks.errors import (
    ControlFlow,
    ForeignPython,
    MalformedPayload,
    MissingCode,
    PayloadError,
    TaskBuried,
    TaskExpired,
    TaskFailed,
    UnserializableArgument,
    UnsignedPayload,
)
from psmq_tasks.outcome import (
    ErrorText,
    Lost,
    Outcome,
    Raised,
    Returned,
    TimedOut,
    Unpicklable,
    describe_error,
    type_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = [
    "Carried",
    "Codec",
    "Keyring",
    "SealedCall",
    "dump_call",
    "dump_json",
    "load_call",
    "open_call",
    "open_result",
    "seal_call",
    "seal_result",
]

Codec = Literal["pickle", "json"]

#: this Python, as bytecode knows it
CACHE_TAG: Final = sys.implementation.cache_tag or f"{sys.implementation.name}-{sys.hexversion >> 16:x}"
_TAG: Final = CACHE_TAG.encode()
_PROTOCOL: Final = 5

_CODECS: Final[tuple[Codec, ...]] = ("pickle", "json")
#: codec, by value, lengths of task, tag and headers
_CALL: Final = struct.Struct("<BBHHH")
#: kind of outcome, by value, lengths of tag, type name, message and traceback
_RESULT: Final = struct.Struct("<BBHHII")
_LIMIT: Final = struct.Struct("<d?")
_NO_HEADERS: Final[dict[str, str]] = {}

#: results that the server writes itself: plain words, never unpickled
_SERVER_CODES: Final[dict[bytes, Callable[[str], Outcome]]] = {
    b"!lost": Lost,
    b"!timeout": lambda text: TimedOut(float(text), hard=True),
    b"!expired": lambda text: Raised(TaskExpired(text)),
    b"!buried": lambda text: Raised(TaskBuried(text)),
}


class RemoteTraceback(Exception):
    """The worker's traceback in words, shown as the cause of the error it belongs to."""

    def __str__(self) -> str:
        return f"\n\n(in the worker)\n{self.args[0]}"


# -- calls ------------------------------------------------------------------------------------------------------------


class SealedCall(NamedTuple):
    """A call that was verified, and not unpickled."""

    task: str
    codec: Codec
    #: cloudpickle wrote the body: only a Python of the same ``tag`` may read it
    by_value: bool
    tag: str
    #: what changes how this one call is run, like ``time_limit``
    headers: Mapping[str, str]
    body: bytes
    #: False: nobody vouches for it; ``app.resolve`` decides whether its task takes that
    signed: bool


class Carried(NamedTuple):
    """What a by-value call brings along, because the worker may not have it."""

    function: Callable[..., Any]
    options: object


def dump_call(
    carried: Carried | None, args: tuple[Any, ...], kwargs: dict[str, Any], names: Sequence[str] = ()
) -> tuple[bytes, bool]:
    """The pickled body of a call, and whether it is by value.

    ``carried`` is None where the worker has the task; ``names`` are the positional parameters', for error texts.
    """
    try:
        return _dump((carried, args, kwargs))
    except Exception as error:
        raise _blame(carried, args, kwargs, names, error) from error


def dump_json(args: tuple[Any, ...], kwargs: dict[str, Any], names: Sequence[str] = ()) -> bytes:
    """The body of a call in the json codec: ``[args, kwargs]``."""
    try:
        return json.dumps([args, kwargs], separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise _blame(None, args, kwargs, names, error, dump=lambda value: json.dumps(value, allow_nan=False)) from error


def seal_call(
    keyring: Keyring,
    *,
    namespace: str,
    queue: str,
    random: str,
    task: str,
    codec: Codec,
    by_value: bool,
    headers: Mapping[str, str],
    body: bytes,
) -> bytes:
    """A message's data. ``random`` is the part of the message's id that the sender draws."""
    name = task.encode()
    tag = _TAG if by_value else b""
    packed = "".join(f"{key}\0{value}\0" for key, value in headers.items()).encode() if headers else b""
    lengths = _CALL.pack(codec == "json", by_value, len(name), len(tag), len(packed))
    return keyring.seal("task", namespace, queue, random, b"".join((lengths, name, tag, packed, body)))


def open_call(keyring: Keyring, data: bytes, *, namespace: str, queue: str, random: str) -> SealedCall:
    """The call in a message's data, verified and not unpickled; a PayloadError otherwise.

    An unsigned one in pickle needs ``allow_unsigned``; in JSON it comes back with ``signed=False``.
    A plain ``{"task": …, "args": […], "kwargs": {…}}`` is an unsigned JSON call from a sender without psmq.
    """
    if data[:1] == b"{":
        return _plain_call(data)
    content, signed = keyring.open("task", namespace, queue, random, data)
    try:
        codec, by_value, name_length, tag_length, headers_length = _CALL.unpack_from(content)
        tag_start = _CALL.size + name_length
        headers_start = tag_start + tag_length
        start = headers_start + headers_length
        if start > len(content) or codec > 1 or by_value > 1:
            raise MalformedPayload("the envelope's lengths do not fit it")
        headers = _NO_HEADERS
        if headers_length:
            words = content[headers_start:start].decode().split("\0")
            headers = dict(zip(words[0:-1:2], words[1::2], strict=False))
        task = content[_CALL.size : tag_start].decode()
        tag = content[tag_start:headers_start].decode() if tag_length else ""
    except (struct.error, UnicodeDecodeError) as error:
        raise MalformedPayload(f"the envelope cannot be read: {error}") from None
    if not signed and not codec and not keyring.allow_unsigned:
        raise UnsignedPayload
    return SealedCall(task, _CODECS[codec], bool(by_value), tag, headers, content[start:], signed)


def _plain_call(data: bytes) -> SealedCall:
    call = _read_json(data)
    unknown = call.keys() - {"task", "args", "kwargs"}
    args, kwargs = call.get("args", []), call.get("kwargs", {})
    if unknown or not isinstance(call.get("task"), str) or not isinstance(args, list) or not isinstance(kwargs, dict):
        raise MalformedPayload('a JSON call looks like {"task": "module:name", "args": [...], "kwargs": {...}}')
    body = json.dumps([args, kwargs]).encode()
    return SealedCall(call["task"], "json", by_value=False, tag="", headers=_NO_HEADERS, body=body, signed=False)


def load_call(sealed: SealedCall) -> tuple[Carried | None, tuple[Any, ...], dict[str, Any]]:
    """What the call carries in case the task is not registered here, its args, its kwargs.

    Raises ForeignPython, MissingCode and MalformedPayload; whatever else the arguments' own code raises passes through.
    """
    if sealed.codec == "json":
        call = _read_json(sealed.body)
        if not isinstance(call, list) or len(call) != 2 or not isinstance(call[0], list) or type(call[1]) is not dict:
            raise MalformedPayload("a JSON body is [args, kwargs]")
        return None, tuple(call[0]), call[1]
    call = _load(sealed.body, sealed.by_value, sealed.tag)
    if type(call) is not tuple or len(call) != 3 or type(call[1]) is not tuple or type(call[2]) is not dict:
        raise MalformedPayload("a body is (carried, args, kwargs)")
    if call[0] is not None and type(call[0]) is not Carried:
        raise MalformedPayload("what a body carries is a function and its options")
    return call


# -- results ----------------------------------------------------------------------------------------------------------


def seal_result(keyring: Keyring, outcome: Outcome, *, namespace: str, queue: str, random: str) -> bytes:
    """The outcome in an envelope, whatever it holds: what does not pickle is told in words."""
    kind, by_value, words, body = 0, False, ("", "", ""), b""
    if type(outcome) is Returned:
        body, by_value = _dump_value(outcome.value)
    elif type(outcome) is Raised:
        words = describe_error(outcome.error)
        kind, (body, by_value) = 1, _dump_error(outcome.error)
    elif type(outcome) is TimedOut:
        kind, body = 2, _LIMIT.pack(outcome.limit, outcome.hard)
    else:
        assert type(outcome) is Lost
        kind, words = 3, ("", outcome.reason, "")
    name, message, traceback = (word.encode("utf-8", "backslashreplace") for word in words)
    tag = _TAG if by_value else b""
    lengths = _RESULT.pack(kind, by_value, len(tag), len(name), len(message), len(traceback))
    content = b"".join((lengths, tag, name, message, traceback, body))
    return keyring.seal("result", namespace, queue, random, content)


def open_result(keyring: Keyring, data: bytes, *, namespace: str, queue: str, random: str) -> Outcome:
    """The outcome in a stored result, or a PayloadError if it is not one that our key vouches for.

    An error comes back with the worker's traceback as its ``__cause__``; one that cannot be rebuilt here, or that would
    end or steer the reader (SystemExit, Retry, …), as TaskFailed.
    """
    if data[:1] == b"!":
        code, _, text = data.partition(b" ")
        if code in _SERVER_CODES:
            return _SERVER_CODES[code](text.decode("utf-8", "replace"))
    content, signed = keyring.open("result", namespace, queue, random, data)
    if not signed and not keyring.allow_unsigned:
        raise UnsignedPayload
    try:
        kind, by_value, tag_length, name_length, message_length, traceback_length = _RESULT.unpack_from(content)
    except struct.error as error:
        raise MalformedPayload(f"the result cannot be read: {error}") from None
    parts = []
    start = _RESULT.size
    for length in (tag_length, name_length, message_length, traceback_length):
        parts.append(content[start : start + length].decode("utf-8", "replace"))
        start += length
    tag, words, body = parts[0], ErrorText(*parts[1:]), content[start:]
    if kind == 0:
        try:
            return Returned(_load(body, by_value, tag))
        except Exception as error:
            return Raised(error)
    if kind == 1:
        return Raised(_rebuild(words, body, by_value, tag))
    if kind == 2 and len(body) == _LIMIT.size:
        return TimedOut(*_LIMIT.unpack(body))
    if kind == 3:
        return Lost(words.message)
    raise MalformedPayload(f"a result of kind {kind} was never written by psmq")


def _dump_value(value: object) -> tuple[bytes, bool]:
    try:
        return _dump(value)
    except BaseException:  # the value's own code; a result must be written whatever it does
        try:
            text = repr(value)
        except BaseException as error:
            text = f"its repr raised {type_name(error)}"
        return _dump(Unpicklable(type_name(value), text if len(text) <= 1000 else text[:999] + "…"))


def _dump_error(error: BaseException) -> tuple[bytes, bool]:
    """Empty if it does not survive the trip: many errors pickle and then fail to unpickle."""
    if not _rebuildable(error):
        return b"", False
    try:
        body, by_value = _dump(error)
        return (body, by_value) if type(pickle.loads(body)) is type(error) else (b"", False)
    except BaseException:  # as above
        return b"", False


def _rebuild(words: ErrorText, body: bytes, by_value: int, tag: str) -> BaseException:
    error: object = None
    if body:
        try:
            error = _load(body, by_value, tag)
        except Exception:
            error = None  # the words say what it was
    if not isinstance(error, BaseException) or not _rebuildable(error):
        error = TaskFailed(*words)
    error.__cause__ = RemoteTraceback(words.traceback)
    return error


def _rebuildable(error: BaseException) -> bool:
    # SystemExit must not end who reads the result, nor a Retry steer the task that waits for another one.
    return isinstance(error, Exception) and not isinstance(error, ControlFlow)


# -- pickling ---------------------------------------------------------------------------------------------------------


def _dump(value: object) -> tuple[bytes, bool]:
    try:
        body = pickle.dumps(value, _PROTOCOL)
    except Exception:
        return _dump_by_value(value), True
    # An instance of a __main__ class pickles by reference without complaint, and the worker has another __main__.
    if b"__main__" in body or b"__mp_main__" in body:
        return _dump_by_value(value), True
    return body, False


def _dump_by_value(value: object) -> bytes:
    import cloudpickle  # type: ignore[import-untyped]

    body: bytes = cloudpickle.dumps(value, _PROTOCOL)
    return body


def _load(body: bytes, by_value: int, tag: str) -> Any:
    if by_value and tag != CACHE_TAG:
        raise ForeignPython(tag, CACHE_TAG)
    try:
        return pickle.loads(body)
    except PayloadError:
        raise
    except ImportError as error:
        raise MissingCode(str(error)) from error
    except AttributeError as error:
        # Raised by the unpickler itself, a name is missing here; from deeper down, the arguments' own code failed.
        if error.__traceback__ is not None and error.__traceback__.tb_next is None:
            raise MissingCode(str(error)) from error
        raise
    except (pickle.UnpicklingError, EOFError) as error:
        raise MalformedPayload(f"the body does not unpickle: {error}") from error


def _read_json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MalformedPayload(f"not JSON that can be read: {error}") from None


def _blame(
    carried: Carried | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    names: Sequence[str],
    error: Exception,
    *,
    dump: Callable[[Any], object] = _dump,
) -> UnserializableArgument:
    """Which part of the call it is that does not pickle."""
    parts: list[tuple[str, Any]] = []
    for index, value in enumerate(args):
        parts.append((f"argument {names[index]!r}" if index < len(names) else f"argument {index + 1}", value))
    parts += [(f"argument {name!r}", value) for name, value in kwargs.items()]
    if carried is not None:
        parts += [("the function, with what it refers to,", carried.function), ("its options", carried.options)]
    for what, value in parts:
        try:
            dump(value)
        except Exception as own:
            return UnserializableArgument(what, type_name(value), str(own) or type_name(own))
    return UnserializableArgument("the call as a whole", "tuple", str(error) or type_name(error))
