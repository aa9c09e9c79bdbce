"""The decorated function: it still runs here when called, and it can be sent to run elsewhere.

It knows how it is named, checked and pickled, and a Sender that does the rest; not the app.
"""

from __future__ import annotations

import inspect
from functools import cached_property, update_wrapper
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar

from psmq.errors import InvalidOption
from psmq_tasks.errors import InvalidArguments, UnknownTask
from psmq_tasks.naming import importable, place_of, stable
from psmq_tasks.options import SendOptions, TaskOptions
from psmq_tasks.payload import Carried, dump_call, dump_json

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
    from typing import Unpack

    from psmq_tasks.results import TaskHandle

__all__ = ["AsyncTask", "Call", "Sender", "Task"]

P = ParamSpec("P")
R = TypeVar("R")


class Sender(Protocol):
    """What a task needs of its app."""

    def send_one(self, call: Call[Any]) -> TaskHandle[Any]:
        """Sends one."""

    async def asend_one(self, call: Call[Any]) -> TaskHandle[Any]:
        """The same, awaited."""

    def send(self, calls: Iterable[Call[Any]]) -> list[TaskHandle[Any]]:
        """Sends them in their order, 200 per trip."""

    async def asend(self, calls: Iterable[Call[Any]]) -> list[TaskHandle[Any]]:
        """The same, awaited."""

    def find(self, name: str) -> Task[..., Any] | None:
        """The task registered under this name."""


class Call(Generic[R]):
    """One task with arguments that fit it, not sent yet."""

    __slots__ = ("args", "kwargs", "task")

    def __init__(self, task: Task[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.task = task
        self.args = args
        self.kwargs = kwargs

    def __repr__(self) -> str:
        return f"<Call of {self.task.name}>"


class Task(Generic[P, R]):
    """A function that can be sent. ``task(…)`` runs it here, ``task.delay(…)`` in a worker."""

    is_async = False

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str,
        options: TaskOptions,
        sender: Sender,
        local: Callable[..., Any] | None = None,
    ) -> None:
        #: the plain function that workers run
        self.function = function
        self.name = name
        self.options = options
        #: what ``using`` changed that the worker has to know
        self.headers: Mapping[str, str] = {}
        self._sender = sender
        self._local = local or function
        self._changes: dict[str, Any] = {}

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs the function here and now."""
        result: R = self._local(*args, **kwargs)
        return result

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """By name: the reader's own task of that name. Code of ``__main__`` comes along in case there is none."""
        carried = None if importable(self.function) else Carried(self.function, self.options)
        return _revive, (self._sender, self.name, carried, self._changes)

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """A call to send later, for delay_many. InvalidArguments if the arguments do not fit."""
        self._parameters.check(args, kwargs)
        return Call(self, args, kwargs)

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> TaskHandle[R]:
        """Sends one call. Once this returns, the server has it."""
        return self._sender.send_one(self.call(*args, **kwargs))

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> TaskHandle[R]:
        """delay() for async code."""
        return await self._sender.asend_one(self.call(*args, **kwargs))

    def delay_many(self, calls: Iterable[Call[R]]) -> list[TaskHandle[R]]:
        """Sends many calls, read from the iterable as they go, 200 per trip.

        Each 200 are sent whole or not at all; an error's notes say how many calls had been sent before it.
        """
        return self._sender.send(self._mine(calls))

    async def adelay_many(self, calls: Iterable[Call[R]]) -> list[TaskHandle[R]]:
        """delay_many() for async code."""
        return await self._sender.asend(self._mine(calls))

    def using(self, **options: Unpack[SendOptions]) -> Task[P, R]:
        """The same task, sent with other options."""
        other: Task[P, R] = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.options = self.options.using(options)
        other._changes = {**self._changes, **options}
        other.headers = other.options.headers(other._changes)
        return other

    def dump(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bytes, bool]:
        """The body of a call, and whether it is by value."""
        names = self._parameters.positional
        if self.options.codec == "json":
            return dump_json(args, kwargs, names), False
        carried = None if importable(self.function) else Carried(self.function, self.options)
        return dump_call(carried, args, kwargs, names)

    @cached_property
    def _parameters(self) -> _Parameters:
        # Not in __init__: while a task unpickles that mentions itself, its function has no defaults yet.
        return _Parameters(self.name, self.function)

    def _mine(self, calls: Iterable[Call[R]]) -> Iterator[Call[R]]:
        """Calls of the plain task take the options that this one was given by ``using``."""
        for call in calls:
            task = call.task
            own = task is self or task._changes or task.name != self.name
            yield call if own else Call(self, call.args, call.kwargs)


class AsyncTask(Task[P, R]):
    """A task made of an ``async def``: calling it gives a coroutine, its result is what that returns."""

    is_async = True

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:  # type: ignore[override]
        """The coroutine, to be awaited here."""
        coroutine: Coroutine[Any, Any, R] = self._local(*args, **kwargs)
        return coroutine


def make_task(
    function: Callable[..., Any],
    *,
    name: str,
    options: TaskOptions,
    sender: Sender,
    local: Callable[..., Any] | None = None,
) -> Task[..., Any]:
    """A Task or an AsyncTask, by what the function is."""
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise InvalidOption("task", f"cannot run the generator {name}: return a list instead")
    kind = AsyncTask if inspect.iscoroutinefunction(function) else Task
    return kind(function, name=name, options=options, sender=sender, local=local)


def wear(task: Task[..., Any], function: Callable[..., Any]) -> None:
    """Gives the task the function's name, docstring and signature, for help() and for editors."""
    update_wrapper(task, function, updated=())


def _revive(sender: Sender, name: str, carried: Carried | None, changes: dict[str, Any]) -> Task[..., Any]:
    # The name of a lambda may mean other code there than here: what came along is meant.
    task = sender.find(name) if carried is None or stable(name) else None
    if task is None:
        if carried is None:
            raise UnknownTask(name)
        assert isinstance(carried.options, TaskOptions)
        return make_task(carried.function, name=name, options=carried.options, sender=sender)
    return task.using(**changes) if changes else task


class _Parameters:
    """A function's parameters, so that wrong arguments are refused where they are written."""

    __slots__ = ("_function", "_least", "_most", "_name", "_signature", "positional")

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self._name = name
        self._function = function
        try:
            self._signature: inspect.Signature | None = inspect.signature(function)
        except (TypeError, ValueError):  # some builtins do not tell theirs
            self._signature = None
        parameters = list(self._signature.parameters.values()) if self._signature is not None else []
        positional = [p for p in parameters if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}]
        needed = [p for p in parameters if p.default is p.empty and p.kind not in {p.VAR_POSITIONAL, p.VAR_KEYWORD}]
        #: names of the positional parameters
        self.positional = tuple(p.name for p in positional)
        open_ended = self._signature is None or any(p.kind is p.VAR_POSITIONAL for p in parameters)
        #: how many arguments surely fit when all are positional; least > most: none do
        self._most = 2**31 if open_ended else len(positional)
        self._least = 2**32 if any(p.kind is p.KEYWORD_ONLY for p in needed) else len(needed)

    def check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """InvalidArguments, naming the parameter, unless they fit."""
        if not kwargs and self._least <= len(args) <= self._most:
            return
        if self._signature is None:
            return
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            text = str(error)
            raise InvalidArguments(self._name, text, str(self._signature), place_of(self._function)) from None
