"""Adds a history up: what was pushed, where it is now, and what must not have happened."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from psmq import Queue
    from psmq_tasks.torture.history import Record

__all__ = ["Verdict", "check", "percentile", "places"]

_STATES: Final = ("ready", "delayed", "leased", "dead")
_PAGE: Final = 1000


@dataclass(frozen=True)
class Verdict:
    """Counts of jobs, and the keys of those that break a promise."""

    #: pushes that returned
    pushed: int
    #: jobs that ran to their end at least once, and more than once
    done: int
    twice: int
    #: two runs of one job at the same time
    overlapping: int
    dead: int
    #: ready, delayed or leased
    queued: int
    #: pushed, not done, and nowhere
    lost: list[str] = field(default_factory=list)
    #: ran or lies in the queue, though nobody pushed it; or lies in two states at once
    phantom: list[str] = field(default_factory=list)
    #: one push that was stored as several messages
    copied: list[str] = field(default_factory=list)
    #: the queue's counters do not add up to what is in it
    missing: int = 0
    #: seconds from a kill to the next start of each job that it interrupted
    recoveries: list[float] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether nothing was lost, copied or made up. Running twice is allowed: at least once is the promise."""
        return not (self.lost or self.phantom or self.copied or self.missing)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, with the figures of the recoveries in their place."""
        found = asdict(self)
        times = found.pop("recoveries")
        found |= {name: len(found[name]) for name in ("lost", "phantom", "copied")}
        return found | {
            "interrupted": len(times),
            "recovery_p50": percentile(times, 50),
            "recovery_p95": percentile(times, 95),
            "recovery_max": percentile(times, 100),
        }

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.as_dict().items())


class _Run(NamedTuple):
    start: float
    end: float | None
    pid: int


def places(queue: Queue) -> dict[str, list[str]]:
    """Message ids and the states they are in, of a queue at rest. More than one state would be a mistake of ours."""
    found: dict[str, list[str]] = defaultdict(list)
    for state in _STATES:
        after = None
        while page := queue.messages(state, limit=_PAGE, after=after, data=False):
            for message in page:
                found[message.message_id].append(state)
            after = page[-1]
    return found


def check(records: Iterable[Record], where: Mapping[str, Sequence[str]], counters: Mapping[str, int]) -> Verdict:
    """Judge a history by what is in the queue (see places) and its counters now that it is at rest."""
    tried: set[str] = set()
    ids: dict[str, set[str]] = defaultdict(set)
    pushed: dict[str, str] = {}
    runs: dict[str, list[_Run]] = defaultdict(list)
    open_runs: dict[tuple[str, int, int], float] = {}
    kills: dict[int, float] = {}
    for record in records:
        if record.kind == "try":
            tried.add(record.key)
        elif record.kind == "push":
            pushed[record.key] = record.message_id
            ids[record.key].add(record.message_id)
        elif record.kind == "start":
            ids[record.key].add(record.message_id)
            open_runs[record.key, record.pid, record.attempt] = record.time
        elif record.kind == "end":
            began = open_runs.pop((record.key, record.pid, record.attempt), record.time)
            runs[record.key].append(_Run(began, record.time, record.pid))
        elif record.kind == "kill":
            kills[int(record.key)] = record.time
    for (key, pid, _), began in open_runs.items():
        runs[key].append(_Run(began, None, pid))
    for of_key in runs.values():
        of_key.sort()

    ended = Counter({key: sum(run.end is not None for run in of_key) for key, of_key in runs.items()})
    done = {key for key, times in ended.items() if times}
    known = set().union(*ids.values()) if ids else set()
    strangers = [message_id for message_id in where if message_id not in known]
    # A push that did not return may have been stored all the same.
    unanswered = len(tried - pushed.keys() - runs.keys())
    return Verdict(
        pushed=len(pushed),
        done=len(done),
        twice=sum(times > 1 for times in ended.values()),
        overlapping=sum(_overlap(of_key) for of_key in runs.values()),
        dead=sum("dead" in states for states in where.values()),
        queued=sum("dead" not in states for states in where.values()),
        lost=sorted(key for key, message_id in pushed.items() if key not in done and message_id not in where),
        phantom=sorted(
            [key for key in runs if key not in tried]
            + strangers[unanswered:]
            + [message_id for message_id, states in where.items() if len(states) != 1]
        ),
        copied=sorted(key for key, its in ids.items() if len(its) > 1),
        missing=_balance(counters) - len(where),
        recoveries=sorted(_recoveries(runs.values(), kills)),
    )


def _balance(counters: Mapping[str, int]) -> int:
    """How many messages there must be by the queue's own books."""
    gone = ("deleted", "popped", "expired", "purged")
    return counters.get("sent", 0) - sum(counters.get(name, 0) for name in gone)


def _overlap(runs: Sequence[_Run]) -> bool:
    return any(one.end is not None and two.start < one.end for one, two in pairwise(runs))


def _recoveries(jobs: Iterable[Sequence[_Run]], kills: Mapping[int, float]) -> Iterable[float]:
    for runs in jobs:
        for run, following in pairwise(runs):
            if run.end is None and run.pid in kills and following.start > kills[run.pid]:
                yield following.start - kills[run.pid]


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The value that so many percent do not exceed; None when there is none."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100).__trunc__() - 1)]
