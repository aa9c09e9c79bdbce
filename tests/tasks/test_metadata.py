"""What people see of a call: short, printable, and never the cause of a failure."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from psmq_tasks.metadata import describe_call, show_arguments


def test_a_call_is_described_by_task_sender_and_arguments():
    """Enough to recognise it in a listing."""
    metadata = describe_call("m:f", ("a@example.org",), {"copies": 3}, arguments=True)
    assert metadata["task"] == "m:f"
    assert metadata["args"] == "'a@example.org', copies=3"
    assert metadata["sender"].endswith(f":{os.getpid()}")


def test_arguments_can_be_kept_out():
    """They may hold what a listing should not show."""
    assert "args" not in describe_call("m:f", ("secret",), {}, arguments=False)


@given(
    st.lists(st.recursive(st.none() | st.floats() | st.integers() | st.text() | st.binary(), st.lists), max_size=5),
    st.dictionaries(st.text(min_size=1), st.text(), max_size=3),
)
def test_what_is_shown_is_short_and_printable(args, kwargs):
    """200 characters that fit into a table, metadata and UTF-8."""
    shown = show_arguments(tuple(args), kwargs)
    assert len(shown) <= 200
    assert shown.isprintable()
    shown.encode()


def test_large_arguments_are_cut_before_they_are_shown():
    """The repr of a hundred megabytes takes a second and all that memory."""
    for huge in ("x" * 10_000_000, bytes(10_000_000), 1 << 10_000_000, [0] * 1_000_000):
        assert len(show_arguments((huge,), {})) <= 200
    assert show_arguments((1 << 10_000,), {}) == "<int of 10001 bits>"


def test_many_arguments_are_cut():
    """A list of rows given with a star."""
    shown = show_arguments(tuple(range(1_000_000)), {})
    assert shown.startswith("0, 1, 2")
    assert shown.endswith("…")


def test_arguments_whose_repr_fails_or_says_nothing_are_shown_by_type():
    """A repr is the user's code."""

    class Broken:
        def __repr__(self):
            raise RuntimeError

    class Plain:
        pass

    class Multiline:
        def __repr__(self):
            return "a\nb\0c\ud800"

    assert "Broken" in show_arguments((Broken(),), {})
    assert "Plain>" in show_arguments((Plain(),), {})
    assert " at 0x" not in show_arguments((Plain(),), {})
    assert show_arguments((Multiline(),), {}) == "a�b�c�"
