"""Options that many commands share."""

from __future__ import annotations

import functools
import math
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from click.core import ParameterSource

from psmq import server
from psmq.endpoint import KNOWN
from psmq_tasks.cli.completing import queue_names
from psmq_tasks.cli.place import NAMESPACE, Place
from psmq_tasks.cli.running import FAILED, USAGE, ExitWith, Problem

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "confirm",
    "dry_run_option",
    "json_option",
    "place_options",
    "queue_option",
    "yes_option",
]

F = TypeVar("F", bound="Callable[..., Any]")

if TYPE_CHECKING:
    _Converter = click.ParamType[float]
else:
    _Converter = click.ParamType  # older click has it without a parameter


def place_options(command: F) -> F:
    """``--url --db-dir --namespace``, handed to the command as ``place``."""

    @click.option(
        "-u", "--url", metavar="URL", envvar="PSMQ_URL", show_envvar=True,
        help=f"Server: {KNOWN}. Without it: this user's embedded server.",
    )  # fmt: skip
    @click.option(
        "--db-dir", metavar="DIR", envvar="PSMQ_DB_DIR", show_envvar=True, type=click.Path(path_type=Path),
        help="Data folder of an embedded server.",
    )  # fmt: skip
    @click.option(
        "--namespace", metavar="NAME", envvar="PSMQ_NAMESPACE", show_envvar=True, default=NAMESPACE, show_default=True,
        help="First part of every key.",
    )  # fmt: skip
    @functools.wraps(command)
    def with_place(*args: Any, url: str | None, db_dir: Path | None, namespace: str, **options: Any) -> Any:
        context = click.get_current_context()
        sources = {name: context.get_parameter_source(name) for name in ("url", "db_dir")}
        typed = {name for name, source in sources.items() if source is ParameterSource.COMMANDLINE}
        if len(typed) == 2:
            raise click.UsageError("--url and --db-dir both name a server: give one", context)
        if "db_dir" in typed:  # what is typed wins over the environment
            url = None
        named_by = "PSMQ_URL" if sources["url"] is ParameterSource.ENVIRONMENT else "url"
        place = Place(url or None, db_dir or server.default_db_dir(), namespace, named_by)
        return command(*args, place=place, **options)

    return with_place  # type: ignore[return-value]  # click wraps it anyway


json_option: Final = click.option("--json", "as_json", is_flag=True, help="One JSON document, for programs.")
yes_option: Final = click.option("-y", "--yes", is_flag=True, help="Do not ask.")
dry_run_option: Final = click.option("--dry-run", is_flag=True, help="Only say how many it would be.")
queue_option: Final = click.option("-q", "--queue", metavar="NAME", help="Only this queue.", shell_complete=queue_names)


def confirm(question: str) -> None:
    """Ask before what cannot be undone, if -y did not answer; where nobody can be asked, nothing is done."""
    if not sys.stdin.isatty():
        raise Problem(f"{question} Nothing was done: there is no terminal to ask on, and no -y", USAGE)
    if not click.confirm(question, err=True):
        click.echo("Nothing was done.", err=True)
        raise ExitWith(FAILED)


class Number(_Converter):
    """A whole number in a range."""

    name = "number"
    kind = "a whole number"

    def __init__(self, least: float, most: float) -> None:
        self.least = least
        self.most = most

    def read(self, text: str) -> float:
        """Or ValueError."""
        return int(text)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Or say what it must be."""
        try:
            number = self.read(value)
        except ValueError:
            number = math.nan
        if not self.least <= number <= self.most:
            self.fail(f"must be {self.kind} from {self.least:.12g} to {self.most:.12g}, not {value!r}", param, ctx)
        return number


_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def span(text: str) -> float:
    """``90 5m 2h 1d`` in seconds, or ValueError."""
    number, unit = (text[:-1], _UNITS[text[-1]]) if text[-1:] in _UNITS else (text, 1)
    seconds = float(number) * unit
    if not 0 <= seconds <= 3.2e9:
        raise ValueError(text)
    return seconds


class Moment(_Converter):
    """A time: ISO 8601 (without a zone: local), or how long ago, like ``90s 5m 2h 1d``."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """An aware datetime."""
        if isinstance(value, datetime):
            return value
        try:
            return datetime.now(UTC) - timedelta(seconds=span(value))
        except ValueError:
            pass
        try:
            return datetime.fromisoformat(value).astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(f"must be how long ago (5m, 2h, 1d) or a time like 2026-11-23T18:00, not {value!r}", param, ctx)


class Span(_Converter):
    """A duration like ``90 5m 2h 1d``."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        try:
            return span(value)
        except (ValueError, TypeError):
            self.fail(f"must be a duration like 90s, 5m, 2h or 1d, not {value!r}", param, ctx)


class Rate(Number):
    """How many in a second."""

    name = "rate"
    kind = "a number"

    def __init__(self) -> None:
        super().__init__(0, 10**6)

    def read(self, text: str) -> float:
        """Or ValueError: nothing ever happens at a rate of 0."""
        return float(text) or math.nan


class Seconds(Number):
    """Seconds in a range; parts of one count."""

    name = "seconds"
    kind = "seconds"

    def read(self, text: str) -> float:
        """Or ValueError."""
        return float(text)
