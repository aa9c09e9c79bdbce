"""The app: its tasks, its server and its key; sending, and reading what was sent, on a real in-memory server."""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import os
import pickle
import secrets
import threading
import uuid

import pytest
import tenacity as t
from support import output
from tasks.conftest import work

import psmq_tasks
from psmq import id_random
from psmq.errors import InvalidOption, InvalidQueueName, MessageTooLarge, ServerUnreachable
from psmq_tasks import TaskApp
from psmq_tasks import app as app_module
from psmq_tasks.app import app_named
from psmq_tasks.definition import AsyncTask
from psmq_tasks.envelope import Keyring
from psmq_tasks.errors import (
    DuplicateTask,
    ForgedPayload,
    SecretMissing,
    UnknownTask,
    UnserializableArgument,
    UnsignedPayload,
)
from psmq_tasks.executor import CurrentMessage, run
from psmq_tasks.outcome import Returned
from psmq_tasks.payload import open_call
from psmq_tasks.sending import message_of


def add(a: int, b: int) -> int:
    return a + b


async def aadd(a: int, b: int) -> int:
    return a + b


def open_next(app, queue_name=None):
    queue = app.queue(queue_name or app.name)
    message = queue.get()
    place = {"namespace": app.namespace, "queue": queue.name, "random": id_random(message.message_id)}
    return open_call(app.keyring, message.data, **place), message


def delete_queue(app):
    """Behind the back of what has it open."""
    app.manager.delete_queue(app.name)


# -- server and key ---------------------------------------------------------------------------------------------------


def test_making_an_app_connects_to_nothing():
    """Importing the module that defines it needs no server; the first call that is sent does."""
    app = TaskApp("nowhere", url="redis://127.0.0.1:1", secret="s" * 32)
    task = app.task(add)
    app.connect_to(url="redis://127.0.0.1:1")
    assert task(1, 2) == 3
    app._manager = type(app.manager)(url="redis://127.0.0.1:1", timeout=0.1)
    with pytest.raises(ServerUnreachable):
        task.delay(1, 2)


def test_the_server_is_the_one_that_the_environment_names(monkeypatch):
    """PSMQ_URL, unless the app says otherwise."""
    monkeypatch.setenv("PSMQ_URL", "redis://somewhere:7")
    assert TaskApp().manager.url == "redis://somewhere:7"
    assert TaskApp().async_manager.url == "redis://somewhere:7"
    assert TaskApp(url="memory:").manager.url == "memory:"
    assert TaskApp(url="memory:").async_manager.url == "memory:"
    with pytest.raises(InvalidOption, match="one of the three"):
        TaskApp(url="memory:", db_dir="/tmp/x")


def test_without_a_key_nothing_is_sent(monkeypatch):
    """A server that is not ours, and no secret: the error has the line that makes one. The password is not shown."""
    monkeypatch.delenv("PSMQ_SECRET", raising=False)
    app = TaskApp(url="redis://:hush@somewhere:7")
    with pytest.raises(SecretMissing, match="export PSMQ_SECRET=") as caught:
        app.task(add).delay(1, 2)
    assert "hush" not in str(caught.value)
    assert "somewhere" in str(caught.value)


def test_the_key_is_the_given_one_then_the_environments_then_the_servers_own(monkeypatch):
    """And none only where that is allowed."""

    def signs_like(app, key):
        place = ("task", "psmq", "q", "0")
        return Keyring([key]).open(*place, app.keyring.seal(*place, b"x"))[1]

    monkeypatch.setenv("PSMQ_SECRET", f"{'e' * 32},{'o' * 32}")
    assert signs_like(TaskApp(url="memory:", secret="g" * 32), b"g" * 32)
    assert signs_like(TaskApp(url="memory:", secret=b"g" * 32), b"g" * 32)
    assert signs_like(TaskApp(url="memory:", secret=[b"g" * 32, b"h" * 32]), b"g" * 32)
    assert signs_like(TaskApp(url="memory:"), b"e" * 32)
    assert len(TaskApp(url="memory:").keyring) == 2
    monkeypatch.setenv("PSMQ_SECRET", " , ")
    with pytest.raises(SecretMissing):
        _ = TaskApp(url="redis://h").keyring
    monkeypatch.setenv("PSMQ_SECRET", "short")
    with pytest.raises(
        InvalidOption, match=r"(?s)PSMQ_SECRET must be at least 16 bytes.*export PSMQ_SECRET="
    ) as caught:
        _ = TaskApp(url="redis://h").keyring
    assert "short" not in str(caught.value)
    with pytest.raises(InvalidOption, match="^secret must be"):
        _ = TaskApp(url="redis://h", secret="hush").keyring
    monkeypatch.delenv("PSMQ_SECRET")
    memory = TaskApp(url="memory:")
    assert signs_like(memory, memory.manager.signing_key())
    assert len(TaskApp(url="redis://h", allow_unsigned=True).keyring) == 0


@pytest.mark.parametrize("name", ["", "a b", "{x}", "x" * 161, None])
def test_an_app_is_called_as_a_queue_may_be(name):
    """Its name is its default queue."""
    with pytest.raises(InvalidQueueName):
        TaskApp(name)


# -- tasks ------------------------------------------------------------------------------------------------------------


def test_tasks_are_known_by_module_and_name(app):
    """Decorated bare, with options, or called with the function."""

    @app.task
    def bare():
        pass

    @app.task(queue="mail", name="mail:send")
    async def with_options():
        pass

    direct = app.task(lambda x: x, name="double", priority=5)
    assert set(app.tasks) == {bare.name, "mail:send", "double"}
    assert bare.name.endswith("test_tasks_are_known_by_module_and_name.<locals>.bare")
    assert type(app.tasks["mail:send"]) is AsyncTask
    assert direct.options.priority == 5
    assert app.queue_names == sorted([app.name, "mail"])
    assert app.find("double") is direct
    assert app.find("nobody") is None


def test_two_tasks_of_one_name_are_refused(app):
    """Both places are named. The same function again takes its own place."""
    first = app.task(add, name="sum")
    with pytest.raises(DuplicateTask, match=r"test_app\.py:.*test_app\.py:"):
        app.task(aadd, name="sum")
    assert app.find("sum") is first
    assert app.task(add, name="sum") is app.find("sum")
    namespace = {"__name__": add.__module__}
    exec(compile("def add(a, b): pass", "elsewhere.py", "exec"), namespace)
    with pytest.raises(DuplicateTask, match=r"elsewhere\.py:1"):
        app.task(namespace["add"], name="sum")


def test_a_mistake_in_a_decorator_is_found_where_it_is_written(app):
    """Unknown options, tasks of tasks, things that are no functions."""
    with pytest.raises(InvalidOption, match="did you mean 'queue'"):
        app.task(queu="mail")
    with pytest.raises(InvalidOption, match="is a task already"):
        app.task(app.task(add))
    with pytest.raises(InvalidOption, match="functions"):
        app.task("mail")
    with pytest.raises(InvalidOption, match="name is needed"):
        app.task(type("Callable", (), {"__call__": lambda self: None})())
    with pytest.raises(InvalidOption, match="did you mean"):
        TaskApp(defaults={"time_limt": 5})


def test_an_apps_defaults_are_its_tasks_settings_unless_they_say_otherwise():
    """A time limit for all."""
    app = TaskApp(url="memory:", defaults={"time_limit": 60, "stop": t.stop_after_attempt(2)})
    assert app.task(add).options.time_limit == 60.0
    assert app.task(add, time_limit=None).options.time_limit is None
    assert app.task(add, wait=t.wait_fixed(1)).options.max_retrievals == 2


def test_a_function_under_tenacitys_retry_keeps_its_policy(app):
    """In a worker as the queue's policy, here as the loop it was written as."""
    calls = []

    @app.task
    @t.retry(stop=t.stop_after_attempt(3), wait=t.wait_none())
    def flaky():
        calls.append(1)
        raise ValueError

    assert flaky.options.max_retrievals == 3
    with pytest.raises(t.RetryError):
        flaky()
    assert len(calls) == 3
    assert run(flaky.function, (), {}, CurrentMessage("id", "m:f", "q", 1)).error.args == ()
    assert len(calls) == 4
    with pytest.raises(InvalidOption, match="given twice"):
        app.task(flaky._local, stop=t.stop_after_attempt(2))

    @app.task
    @t.retry(stop=t.stop_after_attempt(2), wait=t.wait_none())
    async def aflaky():
        calls.append(1)
        raise ValueError

    assert (aflaky.is_async, aflaky.options.max_retrievals) == (True, 2)
    with pytest.raises(t.RetryError):
        asyncio.run(aflaky())
    assert len(calls) == 6


def test_the_module_level_decorator_belongs_to_the_default_app():
    """``from psmq_tasks import task``: its queue is "default"."""
    task = psmq_tasks.task(add, name=f"sum{uuid.uuid4().hex}")
    assert psmq_tasks.default_app.find(task.name) is task
    assert psmq_tasks.default_app.name == "default"


# -- sending ----------------------------------------------------------------------------------------------------------


def test_a_task_runs_with_what_it_was_sent(app):
    """There and back."""
    handle = app.task(add).delay(1, b=2)
    assert work(app) == Returned(3)
    assert handle.result(timeout=5) == 3
    assert work(app) is None


def test_a_message_shows_its_call_without_unpickling(app):
    """Task, sender and arguments in the metadata, unless the task keeps them to itself."""
    app.task(add).delay(1, b=2)
    app.task(add, name="quiet", show_arguments=False).delay(1, b=2)
    metadata = app.queue(app.name).get().metadata
    assert metadata["task"] == f"{add.__module__}:add"
    assert metadata["args"] == "1, b=2"
    assert metadata["sender"].endswith(f":{os.getpid()}")
    assert "args" not in app.queue(app.name).get().metadata


def test_options_of_a_task_are_options_of_its_messages(app):
    """Queue, priority, delay, ttl, and the deliveries that its policy allows."""
    other = f"{app.name}.other"
    task = app.task(add, queue=other, priority=7, ttl=60, stop=t.stop_after_attempt(3))
    handle = task.delay(1, 2)
    task.using(delay=30).delay(3, 4)
    message = app.queue(other).get()
    assert handle.queue_name == other
    assert (message.priority, message.record.max_retrievals) == (7, 3)
    assert message.expires is not None
    assert app.queue(other).info().delayed == 1


def test_a_changed_limit_reaches_the_worker(app):
    """In the signed headers of that one call."""
    task = app.task(add, time_limit=60)
    task.using(time_limit=5).delay(1, 2)
    sealed, _ = open_next(app)
    assert app.resolve(sealed).options.limits(sealed.headers) == (None, 5.0)


def test_many_calls_are_sent_in_their_order(app):
    """2,500 in three trips, from a generator; the handles are in that order too."""
    task = app.task(add)
    handles = task.delay_many(task.call(n, 0) for n in range(2500))
    assert len({handle.id for handle in handles}) == 2500
    messages = app.queue(app.name).get_many(3)
    assert [message.metadata["args"] for message in messages] == ["0, 0", "1, 0", "2, 0"]
    assert [message.message_id for message in messages] == [handle.id for handle in handles[:3]]
    assert app.queue(app.name).info().ready == 2497


def test_many_calls_of_several_tasks_go_each_to_its_queue(app):
    """One call of send, one trip per queue."""
    first, second = app.task(add), app.task(aadd, queue=f"{app.name}.b")
    handles = app.send([first.call(1, 1), second.call(2, 2), first.call(3, 3)])
    assert [handle.queue_name for handle in handles] == [app.name, f"{app.name}.b", app.name]
    work(app)
    work(app)
    assert [handles[0].result(5), handles[2].result(5)] == [2, 6]
    assert app.queue(f"{app.name}.b").info().ready == 1


def test_an_error_among_many_says_how_many_were_sent(app):
    """Each two hundred are sent whole or not at all."""
    task = app.task(add)

    def calls():
        for n in range(1500):
            yield task.call(n, threading.Lock() if n == 1300 else 0)

    with pytest.raises(UnserializableArgument, match="argument 'b'") as caught:
        task.delay_many(calls())
    assert caught.value.__notes__ == ["at least 1200 calls had been sent before this error"]
    assert app.queue(app.name).info().ready == 1200


def test_nothing_is_sent_when_it_cannot_be(app):
    """Arguments that do not pickle, or are too large."""
    task = app.task(add)
    with pytest.raises(UnserializableArgument, match="argument 'a'"):
        task.delay(threading.Lock(), 1)
    with pytest.raises(MessageTooLarge):
        task.delay(b"x" * 2_000_000, 1)
    assert app.queue(app.name).info().ready == 0


def test_a_queue_that_was_deleted_is_made_again(app):
    """Whoever deleted it wanted its messages gone, not the next ones."""
    task = app.task(add)
    task.delay(1, 2)
    app.manager.delete_queue(app.name)
    handle = task.delay(3, 4)
    assert work(app) == Returned(7)
    assert handle.result(timeout=5) == 7

    async def send():
        await task.adelay(1, 2)
        app.manager.delete_queue(app.name)
        await task.adelay(3, 4)
        await app.aclose()

    asyncio.run(send())
    assert work(app) == Returned(7)


def test_a_repeated_call_with_a_deduplication_id_is_the_first_one(app):
    """Its handle gives the first one's result."""
    task = app.task(add)
    first = task.using(deduplication_id="once").delay(1, 2)
    second = task.using(deduplication_id="once").delay(1, 2)
    assert first == second
    work(app)
    assert work(app) is None
    assert second.result(timeout=5) == 3


def test_async_code_sends_and_waits_without_blocking(app):
    """adelay, adelay_many, await."""
    task = app.task(add)

    async def program():
        try:
            one = await task.adelay(1, 2)
            two, three = await task.adelay_many([task.call(3, 4), task.call(5, 6)])
            waiting = asyncio.gather(one, two, three)
            for _ in range(3):
                await asyncio.to_thread(work, app)
            return await waiting
        finally:
            await app.aclose()

    assert asyncio.run(program()) == [3, 7, 11]
    assert asyncio.run(program()) == [3, 7, 11]  # another event loop


def test_threads_may_send_at_once(app):
    """One app for all of them."""
    task = app.task(add)
    threads = [threading.Thread(target=lambda: [task.delay(1, 2) for _ in range(20)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert app.queue(app.name).info().ready == 160


def test_a_forked_process_sends_on_connections_of_its_own():
    """Parent and child go on with the same app."""
    program = """
        import os
        from psmq_tasks import TaskApp
        app = TaskApp(url="memory:")
        @app.task(name="m:add")
        def add(a, b): return a + b
        add.delay(1, 2)
        pid = os.fork()
        if not pid:
            for _ in range(5): add.delay(3, 4)
            os._exit(0)
        for _ in range(5): add.delay(5, 6)
        assert os.waitpid(pid, 0)[1] == 0
        print(app.queue("default").info().ready)
        app.close()
    """
    assert output(program) == "11\n"


def test_the_next_trip_is_made_while_the_server_stores_the_last(app):
    """Calls are read one trip ahead of what is stored, not one more."""
    read, ahead = [], []
    task = app.task(add)
    app.events.subscribe("after_send")(lambda app, handles: ahead.append((len(handles), len(read))))

    def calls():
        for number in range(500):
            read.append(number)
            yield task.call(number, 1)

    handles = task.delay_many(calls())
    assert [count for count, _ in ahead] == [200, 200, 100]
    assert [count for _, count in ahead][0] == 400
    assert len({handle.id for handle in handles}) == 500
    stored = [message for _ in range(5) for message in app.queue(app.name).get_many(500)]
    assert [message.message_id for message in stored] == [handle.id for handle in handles]


def test_calls_for_several_queues_come_back_in_their_order(app):
    """Whole batches for one queue are streamed; a batch for several is taken apart, and put together again."""
    here, there = app.task(add), app.task(add, name="there", queue=f"{app.name}-b")
    calls = [here.call(n, 0) for n in range(1500)] + [(here, there)[n % 2].call(n, 0) for n in range(1500, 2600)]
    handles = app.send(calls)
    assert [handle.queue_name for handle in handles] == [call.task.options.queue or app.name for call in calls]
    for name in (app.name, f"{app.name}-b"):
        queue, ids = app.queue(name), [handle.id for handle in handles if handle.queue_name == name]
        assert [m.message_id for _ in range(6) for m in queue.get_many(500)] == ids


def test_a_queue_that_was_deleted_is_made_anew_and_misses_nothing(app):
    """What had been made for the refused push, and ahead of it, goes into the new queue, in its order."""
    task = app.task(add)
    task.delay(0, 0)
    delete_queue(app)
    handles = task.delay_many(task.call(number, 1) for number in range(440))
    stored = [message for _ in range(5) for message in app.queue(app.name).get_many(500)]
    assert [message.message_id for message in stored] == [handle.id for handle in handles]
    delete_queue(app)
    with pytest.raises(UnserializableArgument) as caught:
        task.delay_many(task.call(number if number < 300 else threading.Lock(), 1) for number in range(440))
    assert caught.value.__notes__ == ["at least 200 calls had been sent before this error"]
    assert app.queue(app.name).info().ready == 200


def test_who_watches_is_told_of_what_is_sent(app):
    """before_send with the calls, after_send with the handles."""
    seen = []
    app.events.subscribe("before_send")(lambda app, calls: seen.append([call.args for call in calls]))
    app.events.subscribe("after_send")(lambda app, handles: seen.append([handle.id for handle in handles]))
    handle = app.task(add).delay(1, 2)
    assert seen == [[(1, 2)], [handle.id]]


# -- what arrives -----------------------------------------------------------------------------------------------------


def test_a_call_of_a_task_nobody_registered_is_unknown(app):
    """A name from the wire is looked up, never imported."""
    handle = app.task(add).delay(1, 2)
    sealed, _ = open_next(app)
    stranger = TaskApp("stranger", url="memory:")
    assert stranger.resolve(sealed) is None
    with pytest.raises(UnknownTask) as caught:
        stranger.load(sealed)
    assert caught.value.task == handle.task
    assert caught.value.hand_back


def test_a_call_copied_to_another_queue_is_a_forgery(app):
    """By whoever can write to the server and has no key."""
    app.task(add).delay(1, 2)
    data = app.queue(app.name).get().data
    app.queue(f"{app.name}.b").push(data)
    app.queue(app.name).push(data)
    for queue_name in (f"{app.name}.b", app.name):
        with pytest.raises(ForgedPayload):
            open_next(app, queue_name)


def test_plain_json_runs_only_tasks_that_take_it(app):
    """``unsigned=True`` is said by the task, not by the message."""
    app.task(add, name="closed")
    app.task(add, name="open", unsigned=True)
    queue = app.queue(app.name)
    queue.push(json.dumps({"task": "closed", "args": [1, 2]}).encode())
    queue.push(json.dumps({"task": "open", "args": [1, 2]}).encode())
    sealed, _ = open_next(app)
    for ask in (app.resolve, app.load):
        with pytest.raises(UnsignedPayload, match="closed"):
            ask(sealed)
    assert work(app) == Returned(3)


def test_the_json_codec_is_there_and_back(app):
    """A task whose calls need no pickle, signed all the same."""
    handle = app.task(add, codec="json").delay(1, 2)
    sealed, message = open_next(app)
    assert (sealed.codec, sealed.signed) == ("json", True)
    assert app.load(sealed)[1:] == ((1, 2), {})
    message.release(count=False)
    work(app)
    assert handle.result(timeout=5) == 3


def test_unsigned_calls_go_only_between_those_who_allow_them(app):
    """An explicit choice on both sides."""
    sender = TaskApp(app.name, url="redis://not-asked", allow_unsigned=True)
    data = message_of(sender, sender.task(add).call(1, 2), app.name, "0123456789a").data
    app.task(add)
    app.queue(app.name).push(data)
    with pytest.raises(UnsignedPayload):
        open_next(app)
    app.queue(app.name).push(data)
    app._keyring = Keyring([], allow_unsigned=True)
    assert app.load(open_next(app)[0])[1] == (1, 2)


def test_what_a_worker_has_goes_before_what_a_call_carries(app):
    """A deploy of the worker changes what runs; a lambda is always who came along."""

    @app.task(name="greet")
    def greet():
        return "sent"

    anonymous = app.task(lambda: "sent")
    greet.delay()
    anonymous.delay()
    worker = TaskApp(app.name, url="memory:")
    worker.task(lambda: "own", name="greet")
    worker.task(lambda: "own", name=anonymous.name)
    assert work(worker) == Returned("own")
    assert work(worker) == Returned("sent")
    worker.close()


def test_a_task_of_a_script_runs_on_a_worker_without_it():
    """It sends itself and another one, mentions its app, and keeps its policy and limits."""
    program = """
        import base64, sys
        from tenacity import stop_after_attempt
        from psmq_tasks import TaskApp
        from psmq_tasks.sending import message_of
        app = TaskApp(sys.argv[1], url="redis://not-asked", secret="s" * 32)
        class Step:
            def __init__(self, n): self.n = n
        @app.task(stop=stop_after_attempt(2), soft_time_limit=30)
        def count(step):
            if step.n:
                count.delay(Step(step.n - 1))
            else:
                finish.using(priority=3).delay(app.name)
            return step.n
        @app.task
        def finish(name): return name
        message = message_of(app, count.call(Step(2)), sys.argv[1], "0123456789a")
        print(count.name, base64.b64encode(message.data).decode())
    """
    name = f"t{uuid.uuid4().hex[:12]}"
    task_name, data = output(program, name).split()
    assert task_name == "__main__:count"
    worker = TaskApp("worker", url="memory:", secret="s" * 32)
    worker.make_current()
    try:
        sealed = open_call(worker.keyring, base64.b64decode(data), namespace="psmq", queue=name, random="0123456789a")
        task, args, kwargs = worker.load(sealed)
        assert (task.options.max_retrievals, task.options.soft_time_limit) == (2, 30.0)
        assert run(task.function, args, kwargs, CurrentMessage("id", task.name, name, 1)) == Returned(2)
        assert [work(worker, name) for _ in range(4)] == [Returned(1), Returned(0), Returned(name), None]
    finally:
        app_module._serving = None
        worker.sibling(name).close()
        worker.close()


def test_an_app_met_in_a_payload_is_the_readers_own(app):
    """By name: the last one made under it, or the one that the worker serves."""
    assert pickle.loads(pickle.dumps(app)) is app
    later = TaskApp(app.name, url="memory:")
    assert pickle.loads(pickle.dumps(app)) is later
    app.make_current()
    try:
        assert pickle.loads(pickle.dumps(later)) is app
        other = app_named(f"{app.name}.other")
        assert other.manager.url == "memory:"
        assert other.events is app.events
        assert app_named(f"{app.name}.other") is other
    finally:
        app_module._serving = None


def test_where_no_app_has_that_name_one_is_made():
    """A program that only reads results may have none."""
    name = f"t{secrets.token_hex(4)}"
    made = app_named(name)
    assert (made.name, made.tasks) == (name, {})
    assert app_named(name) is made


# -- the package ------------------------------------------------------------------------------------------------------


def test_the_package_is_light_to_import():
    """``--help`` and completion must not pay for redis, cloudpickle or tenacity."""
    program = """
        import sys, psmq_tasks
        app = psmq_tasks.TaskApp()
        @app.task(time_limit=5)
        def f(): pass
        print([name for name in ("redis", "cloudpickle", "tenacity", "ctypes") if name in sys.modules])
    """
    assert output(program) == "[]\n"


def test_public_names_say_where_they_are_public():
    """Dead letters and tracebacks read ``psmq_tasks.TimeLimitExceeded``; of the rest help and editors find the source."""
    assert len(psmq_tasks.__all__) <= 30
    for name in psmq_tasks.__all__:
        found = getattr(psmq_tasks, name)
        if isinstance(found, type):
            assert pickle.loads(pickle.dumps(found)) is found
            if issubclass(found, Exception):
                assert found.__module__ == "psmq_tasks"
            else:
                assert inspect.getsource(found).startswith(("class", "@dataclass"))
