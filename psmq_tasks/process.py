"""One child process: forked by the supervisor, from birth to exit code.

The child imports the app, reports what it found or why it could not, and serves until it is told to stop. It obeys its
pipe, not signals: Ctrl-C, terminals and service managers signal the whole group, and the supervisor decides. When the
supervisor dies the pipe ends, and so does the child.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from psmq import QueueManager
from psmq.errors import PsmqError, ServerUnreachable
from psmq_tasks import signals
from psmq_tasks.inflight import Table
from psmq_tasks.pace import MOST_HELD
from psmq_tasks.teller import Served
from psmq_tasks.worker import Child

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from psmq_tasks.app import TaskApp
    from psmq_tasks.inflight import Entry

_log = logging.getLogger("psmq_tasks.process")

__all__ = ["ChildProcess", "Plan", "Report", "start_child"]

#: seconds between tries when the server is not there at the start
_START_RETRY: Final = 1.0
#: seconds until that is said; seconds a burst waits for it
_START_PATIENCE, _BURST_PATIENCE = 2.0, 10.0
#: modules whose frames say nothing to whoever reads why an app does not import
_OURS: Final = ("psmq_tasks.", "importlib")
#: seconds a slot's command is repeated
_CALL_TIMEOUT: Final = 600.0


@dataclass(frozen=True)
class Plan:
    """How a worker is to be run."""

    #: imports the user's code and returns the apps to serve; called in each child, never in the supervisor
    load: Callable[[], Sequence[TaskApp]]
    processes: int
    threads: int = 8
    async_concurrency: int = 100
    #: seconds running tasks may take to finish when the worker stops
    shutdown_timeout: float = 25.0
    #: stop when nothing is ready or leased
    burst: bool = False
    #: the queues to serve, most urgent first; empty: every queue the apps use
    queues: tuple[str, ...] = ()


@dataclass
class Report:
    """What the first child found. ``problem`` is empty when it serves."""

    problem: str = ""
    exit_code: int = 0
    #: arguments of a QueueManager
    server: dict[str, Any] = field(default_factory=dict)
    #: the server as people see it
    url: str = ""
    queues: list[str] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)
    #: the queues that the apps' tasks are sent to
    sent_to: list[str] = field(default_factory=list)


class ChildProcess:
    """A child as its supervisor sees it."""

    def __init__(self, pid: int, table: Table, control: int, reports: int | None, *, solo: bool) -> None:
        self.pid = pid
        self.table = table
        self.solo = solo
        self.started_at = time.monotonic()
        self.exit_code: int | None = None
        #: (index, generation) of the message for whose hard limit we ended it
        self.over_limit: tuple[int, int] | None = None
        #: asked to finish and end
        self.stopping = False
        #: ended by us because the worker stops: what it ran is not to blame
        self.interrupted = False
        self._control: int | None = control
        self._reports = reports
        self._reported = b""
        #: of its /proc/…/stat, once that was asked for
        self._status: int | None = None
        if reports is not None:
            os.set_blocking(reports, False)

    def report(self) -> Report | None:
        """What the first child found; None: it is still at it."""
        assert self._reports is not None
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self._reports, 65536):
                self._reported += part
            os.close(self._reports)
            self._reports = None
            if not self._reported:
                self.wait()
                return Report(f"the first process {self.how_it_ended()} while it imported the app", 2)
            return Report(**json.loads(self._reported))
        return None

    def begin(self) -> None:
        """Let the first child serve, which waits for that once it has reported."""
        assert self._control is not None
        with contextlib.suppress(OSError):  # it has died meanwhile
            os.write(self._control, b"b")

    def stop(self) -> None:
        """Ask it to finish what runs and end."""
        if not self.stopping:
            self.stopping = True
            self.table.stop()
            self.release_control()

    def release_control(self) -> None:
        """Close our end of its pipe: it ends what it does, as it would if we had died."""
        if self._control is not None:
            os.close(self._control)
            self._control = None

    def interrupt(self) -> None:
        """End it at once, because the worker stops."""
        if not self.has_ended():
            self.stopping = self.interrupted = True
            self.kill()

    def kill(self) -> None:
        """End it at once, in whatever it does."""
        if self.exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def has_ended(self) -> bool:
        """Whether it is gone, without waiting."""
        if self.exit_code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.exit_code = os.waitstatus_to_exitcode(status)
        return self.exit_code is not None

    def is_stopped(self) -> bool:
        """Whether somebody has stopped it (SIGSTOP, a debugger); never known where there is no /proc."""
        try:
            if self._status is None:
                self._status = os.open(f"/proc/{self.pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
            status = os.pread(self._status, 256, 0)  # asked ten times a second: opening it costs more than reading
        except OSError:
            return False
        return status.rpartition(b")")[2][:2] in (b" T", b" t")

    def wait(self) -> None:
        """Until it is gone."""
        if self.exit_code is None:
            self.exit_code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.close()

    def how_it_ended(self) -> str:
        """``was killed by signal 9 (SIGKILL)``, ``was ended by its worker``, ``exited with code 1``."""
        code = self.exit_code or 0
        if code == -signal.SIGKILL and (self.interrupted or self.over_limit is not None):
            return "was ended by its worker"
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"was killed by signal {-code} ({signal.Signals(-code).name})"
            return f"was killed by signal {-code}"
        return f"exited with code {code}"

    def close(self) -> None:
        """Let go of its pipe and its table."""
        self.release_control()
        if self._status is not None:
            os.close(self._status)
            self._status = None
        if self._reports is not None:
            os.close(self._reports)
            self._reports = None


class Lease(NamedTuple):
    """One entry of one child."""

    child: ChildProcess
    entry: Entry


def start_child(plan: Plan, *, solo: bool, first: bool, others: Sequence[ChildProcess]) -> ChildProcess:
    """Fork one. ``first``: it reports what it finds; ``others``: whose pipes it must not keep open."""
    threads = 1 if solo else plan.threads
    table = Table(threads, threads * MOST_HELD * 3 + plan.async_concurrency + MOST_HELD, threads + 1)
    ours, control = os.pipe()
    reading, reports = os.pipe() if first else (None, None)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody reads them any more
            stream.flush()
    supervisor = os.getpid()
    try:
        pid = os.fork()
    except OSError:
        for descriptor in (ours, control, reading, reports):
            if descriptor is not None:
                os.close(descriptor)
        raise
    if pid:
        os.close(ours)
        if reports is not None:
            os.close(reports)
        return ChildProcess(pid, table, control, reading, solo=solo)
    code = 70
    try:
        for descriptor in (control, reading):
            if descriptor is not None:
                os.close(descriptor)
        for other in others:
            other.close()
        code = _live(plan, table, ours, reports, supervisor, solo=solo)
    except BaseException:
        traceback.print_exc()
    finally:
        _leave(code)


def _leave(code: int) -> NoReturn:
    """Run what the user's code registered for the end, and never return into the supervisor's code."""
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _live(plan: Plan, table: Table, control: int, reports: int | None, supervisor: int, *, solo: bool) -> int:
    atexit._clear()  # the supervisor's; it runs them itself
    signal.set_wakeup_fd(-1)
    stops = signals.heeded()
    for number in stops:
        # A function, not SIG_IGN: programs that tasks start would inherit that.
        signal.signal(number, lambda *_: None)
    # Processes that tasks fork inherit even a function. What reaches one before it has its own waits at the mask.
    os.register_at_fork(
        before=partial(signal.pthread_sigmask, signal.SIG_BLOCK, stops),
        after_in_parent=partial(signal.pthread_sigmask, signal.SIG_UNBLOCK, stops),
        after_in_child=partial(_obey_signals, stops),
    )
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _die_with(supervisor)
    try:
        apps = list(plan.load())
        served = _serve(apps, plan)
    except BaseException as error:
        return _tell(reports, _problem(error))
    app = apps[0]
    _tell(
        reports,
        Report(
            server=app.manager.settings(),
            url=app.manager.url,
            queues=[one.queue.name for one in served],
            tasks=sorted(name for one in apps for name in one.tasks),
            sent_to=_queue_names(apps),
        ),
    )
    if reports is not None and not os.read(control, 1):
        os._exit(70)  # the supervisor died before it had shown what we found
    # A command is repeated for as long as the server remembers it: a worker outlives outages.
    manager = QueueManager(**app.manager.settings(), timeout=_CALL_TIMEOUT)
    child = Child(manager, served, table, threads=plan.threads, async_concurrency=plan.async_concurrency, solo=solo)
    app.make_current()
    for one in apps:
        one.events.emit("worker_start", app=one, worker=os.getpid())
    table.report_ready(min(one.queue.visibility_seconds for one in served))  # from here on it may hold something
    child.start()
    _watch(control, table, child)
    child.join()
    for one in apps:
        one.events.emit("worker_stop", app=one, worker=os.getpid())
    return 0


def _obey_signals(stops: Sequence[signal.Signals]) -> None:
    for number in stops:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, stops)


def _watch(control: int, table: Table, child: Child) -> None:
    """Returns when the child is to stop (or a solo child has nothing left); ends the process if the supervisor died."""

    def obey() -> None:
        os.read(control, 1)  # returns when the supervisor closes its end, or is gone
        if not table.stopping:
            os._exit(70)
        child.stop()

    threading.Thread(target=obey, name="psmq-control", daemon=True).start()
    child.stopping.wait()


def _serve(apps: Sequence[TaskApp], plan: Plan) -> list[Served]:
    """Open the queues; waits for a server that is not there, unless the worker is to end when there is no work."""
    servers = {app.manager.url for app in apps}
    if len(servers) > 1:
        raise PsmqError(f"the apps are on different servers ({', '.join(sorted(servers))}): start a worker for each")
    names = plan.queues or _queue_names(apps)
    _wait_for_server(apps[0], gives_up=_BURST_PATIENCE if plan.burst else None)
    queues = [apps[0].manager.get_queue(name) for name in names]
    served = []
    for index, queue in enumerate(queues):
        mine = tuple(app for app in apps if queue.name in app.queue_names)
        served.append(Served(index, queue, mine or tuple(apps)))
    return served


def _queue_names(apps: Sequence[TaskApp]) -> list[str]:
    """The queues that the tasks of these apps are sent to."""
    return list(dict.fromkeys(name for app in apps for name in app.queue_names))


def _wait_for_server(app: TaskApp, gives_up: float | None) -> None:
    """Until it answers, with one line when that takes long; ServerUnreachable after ``gives_up`` seconds."""
    began, missing = time.monotonic(), False
    while True:
        try:
            with QueueManager(**app.manager.settings(), timeout=_START_PATIENCE) as manager:
                manager.list_queues()
            _ = app.keyring
            break
        except ServerUnreachable as error:
            left = None if gives_up is None else began + gives_up - time.monotonic()
            if left is not None and left <= 0:
                raise
            if not missing:
                until = "" if left is None else f", for {left:.0f} s more"
                _log.warning("%s; waiting for the server%s", str(error).rstrip("."), until)
            missing = True
            time.sleep(_START_RETRY)
    if missing:
        _log.warning("the server answers")


def _problem(error: BaseException) -> Report:
    code = 3 if isinstance(error, ServerUnreachable) else 2
    if isinstance(error, PsmqError):
        return Report(str(error), code)
    last = traceback.format_exception_only(error)[-1].strip()
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_globals.get("__name__", "").startswith(_OURS):
        frames = frames.tb_next
    lines = traceback.format_exception(type(error), error, frames)
    return Report(f"{last}\n\n{''.join(lines).rstrip()}", code)


def _tell(reports: int | None, report: Report) -> int:
    if reports is not None:
        with os.fdopen(reports, "wb") as pipe:
            pipe.write(json.dumps(asdict(report)).encode())
    return report.exit_code


def _die_with(supervisor: int) -> None:
    """On Linux the kernel ends us with the supervisor, even where we hold the GIL; the pipe does it elsewhere."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != supervisor:
            os._exit(70)
