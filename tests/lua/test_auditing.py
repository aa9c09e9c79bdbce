"""auditing.lua: the second count, a page at a time. What it finds is tested with ``psmq doctor --audit``."""

from __future__ import annotations


def test_totals_are_of_one_moment(raw):
    """Where messages are and how they came and went, by name."""
    for _ in range(3):
        raw.push()
    raw.get()
    reply = raw.call("audit", "totals", "0")
    found = dict(zip(reply[1::2], reply[2::2], strict=True))
    assert (found[b"messages"], found[b"ready"], found[b"leased"], found[b"sent"]) == (3, 2, 1, 3)


def test_a_walk_ends_and_finds_each_stranger(raw):
    """More than a page of them, in whatever part."""
    raw.server.zadd(f"{raw.base}:ready", {f"stranger-{number}": number for number in range(700)})
    found, cursor = set(), b"0"
    for _ in range(100):
        cursor, *words = raw.call("audit", "ready", cursor)
        assert set(words[::2]) <= {b"orphan"}
        found |= set(words[1::2])
        if cursor == b"0":
            break
    assert len(found) == 700


def test_what_cannot_be_read_is_refused(raw):
    """Unknown parts and cursors."""
    for words in (("clients", "0"), ("", "0"), ("messages", ""), ("messages", "x"), ("messages", "-1"), ("state",)):
        with raw.refused("INVALID_OPTION"):
            raw.call("audit", *words)
