"""The worker's log: one line a record, tracebacks below it, to stderr.

Only the command sets logging up; the packages never do.
"""

from __future__ import annotations

import logging
import os
import sys
import textwrap
from typing import Final

from psmq_tasks.cli.showing import paragraphs, printable

__all__ = ["set_up_logging"]

_COLOURS: Final = {"warning": "33", "error": "31", "critical": "31;1", "debug": "2"}


class _Lines(logging.Formatter):
    """``23:45:01 warning  …``; with the date where it is not read live."""

    def __init__(self, *, live: bool, colour: bool) -> None:
        super().__init__(datefmt="%H:%M:%S" if live else "%Y-%m-%d %H:%M:%S")
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        level = record.levelname.lower()
        text = record.getMessage()
        # Our own lines quote what tasks raised and senders wrote.
        text = printable(text) if record.name.startswith("psmq_tasks") else f"{record.name}: {text}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        elif record.exc_text:
            # A task's own: indented, so that no line of it passes for one of the log.
            text += "\n" + textwrap.indent(paragraphs(record.exc_text), "  ", lambda _: True)
        shown = f"{level:<7}"
        if self._colour and level in _COLOURS:
            shown = f"\x1b[{_COLOURS[level]}m{shown}\x1b[0m"
        return f"{self.formatTime(record, self.datefmt)} {shown} {text}"


def set_up_logging(level: str) -> None:
    """Everything from this level on, from tasks and libraries too, goes to stderr."""
    live = sys.stderr.isatty()
    handler = logging.StreamHandler()
    colour = live and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    handler.setFormatter(_Lines(live=live, colour=colour))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
