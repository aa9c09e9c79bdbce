"""The app: which tasks there are, where their queues are, and the key that calls and results are signed with.

Constructing one connects to nothing; the first call that is sent does. An app may be used from any thread, from any
event loop, and in processes forked from the one that made it.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, overload
from weakref import WeakValueDictionary

from psmq import id_random
from psmq.config import check_name
from psmq.driving import adrive, drive
from psmq.errors import InvalidOption, PsmqError, QueueNotFound
from psmq_tasks import naming
from psmq_tasks.access import ServerAccess
from psmq_tasks.definition import AsyncTask, Call, Task, make_task, wear
from psmq_tasks.errors import DuplicateTask, UnknownTask, UnsignedPayload
from psmq_tasks.events import Events
from psmq_tasks.options import TaskOptions
from psmq_tasks.payload import SealedCall, load_call, open_result
from psmq_tasks.results import Hint
from psmq_tasks.retry import lift
from psmq_tasks.sending import announced, prepared, sends

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
    from pathlib import Path
    from typing import ParamSpec, Unpack

    from psmq_tasks.options import TaskSettings
    from psmq_tasks.outcome import Outcome
    from psmq_tasks.results import TaskHandle
    from psmq_tasks.sending import Part

    P = ParamSpec("P")
R = TypeVar("R")

__all__ = ["TaskApp", "app_named", "default_app"]

#: behind the last event of any log: it is not read
_NO_LOG: Final = 2**53


class TaskDecorator(Protocol):
    """What ``@app.task(…)`` with options is."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


class TaskApp(ServerAccess):
    """Tasks that belong together, their queues and their key.

    ``name`` is the default queue of its tasks. The server is ``url`` (or ``db_dir``, or a redis-py ``connection``);
    without any, what PSMQ_URL says, else this user's embedded server. ``secret`` (or PSMQ_SECRET: "new,old") is the key
    that signs; the embedded server brings its own. ``defaults`` are settings of all its tasks.
    """

    def __init__(
        self,
        name: str = "default",
        *,
        url: str | None = None,
        db_dir: Path | str | None = None,
        connection: Any = None,
        namespace: str = "psmq",
        secret: str | bytes | Sequence[bytes] | None = None,
        allow_unsigned: bool = False,
        defaults: TaskSettings | None = None,
    ) -> None:
        server = {"url": url, "db_dir": db_dir, "connection": connection}
        super().__init__(server, namespace=namespace, secret=secret, allow_unsigned=allow_unsigned)
        self.name = check_name(name)
        #: for those who watch: ``@app.events.subscribe("after_task")``
        self.events = Events()
        self._defaults = TaskOptions.of(defaults or {})
        self._tasks: dict[str, Task[..., Any]] = {}
        self._siblings: dict[str, TaskApp] = {}
        _apps[name] = self

    def __repr__(self) -> str:
        return f"<TaskApp {self.name!r} with {len(self._tasks)} tasks>"

    def __reduce__(self) -> tuple[Any, ...]:
        """By name: whoever unpickles it gets their own app of that name."""
        return app_named, (self.name,)

    # -- tasks --------------------------------------------------------------------------------------------------------

    @overload
    def task(
        self,
        function: Callable[P, Coroutine[Any, Any, R]],
        /,
        *,
        name: str | None = None,
        **options: Unpack[TaskSettings],
    ) -> AsyncTask[P, R]: ...
    @overload
    def task(
        self, function: Callable[P, R], /, *, name: str | None = None, **options: Unpack[TaskSettings]
    ) -> Task[P, R]: ...
    @overload
    def task(
        self, function: None = None, /, *, name: str | None = None, **options: Unpack[TaskSettings]
    ) -> TaskDecorator: ...
    def task(
        self, function: Callable[..., Any] | None = None, /, *, name: str | None = None, **options: Unpack[TaskSettings]
    ) -> Any:
        """Makes a function sendable: ``@app.task``, or ``@app.task(queue=…, stop=…, time_limit=…)``.

        Under tenacity's ``@retry`` its policy is taken over, and runs in the queue; calling the task here still
        retries here.
        """
        settings = TaskOptions.of(options, self._defaults)
        if function is not None:
            return self._register(function, name, settings, lifting=not options.keys() & {"stop", "wait", "retry"})

        def decorate(function: Callable[..., Any]) -> Task[..., Any]:
            return self._register(function, name, settings, lifting=not options.keys() & {"stop", "wait", "retry"})

        return decorate

    @property
    def tasks(self) -> Mapping[str, Task[..., Any]]:
        """The tasks by name."""
        return MappingProxyType(self._tasks)

    @property
    def queue_names(self) -> list[str]:
        """The queues that its tasks are sent to, its own among them."""
        return sorted({self.name, *(task.options.queue for task in self._tasks.values() if task.options.queue)})

    def find(self, name: str) -> Task[..., Any] | None:
        """The task registered under this name."""
        return self._tasks.get(name)

    def _register(
        self, function: Callable[..., Any], name: str | None, settings: TaskOptions, *, lifting: bool
    ) -> Task[..., Any]:
        if isinstance(function, Task):
            raise InvalidOption("task", f"decorates functions; {function.name} is a task already")
        if not callable(function):
            raise InvalidOption("task", f"decorates functions, not {function!r:.100}")
        plain = function
        if lifted := lift(function):
            if not lifting:
                raise InvalidOption("retry", "is given twice, by tenacity's @retry and by @app.task: keep one of them")
            plain, policy = lifted
            settings = replace(settings, policy=policy)
        name = naming.canonical_name(plain) if name is None else naming.check_name(name)
        task = make_task(plain, name=name, options=settings, sender=self, local=function)
        wear(task, function)
        known = self._tasks.get(name)
        if known is not None and not naming.same_code(known.function, plain):
            raise DuplicateTask(name, naming.place_of(known.function), naming.place_of(plain))
        self._tasks[name] = task
        return task

    # -- what arrives -------------------------------------------------------------------------------------------------

    def resolve(self, sealed: SealedCall) -> Task[..., Any] | None:
        """The own task that runs this call; None: there is none. UnsignedPayload if it takes only signed ones."""
        task = self._tasks.get(sealed.task)
        if task is None:
            return None
        if not sealed.signed and not task.options.unsigned and not self.keyring.allow_unsigned:
            raise UnsignedPayload(f"task {sealed.task!r} takes only signed calls: it is not marked unsigned=True")
        # What a lambda's name means is what came along.
        return None if sealed.by_value and not naming.stable(sealed.task) else task

    def load(self, sealed: SealedCall) -> tuple[Task[..., Any], tuple[Any, ...], dict[str, Any]]:
        """Unpickles a verified call: the task (an own one if there is one of that name), args, kwargs.

        Raises UnknownTask and what load_call does. From here on the sender's code runs: mark the message started first.
        """
        task = self.resolve(sealed)
        if task is None and not sealed.by_value:
            raise UnknownTask(sealed.task)
        carried, args, kwargs = load_call(sealed)
        if task is None:
            if carried is None or not isinstance(carried.options, TaskOptions):
                raise UnknownTask(sealed.task)
            task = make_task(carried.function, name=sealed.task, options=carried.options, sender=self)
        return task, args, kwargs

    def make_current(self) -> None:
        """Apps and tasks met inside payloads become this app's: called by the worker that serves it."""
        global _serving
        _apps[self.name] = self
        _serving = self

    def sibling(self, name: str) -> TaskApp:
        """An app of another name on the same server, with the same key."""
        found = self._siblings.get(name)
        if found is None:
            found = TaskApp(
                name, namespace=self.namespace, secret=self._secret, allow_unsigned=self.allow_unsigned, **self._server
            )
            found.events = self.events
            self._siblings[name] = found
        return found

    # -- sending ------------------------------------------------------------------------------------------------------

    def send_one(self, call: Call[Any]) -> TaskHandle[Any]:
        """Sends one call; once this returns, the server has it."""
        queue_name, message = prepared(self, call)
        try:
            message_id = self.queue(queue_name).push(message)
        except QueueNotFound:  # deleted since we opened it
            message_id = self.queue(queue_name, anew=True).push(message)
        return announced(self, queue_name, ((call.task, message_id),))[0]

    async def asend_one(self, call: Call[Any]) -> TaskHandle[Any]:
        """send_one() for async code."""
        await self._find_keys_aside()
        queue_name, message = prepared(self, call)
        try:
            message_id = await (await self.aqueue(queue_name)).push(message)
        except QueueNotFound:
            message_id = await (await self.aqueue(queue_name, anew=True)).push(message)
        return announced(self, queue_name, ((call.task, message_id),))[0]

    def send(self, calls: Iterable[Call[Any]]) -> list[TaskHandle[Any]]:
        """Sends calls of any of its tasks in their order, 200 per trip and queue; read as they go."""
        # Also what reading and pickling the calls raises goes to the steps: they know how many were sent before it.
        return drive(sends(self, calls), self._push, Exception)

    def _push(self, part: Part) -> None:
        self.queue(part.queue_name, anew=part.anew).push_many(part.messages, progress=part.progress)

    async def asend(self, calls: Iterable[Call[Any]]) -> list[TaskHandle[Any]]:
        """send() for async code."""
        await self._find_keys_aside()
        return await adrive(sends(self, calls), self._apush, Exception)

    async def _apush(self, part: Part) -> None:
        queue = await self.aqueue(part.queue_name, anew=part.anew)
        await queue.push_many(part.messages, progress=part.progress)

    # -- results (what TaskHandle asks) -------------------------------------------------------------------------------

    def outcome(self, queue_name: str, message_id: str, wait: float) -> Outcome | None:
        """How the task ended; None if it has not within ``wait`` seconds."""
        return self._open_result(queue_name, message_id, self.queue(queue_name).result(message_id, wait=wait))

    async def aoutcome(self, queue_name: str, message_id: str, wait: float) -> Outcome | None:
        """The same, awaited."""
        await self._find_keys_aside()
        queue = await self.aqueue(queue_name)
        return self._open_result(queue_name, message_id, await queue.result(message_id, wait=wait))

    def why_waiting(self, queue_name: str, message_id: str, task: str) -> Hint:
        """Why there is no result yet: ``nothing serves queue 'mail': psmq-worker mail.py``."""
        from psmq_tasks.waiting import explain

        try:
            queue = self.queue(queue_name)
            return explain(queue.trace(message_id, after=_NO_LOG), queue.info(), naming.worker_target(task))
        except PsmqError:
            return Hint()

    async def awhy_waiting(self, queue_name: str, message_id: str, task: str) -> Hint:
        """The same, awaited."""
        from psmq_tasks.waiting import explain

        try:
            queue = await self.aqueue(queue_name)
            trace, info = await queue.trace(message_id, after=_NO_LOG), await queue.info()
            return explain(trace, info, naming.worker_target(task))
        except PsmqError:
            return Hint()

    def _open_result(self, queue_name: str, message_id: str, data: bytes | None) -> Outcome | None:
        if data is None:
            return None
        random = id_random(message_id)
        return open_result(self.keyring, data, namespace=self.namespace, queue=queue_name, random=random)


#: apps by name, the last one made under each; only for unpickling
_apps: Final[WeakValueDictionary[str, TaskApp]] = WeakValueDictionary()
#: the app that this process works for
_serving: TaskApp | None = None


def app_named(name: str) -> TaskApp:
    """The app of that name in this process; where there is none, one on the server that this worker serves."""
    found = _apps.get(name)
    if found is None:
        found = _serving.sibling(name) if _serving is not None else TaskApp(name)
        if _serving is None:
            _orphans[name] = found
    return found


#: apps that only a payload mentions; kept, as nobody else holds them
_orphans: Final[dict[str, TaskApp]] = {}


#: the app behind ``from psmq_tasks import task``
default_app: Final = TaskApp()
