"""``python -m psmq.sentinel DIR``: keeps the embedded server of a folder and looks at its queues now and then.

Not tied to whoever started it. Ends, with the server, by TERM or INT, or when no client has been there for
PSMQ_SERVER_LINGER seconds. Its first line on stdout is for its starter: ``{"ready": socket}``, or
``{"error": class, "message": text}``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from psmq import server_process
from psmq.data_folder import DataFolder
from psmq.errors import PsmqError, ServerUnreachable, ServerUnsuitable
from psmq.findings import counted
from psmq.rules import Alert, Rule, Watch, rules_of, take_samples
from psmq.sentinel_log import log
from psmq.server import DURABILITIES, linger
from psmq.server_keeper import Keeper, Stopping

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from psmq.message import QueueInfo

#: between two looks at the queues
SAMPLE_INTERVAL = 5.0

#: the oldest ready message of a queue may wait this long before it is worth a line
STALE_AFTER = 60.0

#: seconds that a command which is told of a change may take
COMMAND_TIME = 30.0


# ---- looking at the queues -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Notice:
    """What was last said about a queue."""

    dead: int = 0
    stale: bool = False
    unserved: bool = False


def notices(previous: Mapping[str, Notice], infos: Iterable[QueueInfo]) -> tuple[dict[str, Notice], list[str]]:
    """What to remember and what to say now, given what was remembered: each change is said once."""
    state: dict[str, Notice] = {}
    lines: list[str] = []
    for info in infos:
        before = previous.get(info.name, Notice())
        now = Notice(
            dead=info.dead,
            stale=(info.oldest_ready or 0.0) > STALE_AFTER and not info.paused,
            unserved=info.ready > 0 and info.consumers == 0 and not info.paused,
        )
        state[info.name] = now
        lines.extend(f"queue {info.name!r}: {text}" for text in _changes(before, now, info))
    return state, lines


def _changes(before: Notice, now: Notice, info: QueueInfo) -> Iterable[str]:
    if now.dead > before.dead:
        more = now.dead - before.dead
        yield f"{counted(more, 'more dead letter')}, {now.dead} in all; psmq dead list --queue {info.name}"
    if now.stale and not before.stale:
        yield (
            f"the oldest of {counted(info.ready, 'ready message')} waits for {info.oldest_ready or 0.0:.0f} s, "
            f"with {counted(info.consumers, 'consumer')}"
        )
    if now.unserved and not before.unserved:
        verb, them = ("waits", "it") if info.ready == 1 else ("wait", "them")
        yield f"{counted(info.ready, 'message')} {verb} and nobody asks for {them}; start a psmq-worker"
    if before.stale and not now.stale:
        yield "no message waits for long any more"
    if before.unserved and not now.unserved:
        yield "it is served again"


def tell(alert: Alert, command: str | None) -> str | None:
    """Hand a change to a command, as JSON on its stdin. → what went wrong with that"""
    if command is None:
        return None
    try:
        done = subprocess.run(  # noqa: S602  # the user's own line, like the shell's
            command, shell=True, input=json.dumps(alert.as_dict()).encode(), timeout=COMMAND_TIME, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command}: {error}"
    return f"{command}: exit status {done.returncode}" if done.returncode else None


class Sampler(threading.Thread):
    """Looks at all queues now and then. A thread, so that a queue that cannot be read never keeps a server down."""

    def __init__(self, folder: DataFolder, interval: float, rules: Sequence[Rule] = ()) -> None:
        super().__init__(name="psmq-sampler", daemon=True)
        self._folder = folder
        self._interval = interval
        self._said: dict[str, Notice] = {}
        self._trouble = ""
        self._watch = Watch(rules)

    def run(self) -> None:
        while True:
            time.sleep(self._interval)
            try:
                self._sample()
            except Exception as error:
                self._complain(f"{type(error).__name__}: {error}")
            else:
                self._trouble = ""

    def _sample(self) -> None:
        # redis-py is behind it: a server that lives for a moment never pays that
        from urllib.parse import quote

        from psmq.manager import QueueManager

        # the name: or the sentinel would take us for a client for whom the server has to stay
        url = f"unix://{quote(self._folder.record().socket)}?client_name={server_process.SENTINEL_NAME}"
        with QueueManager(url=url, timeout=5.0) as manager:
            samples = take_samples(manager)
        self._said, lines = notices(self._said, [sample.info for sample in samples])
        lines += map(str, self._watch.changes(samples))
        for line in lines:
            log(line)

    def _complain(self, trouble: str) -> None:
        # during a restart every sample fails in the same way
        if trouble != self._trouble:
            self._trouble = trouble
            log(f"the queues cannot be looked at: {trouble}")


# ---- the process ---------------------------------------------------------------------------------------------------


def _report(**word: str) -> None:
    """Say the first line to our starter, if it still listens, and let it go."""
    with contextlib.suppress(OSError):
        os.write(1, json.dumps(word).encode() + b"\n")


def _detach() -> None:
    """Go on as a process that is nobody's child and no session's leader; the first one ends."""
    if os.fork():
        os._exit(0)


def _let_starter_go() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def sample_interval() -> float:
    """PSMQ_SAMPLE_INTERVAL in seconds; what cannot be read is told of, and keeps no server down."""
    text = os.environ.get("PSMQ_SAMPLE_INTERVAL", "") or str(SAMPLE_INTERVAL)
    try:
        return max(float(text), 0.05)
    except ValueError:
        log(f"PSMQ_SAMPLE_INTERVAL must be seconds, not {text!r}: {SAMPLE_INTERVAL:g} it is")
        return SAMPLE_INTERVAL


def environment_rules() -> list[Rule]:
    """PSMQ_RULES; what cannot be read is told of, and keeps no server down."""
    try:
        return rules_of([os.environ.get("PSMQ_RULES", "")])
    except PsmqError as error:
        log(f"PSMQ_RULES: {error}")
        return []


def run(folder: DataFolder, durability: str) -> int:
    """The exit code: 0 ended when asked or idle, 1 the server could not be kept."""
    reported = False
    keeper = Keeper(folder, durability, linger())
    keeper.listen_to_signals()
    try:
        if not keeper.take_folder():
            _report(ready="")
            return 0
        server = keeper.bring_up()
        _report(ready=str(server.socket))
        reported = True
        _let_starter_go()
        Sampler(folder, sample_interval(), environment_rules()).start()
        keeper.keep(server)
    except Stopping:
        keeper.record_end()
    except (PsmqError, OSError) as error:
        message = str(error)
        if not isinstance(error, PsmqError):
            full = server_process.is_full(folder.path)
            message = f"the server of {folder.path} cannot be kept: {'no space left' if full else message}"
        log(message)
        if not reported:
            kind = ServerUnsuitable if isinstance(error, ServerUnsuitable) else ServerUnreachable
            _report(error=kind.__name__, message=message)
        return 1
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m psmq.sentinel", description="Keep a folder's embedded server.")
    parser.add_argument("db_dir", type=Path, help="the data folder")
    parser.add_argument("--durability", choices=DURABILITIES, default=DURABILITIES[0])
    parser.add_argument("--detach", action="store_true", help="go to the background")
    arguments = parser.parse_args(argv)
    if arguments.detach:
        _detach()
    return run(DataFolder.at(arguments.db_dir), arguments.durability)


if __name__ == "__main__":
    sys.exit(main())
