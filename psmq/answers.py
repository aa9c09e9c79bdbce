"""How answers are parsed, and which commands need care when nobody reads them: for both kinds of connections."""

from __future__ import annotations

from typing import Any, TypeGuard

from psmq.commands import Command, Plain
from psmq.dialogue import Refused

__all__ = ["is_get", "is_push", "parser"]


def parser() -> Any:
    """Takes bytes, gives answers: False while there is none, Refused for an error."""
    from hiredis import Reader

    return Reader(replyError=_refused)  # type: ignore[arg-type]  # whatever it makes of one is the answer


def _refused(text: str) -> Refused:
    """An error that the server answered; its first word is the code."""
    code, _, detail = text.partition(" ")
    return Refused(code, detail)


def is_push(command: Command[Any] | Plain[Any]) -> TypeGuard[Command[list[str]]]:
    """Whether it may go together with others."""
    return isinstance(command, Command) and command.function == "push"


def is_get(command: Command[Any] | Plain[Any]) -> TypeGuard[Command[Any]]:
    """Whether it may have been given messages, which go back if nobody reads the answer."""
    return isinstance(command, Command) and command.function == "exchange" and command.args[0] != 0
