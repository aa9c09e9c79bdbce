"""Named places where a test kills this process: ``PSMQ_KILL_AT=slot.started:3`` ends it there at the third pass.

``name:count:file``: only the process that manages to remove the file dies, so that of many, and of those that replace
them, it is one. Where the variable is not set, as everywhere outside of such tests, passing does nothing.
"""

from __future__ import annotations

import os
import signal
from itertools import count as counting
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["passing"]


def _do_nothing(_name: str) -> None:
    pass


def _killer(setting: str) -> Callable[[str], None]:
    wanted, times, *file = setting.split(":", 2)
    left = int(times)
    passes = counting(1)  # next() of it is atomic: slots are threads

    def passing(name: str) -> None:
        if name != wanted or next(passes) < left:
            return
        try:
            for path in file:
                os.unlink(path)  # noqa: PTH108  # pathlib takes its time to import
        except FileNotFoundError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

    return passing


passing: Callable[[str], None] = _killer(os.environ["PSMQ_KILL_AT"]) if "PSMQ_KILL_AT" in os.environ else _do_nothing
