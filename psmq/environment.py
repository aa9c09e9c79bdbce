"""Switches in the environment, read in one way."""

from __future__ import annotations

import os
from typing import Final

from psmq.errors import InvalidOption

__all__ = ["is_on", "is_yes"]

_YES: Final = ("1", "yes", "true", "on")
_NO: Final = ("", "0", "no", "false", "off")


def is_yes(name: str, text: str) -> bool:
    """What a switch of this name says; InvalidOption for what is neither yes nor no: it may guard something."""
    word = text.strip().lower()
    if word not in _YES and word not in _NO:
        raise InvalidOption(name, f"must be 1 or 0, not {text!r:.40}")
    return word in _YES


def is_on(name: str) -> bool:
    """Whether this variable is set to yes; it is off unless set."""
    return is_yes(name, os.environ.get(name, ""))
