"""Signed envelopes: who may have written these bytes, and for which place.

An envelope is verified as one block before anything in it is read::

    psmq  version  signing  signature   content (see payload.py), all of it signed
    4     1        1        32 or 0

The signature also covers, length-prefixed, what the envelope is for: its version, task or result, namespace, queue, and
the random part of the message's id. A body copied to another queue, another message, or from a result to a task, is a
forgery.

This outer layout, and what is signed, stay the same in all versions; a new version changes the content only. So an
older psmq verifies a newer envelope that it cannot read, and hands back what its own key vouches for and nothing else:
whoever has no key cannot make a message circle by claiming a version of the future. A new way of signing, 2 and up,
cannot be verified by those who do not know it: they bury it, so it is taken into use when all workers know it.
"""

from __future__ import annotations

import hashlib
import hmac
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from psmq.errors import InvalidOption
from psmq_tasks.errors import ForgedPayload, MalformedPayload, NewerPayload, UnsignedPayload

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Context", "Keyring"]

Context = Literal["task", "result", "item"]

MAGIC: Final = b"psmq"
#: envelopes of a higher version, if our key signed them, are handed back to workers that know it
VERSION: Final = 1
UNSIGNED: Final = MAGIC + bytes((VERSION, 0))
SIGNED: Final = MAGIC + bytes((VERSION, 1))
SIGNATURE_LENGTH: Final = 32
#: bytes; the key of a shorter one can be guessed offline from one message
LEAST_KEY: Final = 16
#: bytes that SHA-256 takes at a time
_BLOCK: Final = 64


class _Key(NamedTuple):
    """HMAC-SHA256 (RFC 2104) by its definition: H(key ^ opad, H(key ^ ipad, text)), with both hashes begun.

    Copied for each signature: 1.1 µs, where a copy of hmac's own object takes 1.9, and hmac.digest(), which gives the
    GIL away besides, longer still.
    """

    inner: hashlib._Hash
    outer: hashlib._Hash

    @classmethod
    def of(cls, key: bytes) -> _Key:
        """A key of any length."""
        padded = (key if len(key) <= _BLOCK else hashlib.sha256(key).digest()).ljust(_BLOCK, b"\0")
        return cls(*(hashlib.sha256(bytes(byte ^ pad for byte in padded)) for pad in (0x36, 0x5C)))

    def sign(self, signed: bytes) -> bytes:
        """Its 32 bytes."""
        inner = self.inner.copy()
        inner.update(signed)
        outer = self.outer.copy()
        outer.update(inner.digest())
        return outer.digest()


class Keyring:
    """The keys of one app: the first signs, all verify, so that keys can be exchanged while messages wait."""

    __slots__ = ("_keys", "allow_unsigned")
    _keys: tuple[_Key, ...]

    def __init__(self, keys: Sequence[bytes], *, allow_unsigned: bool = False) -> None:
        for key in keys:
            if len(key) < LEAST_KEY:
                raise InvalidOption("secret", f"must be at least {LEAST_KEY} bytes; one of yours has {len(key)}")
        self._keys = tuple(_Key.of(key) for key in keys)
        self.allow_unsigned = allow_unsigned

    @classmethod
    def from_text(cls, text: str, *, allow_unsigned: bool = False) -> Keyring:
        """``"new,old"``, as in PSMQ_SECRET."""
        return cls([key.strip().encode() for key in text.split(",") if key.strip()], allow_unsigned=allow_unsigned)

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"<Keyring of {len(self._keys)}{', unsigned allowed' if self.allow_unsigned else ''}>"

    def seal(self, context: Context, namespace: str, queue: str, random: str, content: bytes) -> bytes:
        """The content in an envelope that is good for this one place."""
        if not self._keys:
            if not self.allow_unsigned:
                raise UnsignedPayload("there is no key to sign with")
            return UNSIGNED + content
        place = _place(VERSION, context, namespace, queue, random)
        return SIGNED + self._keys[0].sign(place + content) + content

    def open(self, context: Context, namespace: str, queue: str, random: str, data: bytes) -> tuple[bytes, bool]:
        """The content and whether it is signed, or a PayloadError."""
        head = data[:6]
        if head == SIGNED:
            return self._verified(_place(VERSION, context, namespace, queue, random), data), True
        if head == UNSIGNED:
            return data[6:], False
        if head[:4] != MAGIC or len(head) < 6:
            raise MalformedPayload(f"not an envelope of psmq_tasks: it begins with {bytes(data[:16])!r}")
        version, signing = head[4:]
        if version <= VERSION:
            raise MalformedPayload(
                f"an envelope of version {version}, signed in way {signing}, was never written by psmq"
            )
        if signing > 1:
            raise MalformedPayload(f"an envelope of version {version}, signed in way {signing}, which we cannot verify")
        if signing:
            self._verified(_place(version, context, namespace, queue, random), data)
        elif not self.allow_unsigned:
            raise UnsignedPayload
        raise NewerPayload(version, VERSION)

    def _verified(self, place: bytes, data: bytes) -> bytes:
        signature, content = data[6 : 6 + SIGNATURE_LENGTH], data[6 + SIGNATURE_LENGTH :]
        signed = place + content
        for key in self._keys:
            if hmac.compare_digest(key.sign(signed), signature):
                return content
        raise ForgedPayload

    def moved(self, context: Context, namespace: str, queue: str, to: str, random: str, data: bytes) -> bytes:
        """An envelope made for one queue, made for another: verified, signed anew. What is not signed stays as it is.

        ForgedPayload when it was not made with one of these keys for that queue; NewerPayload.
        """
        head = data[:6]
        if head[:4] != MAGIC or len(head) < 6 or head == UNSIGNED:
            return data
        content, _ = self.open(context, namespace, queue, random, data)
        return self.seal(context, namespace, to, random, content)


def _place(version: int, context: str, namespace: str, queue: str, random: str) -> bytes:
    return _prefix(version, context, namespace, queue) + len(random).to_bytes(2, "little") + random.encode()


@lru_cache(maxsize=1024)
def _prefix(version: int, context: str, namespace: str, queue: str) -> bytes:
    words = [f"psmq {version} {context}".encode(), namespace.encode(), queue.encode()]
    return b"".join(len(word).to_bytes(2, "little") + word for word in words)
