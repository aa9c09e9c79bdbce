"""The failure record, whole and in short."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mishaps import failure

from psmq_tasks.history import Failure


@given(st.text(max_size=40), st.text(max_size=200))
def test_in_short_it_says_what_it_says_in_full(kind, message):
    """Whatever characters the error has."""
    record = failure(message=message, kind=kind)
    whole = Failure.unpack(record)
    assert Failure.in_short(record) == (whole.outcome, f"{whole.type}: {whole.message}")


@given(st.text(min_size=50, max_size=100), st.integers(90, 300))
def test_a_record_that_was_cut_off_shows_as_much_as_there_is(message, length):
    """Also where it was cut through a character."""
    record = failure(message=message)[:length]
    _, words = Failure.in_short(record)
    assert len(words) > 5 and f"ValueError: {Failure.unpack(failure(message=message)).message}".startswith(words)


@pytest.mark.parametrize("record", [b"", b"\xff", b"plain words", b"{}", b"[1]", b'{"attempt":1,"outcome":7}'])
def test_what_is_no_record_of_ours_is_its_own_text(record):
    """Other programs may write what they like there."""
    outcome, words = Failure.in_short(record)
    whole = Failure.unpack(record)
    assert (outcome, words) == (whole.outcome, f"{whole.type}: {whole.message}")
