"""The decorated function: it runs here, it can be sent, and wrong arguments are refused where they are written."""

from __future__ import annotations

import asyncio
import inspect
import pickle

import cloudpickle
import pytest

from psmq.errors import InvalidOption
from psmq_tasks.definition import AsyncTask, Call, Task, make_task, wear
from psmq_tasks.errors import InvalidArguments, UnknownTask
from psmq_tasks.options import TaskOptions
from psmq_tasks.payload import Carried
from psmq_tasks.results import TaskHandle


class Outbox:
    """A Sender that keeps what it is given."""

    def __init__(self):
        self.sent: list[Call] = []
        self.known: dict[str, Task] = {}

    def send_one(self, call):
        return self.send([call])[0]

    async def asend_one(self, call):
        return self.send_one(call)

    def send(self, calls):
        calls = list(calls)
        self.sent += calls
        return [TaskHandle(None, str(number), "q", call.task.name) for number, call in enumerate(calls)]

    async def asend(self, calls):
        return self.send(calls)

    def find(self, name):
        return self.known.get(name)

    def __reduce__(self):
        return get_outbox, ()


outbox = Outbox()


def get_outbox():
    return outbox


@pytest.fixture(autouse=True)
def clean():
    outbox.sent.clear()
    outbox.known.clear()


def task_of(function, **options):
    name = f"{function.__module__}:{function.__qualname__}"
    task = make_task(function, name=name, options=TaskOptions.of(options), sender=outbox)
    wear(task, function)
    outbox.known.setdefault(name, task)
    return task


def send_mail(to: str, body: str, *, copies: int = 1) -> str:
    """Sends it."""
    return f"{to}: {body} × {copies}"


async def fetch(url: str) -> int:
    return len(url)


def test_calling_a_task_runs_it_here():
    """Nothing is sent."""
    assert task_of(send_mail)("a", "b", copies=2) == "a: b × 2"
    assert asyncio.run(task_of(fetch)("http")) == 4
    assert outbox.sent == []


def test_a_task_looks_like_its_function():
    """help(), signature, name and docstring are the function's."""
    task = task_of(send_mail)
    assert task.__name__ == "send_mail"
    assert task.__doc__ == "Sends it."
    assert inspect.signature(task) == inspect.signature(send_mail)
    assert repr(task) == f"<Task {task.name}>"
    assert type(task_of(fetch)) is AsyncTask
    assert task_of(fetch).is_async


def test_delay_sends_one_call():
    """The handle says which."""
    handle = task_of(send_mail).delay("a", "b", copies=2)
    (call,) = outbox.sent
    assert (call.task.name, call.args, call.kwargs) == (handle.task, ("a", "b"), {"copies": 2})


def test_adelay_sends_one_call_in_async_code():
    """The same, awaited."""
    handle = asyncio.run(task_of(fetch).adelay("http"))
    assert [call.args for call in outbox.sent] == [("http",)]
    assert handle.task == outbox.sent[0].task.name


@pytest.mark.parametrize(
    "args, kwargs, named",
    [
        (("a",), {}, "body"),
        ((), {"to": "a"}, "body"),
        (("a", "b", "c"), {}, "too many positional"),
        (("a", "b"), {"copy": 2}, "copy"),
        (("a", "b"), {"to": "c"}, "to"),
    ],
)
@pytest.mark.parametrize("verb", ["delay", "call"])
def test_wrong_arguments_are_refused_where_they_are_written(verb, args, kwargs, named):
    """The error names the parameter, shows the signature and where the task is written."""
    with pytest.raises(InvalidArguments, match=named) as caught:
        getattr(task_of(send_mail), verb)(*args, **kwargs)
    assert isinstance(caught.value, TypeError)
    assert "copies: 'int' = 1" in caught.value.signature
    assert "test_definition.py:" in str(caught.value)
    assert outbox.sent == []


def test_all_kinds_of_parameters_are_checked():
    """As Python itself would bind them."""

    def variadic(first, /, *rest, needed, **others):
        pass

    task = task_of(variadic)
    task.delay(1, 2, 3, needed=4, other=5)
    for args, kwargs in [((), {"needed": 1}), ((1,), {}), ((1, 2), {"first": 1})]:
        with pytest.raises(InvalidArguments):
            task.delay(*args, **kwargs)

    def optional(first=1, *, second=2):
        pass

    task_of(optional).delay()
    task_of(optional).delay(1)
    task_of(optional).delay(second=1)
    with pytest.raises(InvalidArguments):
        task_of(optional).delay(1, 2)


def test_a_function_without_a_signature_is_sent_unchecked():
    """Some builtins do not tell theirs."""
    task = make_task(min, name="builtins:min", options=TaskOptions(), sender=outbox)
    task.delay(1, 2, key=None)
    assert outbox.sent[0].args == (1, 2)


def test_many_calls_are_read_as_they_are_sent():
    """An iterable, not a list: ten million rows need not fit into memory."""
    task = task_of(send_mail)
    handles = task.delay_many(task.call(str(n), "b") for n in range(3))
    assert [call.args[0] for call in outbox.sent] == ["0", "1", "2"]
    assert len(handles) == 3
    asyncio.run(task.adelay_many(task.call(str(n), "b") for n in range(2)))
    assert len(outbox.sent) == 5


def test_using_changes_options_for_what_is_sent_through_it():
    """The task itself stays as it is."""
    task = task_of(send_mail, priority=1, time_limit=30)
    urgent = task.using(priority=9, delay=60, time_limit=5)
    urgent.delay("a", "b")
    sent = outbox.sent[0].task
    assert (sent.name, sent.options.priority, sent.options.delay) == (task.name, 9, 60.0)
    assert sent.headers == {"hard": "5.0"}
    assert (task.options.priority, task.options.delay, task.headers) == (1, None, {})
    assert urgent("a", "b") == task("a", "b")
    again = urgent.using(queue="other")
    assert (again.options.priority, again.options.queue, again.headers) == (9, "other", {"hard": "5.0"})


def test_using_refuses_what_cannot_change_per_call():
    """With the options that can."""
    with pytest.raises(InvalidOption, match="did you mean 'priority'"):
        task_of(send_mail).using(prioriti=5)
    with pytest.raises(InvalidOption, match="codec"):
        task_of(send_mail).using(codec="json")


def test_many_calls_take_the_options_they_are_sent_with():
    """``using(…).delay_many`` of plain calls; a call made through ``using`` keeps its own."""
    task = task_of(send_mail)
    task.using(priority=5).delay_many([task.call("a", "b"), task.using(priority=7).call("c", "d")])
    assert [call.task.options.priority for call in outbox.sent] == [5, 7]


def test_an_importable_task_is_sent_by_reference():
    """No code travels: the worker has it, perhaps in a newer version."""
    body, by_value = task_of(send_mail).dump(("a", "b"), {})
    assert not by_value
    assert pickle.loads(body) == (None, ("a", "b"), {})
    assert b"send_mail" not in body


def test_a_local_task_is_sent_by_value_with_its_options():
    """The worker needs no copy of the code."""
    base = 10

    def add(x):
        return base + x

    body, by_value = task_of(add, time_limit=5).dump((1,), {})
    carried, args, kwargs = pickle.loads(body)
    assert by_value
    assert isinstance(carried, Carried)
    assert carried.function(*args, **kwargs) == 11
    assert carried.options.time_limit == 5.0


def test_a_task_met_in_a_payload_is_the_readers_own():
    """It pickles by name: 45 bytes instead of stale code."""
    task = task_of(send_mail)
    data = pickle.dumps({"then": task}, 5)
    assert len(data) < 250
    assert pickle.loads(data)["then"] is task
    changed = pickle.loads(pickle.dumps(task.using(priority=5)))
    assert (changed.name, changed.options.priority) == (task.name, 5)


def test_a_task_that_the_reader_does_not_have_is_unknown_unless_it_came_along():
    """By reference: handed back. By value: built from what was carried."""
    data = pickle.dumps(task_of(send_mail), 5)
    outbox.known.clear()
    with pytest.raises(UnknownTask) as caught:
        pickle.loads(data)
    assert caught.value.hand_back

    def local(x):
        return x * 2

    data = cloudpickle.dumps(task_of(local, priority=3))
    outbox.known.clear()
    task = pickle.loads(data)
    assert task(4) == 8
    assert task.options.priority == 3


def test_a_local_task_may_mention_itself_and_others():
    """Recursive by value: the function's defaults and globals are complete when it runs."""

    def count(n, step=1):
        return [n] if n <= 0 else [n, *count_task(n - step)]

    count_task = task_of(count)
    data = cloudpickle.dumps(count_task)
    outbox.known.clear()
    task = pickle.loads(data)
    assert task(2) == [2, 1, 0]
    task.delay(5)
    with pytest.raises(InvalidArguments):
        task.delay()


def test_lambdas_are_who_came_along_not_who_has_their_name():
    """Every lambda of a module has the same name: the reader's own may be another."""
    mine = task_of(lambda x: x + 1)
    data = cloudpickle.dumps(mine)
    outbox.known.clear()
    task_of(lambda x: x * 100)
    assert pickle.loads(data)(1) == 2


def test_json_tasks_are_sent_by_name_whatever_they_are():
    """No code fits into JSON."""
    body, by_value = task_of(lambda x: x, codec="json").dump((1,), {"b": [2]})
    assert (body, by_value) == (b'[[1],{"b":[2]}]', False)


def test_generators_are_refused():
    """Nobody would run them to their end."""

    def rows():
        yield 1

    async def arows():
        yield 1

    for function in (rows, arows):
        with pytest.raises(InvalidOption, match="return a list"):
            make_task(function, name="m:rows", options=TaskOptions(), sender=outbox)
