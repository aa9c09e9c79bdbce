"""Rules about queues: ``oldest_age > 60``, ``mail*: dead_rate > 5/min``, ``no workers``, ``paused for 5m``.

A rule holds for each queue that its pattern fits (all, without one). What is read is plain data, so that whoever
samples queues (``psmq check``, ``psmq sentinel``, the sentinel beside an embedded server) decides alike.
"""

from __future__ import annotations

import contextlib
import fnmatch
import re
import tomllib
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from psmq.errors import InvalidOption, QueueNotFound
from psmq.findings import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from psmq.manager import QueueManager
    from psmq.message import QueueInfo
    from psmq.stats import QueueStats

__all__ = ["Alert", "Rule", "Sample", "Watch", "firing", "read_rules_file", "rules_of", "take_samples"]

_NUMBER: Final = r"(\d+(?:\.\d+)?)"
_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_RULE: Final = re.compile(
    rf"(?:(?P<queue>[A-Za-z0-9._*?\[\]!-]+)\s*:\s*)?"
    rf"(?:(?P<metric>[a-z_0-9]+)\s*>\s*(?P<limit>{_NUMBER}\s*[smhd]?)\s*(?P<per>/min)?"
    rf"|(?P<none>no\s+workers|unserved)|paused\s+for\s+(?P<paused>{_NUMBER}\s*[smhd]?))"
)


class Sample(NamedTuple):
    """A queue at one moment, and what it did in the last minute or two."""

    info: QueueInfo
    stats: QueueStats


def take_samples(manager: QueueManager) -> list[Sample]:
    """Every queue of a server."""
    samples = []
    for name in manager.list_queues():
        with contextlib.suppress(QueueNotFound):  # deleted meanwhile
            samples.append(Sample(manager.queue_info(name), manager.find_queue(name).stats(1)))
    return samples


def _rate(what: str) -> Callable[[Sample], float]:
    return lambda sample: sample.stats.rate(what) * 60


#: name → how it is measured, and whether it is in seconds
_METRICS: Final[dict[str, tuple[Callable[[Sample], float | None], str]]] = {
    "oldest_age": (lambda sample: None if sample.info.paused else sample.info.oldest_ready, "s"),
    "ready": (lambda sample: sample.info.ready, ""),
    "delayed": (lambda sample: sample.info.delayed, ""),
    "leased": (lambda sample: sample.info.leased, ""),
    "dead": (lambda sample: sample.info.dead, ""),
    "dead_rate": (_rate("buried"), "/min"),
    "failed_rate": (_rate("failed"), "/min"),
    "push_rate": (_rate("pushed"), "/min"),
    "wait_p95": (lambda sample: sample.stats.wait.percentile(95), "s"),
    "run_p95": (lambda sample: sample.stats.run.percentile(95), "s"),
}


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. ``metric``: one of those above, ``workers``, ``unserved`` or ``paused``; ``limit`` in its unit."""

    text: str
    queue: str
    metric: str
    limit: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Rule:
        """InvalidOption with what can be written instead."""
        found = _RULE.fullmatch(text.strip()) if isinstance(text, str) else None
        if found is None:
            raise InvalidOption(
                "rule", f"{text!r} cannot be read: write oldest_age > 60, mail*: dead_rate > 5/min, no workers, "
                "unserved or paused for 5m"
            )  # fmt: skip
        queue = found["queue"] or "*"
        words = " ".join(text.split())
        if found["none"]:
            return cls(words, queue, "unserved" if found["none"] == "unserved" else "workers")
        if found["paused"]:
            return cls(words, queue, "paused", _value(found["paused"]))
        metric, limit = found["metric"], found["limit"]
        if metric not in _METRICS:
            raise InvalidOption("rule", f"{text!r}: {metric} is not among {', '.join(_METRICS)}")
        unit = _METRICS[metric][1]
        if bool(found["per"]) != (unit == "/min"):
            hint = f"{metric} > {limit}/min" if unit == "/min" else f"{metric} > {limit}"
            raise InvalidOption("rule", f"{text!r}: write {hint}")
        if unit != "s" and limit[-1].isalpha():
            raise InvalidOption("rule", f"{text!r}: {metric} is a number, not a time")
        return cls(words, queue, metric, _value(limit))

    def fits(self, queue_name: str) -> bool:
        """Whether it is about this queue."""
        return fnmatch.fnmatchcase(queue_name, self.queue)

    def look(self, sample: Sample) -> Alert:
        """What it says of a queue now."""
        info = sample.info
        value: float | None
        if self.metric == "paused":
            value = _paused_for(info)
            fires = value is not None and value > self.limit
            message = f"paused for {value or 0:.0f} s"
        elif self.metric in ("workers", "unserved"):
            value = info.consumers
            fires = info.consumers == 0 and not info.paused and (self.metric == "workers" or info.ready > 0)
            consumers, messages = counted(info.consumers, "consumer"), counted(info.ready, "message")
            message = f"{consumers} within the last minute, {messages} ready"
        else:
            measure, unit = _METRICS[self.metric]
            value = measure(sample)
            fires = value is not None and value > self.limit
            shown = "nothing" if value is None else f"{value:.4g}{' s' if unit == 's' else unit}"
            message = f"{self.metric} is {shown}"
        return Alert(info.name, self.text, fires, value, message)


def _value(text: str) -> float:
    number, unit = re.fullmatch(rf"{_NUMBER}\s*([smhd]?)", text).groups()  # type: ignore[union-attr]  # it matched before
    return float(number) * _UNITS[unit]


def _paused_for(info: QueueInfo) -> float | None:
    since = info.paused_since
    return None if since is None else max((datetime.now(UTC) - since).total_seconds(), 0.0)


@dataclass(frozen=True, slots=True)
class Alert:
    """What a rule says of a queue. ``value``: what was measured, in the rule's unit."""

    queue: str
    rule: str
    firing: bool
    value: float | None
    message: str

    def as_dict(self) -> dict[str, Any]:
        """For ``--json`` and for commands."""
        return asdict(self)

    def __str__(self) -> str:
        return f"queue {self.queue!r}: {'ALERT' if self.firing else 'fine again'} {self.rule!r}: {self.message}"


def firing(rules: Sequence[Rule], samples: Iterable[Sample]) -> list[Alert]:
    """All that is wrong now."""
    looks = (rule.look(sample) for sample in samples for rule in rules if rule.fits(sample.info.name))
    return [alert for alert in looks if alert.firing]


class Watch:
    """Remembers what was wrong, so that each change is said once."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self._wrong: set[tuple[str, str]] = set()

    def changes(self, samples: Iterable[Sample]) -> list[Alert]:
        """What began and what ended since the last look; a queue that is gone is forgotten in silence."""
        said, wrong = [], set()
        for sample in samples:
            for rule in self._rules:
                if not rule.fits(sample.info.name):
                    continue
                alert, key = rule.look(sample), (sample.info.name, rule.text)
                if alert.firing:
                    wrong.add(key)
                if alert.firing != (key in self._wrong):
                    said.append(alert)
        self._wrong = wrong
        return said


def rules_of(texts: Iterable[str]) -> list[Rule]:
    """Rules as they are typed or in PSMQ_RULES: one or more in a text, with ``;`` or line ends between."""
    return [Rule.parse(part) for text in texts for part in re.split(r"[;\n]", text) if part.strip()]


class RulesFile(NamedTuple):
    """What a TOML file of rules says."""

    rules: list[Rule]
    command: str | None


def read_rules_file(path: Path) -> RulesFile:
    """``rules = ["…", …]`` and, if need be, ``command = "…"``; InvalidOption tells what is wrong with it."""
    try:
        said = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InvalidOption("rules file", f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InvalidOption("rules file", f"{path} is not TOML: {error}") from None
    rules, command = said.pop("rules", []), said.pop("command", None)
    if said:
        raise InvalidOption("rules file", f"{path}: {min(said)} is not among rules, command")
    if not isinstance(rules, list) or not (command is None or isinstance(command, str)):
        raise InvalidOption("rules file", f'{path}: write rules = ["oldest_age > 60"] and command = "…"')
    return RulesFile([Rule.parse(text) for text in rules], command)
