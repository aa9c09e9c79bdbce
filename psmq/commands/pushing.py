"""The way in: messages that are pushed."""

from __future__ import annotations

import binascii
import os
from collections.abc import Mapping  # noqa: TC003  # typing.get_type_hints() looks here
from datetime import timedelta  # noqa: TC003  # typing.get_type_hints() looks here
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from psmq import errors
from psmq.commands.request import Address, Command, as_bytes, texts
from psmq.config import integer, milliseconds
from psmq.message import pack_metadata

if TYPE_CHECKING:
    from collections.abc import Sequence


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
    return Command("push", address, args, texts)


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
