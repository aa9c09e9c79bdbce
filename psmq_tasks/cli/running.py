"""How a command ends: one line about what went wrong, and the exit code. The only place that turns errors into both."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from psmq import __version__
from psmq.errors import (
    InvalidOption,
    InvalidQueueName,
    OutcomeUnknown,
    PsmqError,
    QueueNotFound,
    ServerUnreachable,
    ServerUnsuitable,
)
from psmq_tasks.errors import IdAmbiguous, IdNotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Command", "ExitWith", "Group", "ListingGroup", "OrderedGroup", "Problem"]

F = TypeVar("F", bound="Callable[..., Any]")

DONE, FAILED, USAGE, UNREACHABLE, NOT_FOUND = 0, 1, 2, 3, 4

#: the first that fits decides
_CODES: Final[tuple[tuple[type[PsmqError], int], ...]] = (
    (ServerUnreachable, UNREACHABLE),
    (OutcomeUnknown, UNREACHABLE),
    (ServerUnsuitable, UNREACHABLE),
    (InvalidOption, USAGE),
    (InvalidQueueName, USAGE),
    (IdAmbiguous, USAGE),
)


class Problem(Exception):
    """What a command cannot go on with, and the exit code."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message, code)
        self.message = message
        self.code = code


class ExitWith(Exception):  # not an error: the end of a command that has said all it has to say
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def code_of(error: PsmqError) -> int:
    """The exit code that an error of ours means."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return NOT_FOUND if isinstance(error, LookupError) else FAILED


def words_of(error: PsmqError) -> str:
    """The error in one line that names the fix, in the words of the command line."""
    if isinstance(error, QueueNotFound):
        return f"there is no queue {error.queue_name!r}: psmq queues lists those there are"
    if isinstance(error, IdNotFound):
        if error.what == "message":
            return f"{error}: one that is finished is found by its whole id, or in a queue with an event_log"
        where = {"dead letter": "dead list", "message that waits": "retries list"}.get(error.what, "peek QUEUE")
        return f"{error}: psmq {where} shows them"
    if type(error) is ServerUnreachable:
        return f"{error} (-u or PSMQ_URL names another server)"
    return str(error)


class _Ending(click.Command):
    """A command whose every end is one of ours."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: ARG002  # click's signature; embedding is what the Python API is for
        **extra: Any,
    ) -> Any:
        """Run and exit."""
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                # What a terminal cannot show must not end the command.
                stream.reconfigure(errors="backslashreplace")
        try:
            code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
            sys.stdout.flush()
            sys.exit(code if isinstance(code, int) else DONE)
        except ExitWith as end:
            sys.exit(end.code)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            sys.exit(USAGE)
        except click.UsageError as error:
            where = f" ({error.ctx.command_path} --help)" if error.ctx is not None else ""
            message = error.format_message().replace("\n\t", " ")  # click lists what may be chosen below each other
            self._say(f"{message.rstrip('.')}{where}", USAGE)
        except click.ClickException as error:
            self._say(error.format_message(), error.exit_code)
        except Problem as problem:
            self._say(problem.message, problem.code)
        except PsmqError as error:
            self._say(words_of(error), code_of(error))
        except (KeyboardInterrupt, click.Abort):
            click.echo(err=True)
            sys.exit(130)
        except BrokenPipeError:
            # Whoever read has seen enough (| head); the interpreter must not flush into it once more.
            _drop_output()
            sys.exit(FAILED)
        except OSError as error:  # a full disk below stdout, a file that cannot be read any more
            try:
                sys.stdout.flush()
            except OSError:
                _drop_output()
            self._say(str(error), FAILED)

    def _say(self, text: str, code: int) -> None:
        from psmq_tasks.cli.showing import printable

        click.echo("\n".join(map(printable, f"Error: {text}".splitlines())), err=True)
        sys.exit(code)


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Command(_Ending):
    """A command without subcommands."""


class OrderedGroup(click.Group):
    """A group that lists its commands as they were added: looking first, mending next."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """The names."""
        return list(self.commands)


class Group(_Ending, OrderedGroup):
    """A command with subcommands."""


class ListingGroup(OrderedGroup):
    """A group whose bare name lists: ``psmq retries`` is ``psmq retries list``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Puts the word in where it is left out."""
        if not args or (args[0] not in self.commands and args[0] not in ("-h", "--help") and args[0].startswith("-")):
            args = ["list", *args]
        return super().parse_args(ctx, args)


def version_option(program: str) -> Callable[[F], F]:
    """``-V``"""
    return click.version_option(__version__, "-V", "--version", prog_name=program, message="%(prog)s %(version)s")
