"""An app on the in-memory server, with a queue of its own for each test; and the least that a worker does."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import settings

from psmq import Bury, Delete, id_random
from psmq_tasks import TaskApp
from psmq_tasks.executor import CurrentMessage, run
from psmq_tasks.outcome import Returned
from psmq_tasks.payload import open_call, seal_result

# A machine that is busy with other tests is not a failure.
settings.register_profile("psmq", deadline=None)
settings.load_profile("psmq")


@pytest.fixture
def app():
    app = TaskApp(f"t{uuid.uuid4().hex[:12]}", url="memory:")
    yield app
    app.close()


def work(app, queue_name=None):
    """Runs the next call of a queue and writes its result. → its outcome, or None if there is no call"""
    queue = app.queue(queue_name or app.name)
    message = queue.get()
    if message is None:
        return None
    place = {"namespace": app.namespace, "queue": queue.name, "random": id_random(message.message_id)}
    task, args, kwargs = app.load(open_call(app.keyring, message.data, **place))
    mine = CurrentMessage(message.message_id, task.name, queue.name, message.retrieval_count, message.metadata)
    outcome = run(task.function, args, kwargs, mine, task.options.limits({})[0])
    result = seal_result(app.keyring, outcome, **place)
    settlement = Delete(result) if isinstance(outcome, Returned) else Bury("it failed", result=result)
    words, _ = queue.exchange([(message, settlement)])
    assert words == ["done"]
    return outcome
