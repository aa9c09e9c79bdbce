"""Work written once for threads and for asyncio: a generator yields what it wants done and is given what came of it.

So each rule stands in one place, without knowing who carries it out; what carries it out differs by an ``await``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from psmq.errors import PsmqError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

__all__ = ["adrive", "drive"]

R = TypeVar("R")
T = TypeVar("T")


def drive(steps: Generator[R, Any, T], do: Callable[[R], Any], errors: type[Exception] = PsmqError) -> T:
    """``do`` each thing that the steps yield; they get the answer, or an error of this kind. → what they return"""
    try:
        wanted = next(steps)
        while True:
            try:
                answer = do(wanted)
            except errors as error:
                wanted = steps.throw(error)
            else:
                wanted = steps.send(answer)
    except StopIteration as stop:
        found: T = stop.value
        return found


async def adrive(
    steps: Generator[R, Any, T], do: Callable[[R], Awaitable[Any]], errors: type[Exception] = PsmqError
) -> T:
    """The same where doing is awaited."""
    try:
        wanted = next(steps)
        while True:
            try:
                answer = await do(wanted)
            except errors as error:
                wanted = steps.throw(error)
            else:
                wanted = steps.send(answer)
    except StopIteration as stop:
        found: T = stop.value
        return found
