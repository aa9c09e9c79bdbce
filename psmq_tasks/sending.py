"""From calls to messages that are stored, in their order: what both kinds of sending do, without the doing.

Two hundred calls travel in one trip. While the server stores them, the next are read, pickled and signed.
"""

from __future__ import annotations

from collections import deque
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from psmq import NewMessage, draw_randoms
from psmq.errors import QueueNotFound
from psmq_tasks.metadata import describe_call
from psmq_tasks.payload import seal_call
from psmq_tasks.results import ResultSource, TaskHandle

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from psmq_tasks.definition import Call, Task
    from psmq_tasks.envelope import Keyring
    from psmq_tasks.events import Events

__all__ = ["Part", "announced", "message_of", "prepared", "sends"]

#: calls that travel in one trip
BATCH: Final = 200


class SendingApp(ResultSource, Protocol):
    """What sending needs of an app."""

    #: the default queue
    name: str
    namespace: str
    events: Events

    @property
    def keyring(self) -> Keyring:
        """What signs."""


class Part(NamedTuple):
    """What goes to one queue; ``progress`` is told the ids of what was stored."""

    queue_name: str
    messages: Iterable[NewMessage]
    progress: Callable[[list[str]], None]
    #: the queue is to be opened again first
    anew: bool


#: a call, its place among all, and the random part of its message's id
_Numbered = tuple[int, "Call[Any]", str]


def prepared(app: SendingApp, call: Call[Any]) -> tuple[str, NewMessage]:
    """One call that goes by itself: its queue, and its message."""
    if app.events.wanted("before_send"):
        app.events.emit("before_send", app=app, calls=[call])
    queue_name = call.task.options.queue or app.name
    return queue_name, message_of(app, call, queue_name, draw_randoms(1)[0])


def announced(app: SendingApp, queue_name: str, sent: Iterable[tuple[Task[..., Any], str]]) -> list[TaskHandle[Any]]:
    """The handles of calls that the server has: their tasks, and their messages' ids."""
    handles: list[TaskHandle[Any]] = [
        TaskHandle(app, message_id, queue_name, task.name, kept=task.options.result_ttl > 0)
        for task, message_id in sent
    ]
    if app.events.wanted("after_send"):
        app.events.emit("after_send", app=app, handles=handles)
    return handles


def sends(app: SendingApp, calls: Iterable[Call[Any]]) -> Generator[Part, None, list[TaskHandle[Any]]]:
    """Yields what is to be pushed, in turn; an error of a push is thrown in. → the handles, in the calls' order

    An error says in a note how many calls had been sent before it.
    """
    sending = _Sending(app, calls)
    try:
        while batch := sending.read():
            by_queue: dict[str, list[_Numbered]] = {}
            for numbered in batch:
                by_queue.setdefault(sending.queue_of(numbered[1]), []).append(numbered)
            for queue_name, chosen in by_queue.items():
                following = sending.following(queue_name) if len(by_queue) == 1 else ()
                yield from sending.parts(queue_name, chosen, following)
    except Exception as error:
        if sending.stored:
            error.add_note(f"at least {sending.stored} calls had been sent before this error")
        raise
    return sending.handles


class _Sending:
    """How far one sending has come."""

    def __init__(self, app: SendingApp, calls: Iterable[Call[Any]]) -> None:
        self._app = app
        self._calls = iter(calls)
        #: read, and not for the queue that calls were sent to so far
        self._kept: list[_Numbered] = []
        self._count = 0
        self.stored = 0
        #: in the order of the calls; None until stored
        self.handles: list[Any] = []

    def queue_of(self, call: Call[Any]) -> str:
        """Where it goes."""
        return call.task.options.queue or self._app.name

    def read(self) -> list[_Numbered]:
        """The next calls; none at the end."""
        if self._kept:
            kept, self._kept = self._kept, []
            return kept
        calls = list(islice(self._calls, BATCH))
        if not calls:
            return []
        if self._app.events.wanted("before_send"):
            self._app.events.emit("before_send", app=self._app, calls=calls)
        start, self._count = self._count, self._count + len(calls)
        self.handles += [None] * len(calls)
        return list(zip(range(start, self._count), calls, draw_randoms(len(calls)), strict=True))

    def following(self, queue_name: str) -> Iterator[_Numbered]:
        """Further calls, as long as whole batches of them go to this queue, too."""
        while batch := self.read():
            if any(self.queue_of(call) != queue_name for _, call, _ in batch):
                self._kept = batch
                return
            yield from batch

    def parts(
        self, queue_name: str, chosen: list[_Numbered], following: Iterable[_Numbered]
    ) -> Generator[Part, None, None]:
        """What makes messages of calls as they are pushed. A queue that was deleted since we opened it is made anew."""
        waiting: deque[tuple[int, Task[..., Any], NewMessage]] = deque()
        failures: list[Exception] = []

        def messages() -> Iterator[NewMessage]:
            try:
                for calls in (chosen, following):
                    for index, call, random in calls:
                        message = message_of(self._app, call, queue_name, random)
                        waiting.append((index, call.task, message))
                        yield message
            except Exception as error:
                failures.append(error)
                raise

        def progress(ids: list[str]) -> None:
            stored = [waiting.popleft() for _ in ids]
            tasks = (task for _, task, _ in stored)
            handles = announced(self._app, queue_name, zip(tasks, ids, strict=True))
            for (index, _, _), handle in zip(stored, handles, strict=True):
                self.handles[index] = handle
            self.stored += len(ids)

        def unsent() -> Iterator[NewMessage]:
            yield from [message for _, _, message in waiting]
            yield from made
            if failures:  # what was made ahead of the refused push had failed
                raise failures[0]

        made = messages()
        first = next(made)  # what is wrong with it shows before there is a connection
        try:
            yield Part(queue_name, chain((first,), made), progress, anew=False)
        except QueueNotFound:
            yield Part(queue_name, unsent(), progress, anew=True)


def message_of(app: SendingApp, call: Call[Any], queue_name: str, random: str) -> NewMessage:
    """A call, signed for one message of one queue. ``random``: the part of its id that the sender draws."""
    task = call.task
    options = task.options
    body, by_value = task.dump(call.args, call.kwargs)
    data = seal_call(
        app.keyring,
        namespace=app.namespace,
        queue=queue_name,
        random=random,
        task=task.name,
        codec=options.codec,
        by_value=by_value,
        headers=task.headers,
        body=body,
    )
    return NewMessage(
        data,
        options.delay,
        options.priority,
        options.ttl,
        options.deduplication_id,
        options.max_retrievals,
        describe_call(task.name, call.args, call.kwargs, arguments=options.show_arguments),
        options.result_ttl,
        random,
    )
