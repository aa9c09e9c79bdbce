"""Signed envelopes: what is good for one place is good for no other, and no byte of it can be changed."""

from __future__ import annotations

import hmac
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psmq.errors import InvalidOption
from psmq_tasks import envelope
from psmq_tasks.envelope import Keyring
from psmq_tasks.errors import ForgedPayload, MalformedPayload, NewerPayload, PayloadError, UnsignedPayload

NEW, OLD, OTHER = (secrets.token_bytes(32) for _ in range(3))
PLACE = ("task", "psmq", "mail", "0123456789a")


def test_what_was_sealed_opens_in_its_place():
    """The content comes back, known to be signed."""
    ring = Keyring([NEW])
    assert ring.open(*PLACE, ring.seal(*PLACE, b"content")) == (b"content", True)


@pytest.mark.parametrize("position, other", list(enumerate(["result", "psmq2", "mails", "0123456789b"])))
def test_an_envelope_opens_nowhere_else(position, other):
    """Not as a result, not in another namespace or queue, not for another message."""
    ring = Keyring([NEW])
    place = list(PLACE)
    place[position] = other
    with pytest.raises(ForgedPayload):
        ring.open(*place, ring.seal(*PLACE, b"content"))


def test_fields_cannot_flow_into_each_other():
    """Namespace "ab" queue "c" is not namespace "a" queue "bc": the lengths are signed too."""
    ring = Keyring([NEW])
    data = ring.seal("task", "ab", "c", "0", b"content")
    with pytest.raises(ForgedPayload):
        ring.open("task", "a", "bc", "0", data)
    with pytest.raises(ForgedPayload):
        ring.open("task", "ab", "c", "", data)


def test_keys_rotate():
    """The first signs, all verify; once the old one is gone, so are its messages."""
    old, both, new = Keyring([OLD]), Keyring([NEW, OLD]), Keyring([NEW])
    assert both.open(*PLACE, old.seal(*PLACE, b"x"))[1]
    assert new.open(*PLACE, both.seal(*PLACE, b"x"))[1]
    with pytest.raises(ForgedPayload):
        new.open(*PLACE, old.seal(*PLACE, b"x"))


def test_keys_are_read_from_text_as_the_environment_has_them():
    """``PSMQ_SECRET=new,old``, with what spaces there are."""
    text = f" {NEW.hex()} ,{OLD.hex()},"
    ring = Keyring.from_text(text)
    assert len(ring) == 2
    assert ring.open(*PLACE, Keyring([OLD.hex().encode()]).seal(*PLACE, b"x"))[1]


def test_a_key_that_can_be_guessed_is_refused():
    """Whoever has one message can try keys offline. The key itself is not in the words."""
    with pytest.raises(InvalidOption, match="at least 16 bytes") as caught:
        Keyring.from_text("hunter2")
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(Keyring.from_text("hunter2" * 5))


def test_without_a_key_nothing_is_sealed_unless_that_is_allowed():
    """An empty keyring is no licence."""
    with pytest.raises(UnsignedPayload):
        Keyring([]).seal(*PLACE, b"x")
    data = Keyring([], allow_unsigned=True).seal(*PLACE, b"x")
    assert Keyring([NEW]).open(*PLACE, data) == (b"x", False)


def test_a_signature_that_is_there_must_fit_even_where_none_is_needed():
    """``allow_unsigned`` takes what is unsigned, not what is signed wrongly."""
    for ring in (Keyring([], allow_unsigned=True), Keyring([NEW], allow_unsigned=True)):
        with pytest.raises(ForgedPayload):
            ring.open(*PLACE, Keyring([OTHER]).seal(*PLACE, b"x"))


@pytest.fixture
def newer(monkeypatch):
    """Seals as the next version will: newer(ring, content)."""

    def seal(ring, content=b"content"):
        with monkeypatch.context() as patch:
            patch.setattr(envelope, "VERSION", 2)
            patch.setattr(envelope, "SIGNED", b"psmq\x02\x01")
            patch.setattr(envelope, "UNSIGNED", b"psmq\x02\x00")
            return ring.seal(*PLACE, content)

    return seal


def test_a_newer_envelope_is_verified_and_left_to_those_who_can_read_it(newer):
    """The layout outside of the content is the same in all versions: our key vouches for it, whatever it says."""
    ring = Keyring([NEW])
    with pytest.raises(NewerPayload) as caught:
        Keyring([OTHER, NEW]).open(*PLACE, newer(ring))
    assert (caught.value.version, caught.value.known, caught.value.hand_back) == (2, 1, True)


def test_who_has_no_key_cannot_claim_a_newer_version(newer):
    """Forged, copied, unsigned, or signed in a way that nobody can verify: buried at once, not handed round for a day."""
    ring = Keyring([NEW])
    original = newer(ring)
    ours = bytearray(ring.seal(*PLACE, b"content"))
    ours[4] = 2
    for forged in (
        bytes(ours),
        newer(Keyring([OTHER])),
        original + b"x",
        original[:20],
        b"psmq\x09\x01",
        b"psmq\xff\x01x",
    ):
        with pytest.raises(ForgedPayload):
            ring.open(*PLACE, forged)
    with pytest.raises(ForgedPayload):
        ring.open("result", *PLACE[1:], original)
    with pytest.raises(UnsignedPayload):
        ring.open(*PLACE, newer(Keyring([], allow_unsigned=True)))
    with pytest.raises(MalformedPayload, match="cannot verify"):
        ring.open(*PLACE, b"psmq\x02\x02" + original[6:])


def test_an_unsigned_newer_envelope_is_handed_back_where_unsigned_ones_are_taken(newer):
    """Signed wrongly it is still a forgery."""
    ring = Keyring([], allow_unsigned=True)
    with pytest.raises(NewerPayload):
        ring.open(*PLACE, newer(ring))
    with pytest.raises(ForgedPayload):
        ring.open(*PLACE, newer(Keyring([NEW])))


@pytest.mark.parametrize("data", [b"", b"psmq", b"psmq\x01", b"psmq\x01\x07rest", b"psmq\x00\x01rest", b"\x80\x05N."])
def test_what_is_no_envelope_is_malformed(data):
    """Garbage has its own name, and shows how it begins."""
    with pytest.raises(MalformedPayload):
        Keyring([NEW], allow_unsigned=True).open(*PLACE, data)


@given(st.data())
def test_no_change_of_a_single_byte_goes_unnoticed(data):
    """Replaced, removed, added or swapped: anything but the original is refused."""
    ring = Keyring([NEW])
    original = ring.seal(*PLACE, b"some content of a call")
    at = data.draw(st.integers(0, len(original) - 1))
    new = data.draw(st.binary(max_size=3))
    removed = data.draw(st.integers(0, 3))
    changed = original[:at] + new + original[at + removed :]
    try:
        content, signed = ring.open(*PLACE, changed)
    except PayloadError:
        return
    assert (content, signed) == (b"some content of a call", True) if changed == original else not signed


@given(key=st.binary(min_size=16, max_size=150), content=st.binary(max_size=300))
def test_a_signature_is_the_hmac_of_the_standard_library(key, content):
    """RFC 2104 with SHA-256, over the place and the content: what a sender without psmq would compute."""
    sealed = Keyring([key]).seal(*PLACE, content)
    words = (b"psmq 1 task", *(word.encode() for word in PLACE[1:]))
    signed = b"".join(len(word).to_bytes(2, "little") + word for word in words) + content
    assert sealed[6:38] == hmac.digest(key, signed, "sha256")
