"""One dead letter on the screen: what was called, each attempt, the last traceback, what to do next."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import click

from psmq_tasks.cli.running import Problem
from psmq_tasks.cli.showing import Column, age, counted, draw, duration, facts, moment, paragraphs, tail

if TYPE_CHECKING:
    from psmq_tasks.history import Failure
    from psmq_tasks.inspection import DeadTask, OpenedCall

__all__ = ["BodyForm", "body_as", "show_failures", "show_letter", "why"]

#: shown by themselves, or written by psmq for others
_SHOWN = {"task", "args", "sender"}


BodyForm = Literal["text", "json", "hex"]


def body_as(found: DeadTask, form: BodyForm) -> str:
    """The data of a letter, which may be anything."""
    from psmq_tasks.inspection.records import text_of

    data = found.data or b""
    text = text_of(data)
    if form == "hex":
        return "\n".join(
            f"{at:08x}  {data[at : at + 16].hex(' '):<47}  {''.join(chr(b) if 32 <= b < 127 else '.' for b in row)}"
            for at in range(0, len(data), 16)
            for row in [data[at : at + 16]]
        )
    if form == "json":
        try:
            return json.dumps(json.loads(data), indent=2)
        except (ValueError, RecursionError):
            pass  # it says below what it is
    elif text is not None:
        return paragraphs(text)
    hint = "--body hex shows the bytes" + (", --decode the arguments" if data[:4] == b"psmq" else "")
    wanted = "JSON" if form == "json" else "text"
    raise Problem(f"its data is {counted(len(data), 'byte that is', 'bytes that are')} no {wanted}: {hint}")


def show_letter(found: DeadTask, call: OpenedCall | None = None, *, original: bool = False) -> None:
    """The whole story. ``call``: unpickled, because that was asked for; ``original``: from before it was edited."""
    told = [
        ("id", found.id),
        ("task", found.task or "none: it is no call of a task"),
        ("arguments", found.args or ("none, or not shown" if found.task else "")),
        *_decoded(call, "original" if original else "decoded"),
        ("queue", found.queue),
        ("sent", f"{moment(found.sent)}, {age(found.sent)} ago" + (f", by {found.sender}" if found.sender else "")),
        ("died", f"{moment(found.buried)}, {age(found.buried)} ago"),
        ("reason", found.reason),
        ("attempts", f"{found.attempts}" + (f" of {found.max_attempts}" if found.max_attempts else "")),
        ("priority", f"{found.priority}" if found.priority else ""),
        ("size", counted(found.size, "byte") if found.size is not None else ""),
        *((name, value) for name, value in found.metadata.items() if name not in _SHOWN),
    ]
    facts(told)
    show_failures(found.failures)
    short = tail(found.id)
    click.echo(f"\npsmq dead redrive {short} runs it again, psmq dead purge {short} deletes it.", err=True)


def show_failures(failures: tuple[Failure, ...]) -> None:
    """The attempts, and the last traceback among them."""
    if not failures:
        return
    click.echo()
    _draw_attempts(failures)
    last = next((failure for failure in reversed(failures) if failure.traceback), None)
    if last is not None:
        click.echo(f"\nTraceback of {_which(last, failures)}:")
        click.echo(paragraphs(last.traceback))


def _which(one: Failure, failures: tuple[Failure, ...]) -> str:
    """Which attempt it is; a redrive counts anew, so that several may have one number."""
    same = [failure for failure in failures if failure.attempt == one.attempt and failure.outcome != "edited"]
    return f"attempt {one.attempt}" if len(same) == 1 else f"the last attempt that is numbered {one.attempt}"


def _decoded(call: OpenedCall | None, title: str) -> list[tuple[str, str]]:
    if call is None:
        return []
    shown = call.as_dict()
    numbered = [(f"  [{at}]", text) for at, text in enumerate(shown["args"])]
    return [(title, "signed" if call.sealed.signed else "unsigned"), *numbered] + [
        (f"  {name}", text) for name, text in shown["kwargs"].items()
    ]


def _draw_attempts(failures: tuple[Failure, ...]) -> None:
    """A row for each attempt that failed, and for each change by hand; below it why it went on as it did."""
    columns = [
        Column("ATTEMPT", right=True),
        Column("STARTED"),
        Column("TOOK", right=True),
        Column("PROCESS", gives="start"),
        Column("OUTCOME", gives="end"),
        Column("THEN", gives="end"),
    ]
    days = {_instant(failure).date() for failure in failures if failure.started}
    form = "%H:%M:%S" if len(days) <= 1 else "%Y-%m-%d %H:%M:%S"
    notes, last = [], 0
    for failure in failures:
        anew = 0 < failure.attempt <= last and failure.outcome != "edited"
        notes.append("; ".join(filter(None, ["sent back, counted anew" if anew else "", why(failure)])))
        last = failure.attempt
    draw(columns, [_row(failure, form) for failure in failures], notes, whole=True)


def why(failure: Failure) -> str:
    """``wait_fixed(3) → 3 s; stop_after_attempt(5): 1 of 5; lease extended 2 times; worker host:7``; "": not told"""
    times = "once" if failure.extensions == 1 else f"{failure.extensions} times"
    parts = [
        failure.why,
        f"lease extended {times}" if failure.extensions else "",
        f"worker {failure.worker}" if failure.worker else "",
    ]
    return "; ".join(filter(None, parts))


def _instant(failure: Failure) -> datetime:
    return datetime.fromtimestamp(failure.started, UTC)


def _row(failure: Failure, form: str) -> list[str]:
    started = f"{_instant(failure):{form}}" if failure.started else "-"
    took = duration(failure.ended - failure.started) if failure.ended > failure.started > 0 else "-"
    words = f"{failure.type}: {failure.message}" if failure.type else failure.message
    outcome = words if failure.outcome == "raised" else f"{failure.outcome}: {failure.message}"
    return [f"{failure.attempt}", started, took, f"{failure.host}:{failure.pid}", outcome, failure.decision]
