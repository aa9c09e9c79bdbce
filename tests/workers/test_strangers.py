"""Messages that a worker must not run, or cannot: nothing of them is unpickled, nothing stops the others."""

from __future__ import annotations

import pickle

import pytest
from support import wait_until

from psmq import NewMessage, draw_randoms, id_random
from psmq_tasks import TaskBuried, TaskFailed
from psmq_tasks.payload import Keyring, dump_call, seal_call


class Marker:
    """Unpickling it leaves a mark."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_what_is_not_signed_with_our_key_is_buried_unread(stage, tmp_path):
    """Garbage, raw pickles, other keys' calls, calls copied to another id: dead with a reason, never unpickled."""
    tasks = stage.tasks("@app.task\ndef one(x): note('ran', x)")
    mark = tmp_path / "mark"
    stage.worker("-p", 1)
    queue, name = stage.queue, stage.name
    place = {"namespace": "psmq", "queue": name, "task": f"{stage.module}:one", "codec": "pickle"}
    body, _ = dump_call(None, (Marker(mark),), {})
    random = draw_randoms(1)[0]
    forged = seal_call(Keyring([b"z" * 40]), random=random, by_value=False, headers={}, body=body, **place)
    bad = [queue.push(b"garbage"), queue.push(pickle.dumps(Marker(mark))), queue.push(b"")]
    bad += queue.push_many([NewMessage(forged, random=random)])
    handle = tasks.one.delay("good")
    handle.result(timeout=10)
    # The same signed bytes under another id, and in another queue.
    ours = Keyring([stage.secret.encode()])
    drawn = draw_randoms(1)[0]
    copied = seal_call(ours, random=drawn, by_value=False, headers={}, body=body, **place)
    bad.append(queue.push(copied))
    wait_until(lambda: queue.info().dead == len(bad))
    letters = queue.dead_letters()
    assert sorted(letter.message.message_id for letter in letters) == sorted(bad)
    assert all(letter.reason for letter in letters)
    assert {letter.message.retrieval_count for letter in letters} == {1}
    assert not mark.exists()
    assert stage.lines() == ["ran good"]
    assert id_random(bad[3]) == random


def test_an_unknown_task_waits_for_a_worker_that_knows_it(stage):
    """In a rolling deploy: handed back uncounted after a second, and run by the new worker."""
    tasks = stage.tasks("@app.task\ndef old(): note('old')")
    stage.worker("-p", 1)
    new = stage.folder / "newer.py"
    new.write_text((stage.folder / f"{stage.module}.py").read_text() + "\n@app.task\ndef fresh(): note('fresh')\n")
    import importlib
    import sys

    sys.path.insert(0, str(stage.folder))
    try:
        newer = importlib.import_module("newer")
    finally:
        sys.path.remove(str(stage.folder))
    newer.fresh.delay()
    wait_until(lambda: stage.queue.info().counters["uncounted"] >= 1)
    stage.worker("-p", 1, app="newer")
    wait_until(lambda: "fresh" in stage.lines(), 20)
    # Both wait for it to be due; whoever could not run it lets the others go first.
    assert stage.queue.info().counters["uncounted"] <= 3
    newer.app.close()
    tasks.app.close()
    sys.modules.pop("newer")
    assert stage.queue.info().dead == 0


def test_who_only_claims_a_newer_version_is_buried_at_once(stage, monkeypatch):
    """What our key signed waits for a newer worker; what it did not would circle for a day."""
    from psmq_tasks import envelope

    stage.tasks("@app.task\ndef one(): pass")
    place = {"namespace": "psmq", "queue": stage.name, "task": f"{stage.module}:one", "codec": "pickle"}
    body, _ = dump_call(None, (), {})
    with monkeypatch.context() as patch:
        patch.setattr(envelope, "VERSION", 2)
        patch.setattr(envelope, "SIGNED", b"psmq\x02\x01")
        made = []
        for key in (stage.secret.encode(), b"z" * 40):
            random = draw_randoms(1)[0]
            data = seal_call(Keyring([key]), random=random, by_value=False, headers={}, body=body, **place)
            made.append(NewMessage(data, random=random))
    ours, forged = stage.queue.push_many(made)
    unsigned = stage.queue.push(b"psmq\x02\x00" + body)
    stage.worker("-p", 1)
    wait_until(lambda: stage.queue.info().dead == 2)
    letters = {letter.message.message_id: letter.reason for letter in stage.queue.dead_letters()}
    assert letters.keys() == {forged, unsigned}
    assert letters[forged].startswith("ForgedPayload")
    assert letters[unsigned].startswith("UnsignedPayload")
    wait_until(lambda: stage.queue.info().counters["uncounted"] >= 1)
    (waiting,) = stage.queue.messages("delayed")
    assert waiting.message_id == ours


def test_a_by_value_call_of_another_python_is_not_touched(stage):
    """Unpickling one can crash the interpreter: it goes back like an unknown task."""
    stage.tasks("@app.task\ndef one(): pass")
    random = draw_randoms(1)[0]
    body, by_value = dump_call(None, (lambda: 1,), {})
    assert by_value
    import psmq_tasks.payload as payload

    tag, payload._TAG = payload._TAG, b"cpython-39"
    try:
        data = seal_call(
            Keyring([stage.secret.encode()]),
            namespace="psmq",
            queue=stage.name,
            random=random,
            task="somewhere:else",
            codec="pickle",
            by_value=True,
            headers={},
            body=body,
        )
    finally:
        payload._TAG = tag
    stage.queue.push_many([NewMessage(data, random=random)])
    stage.worker("-p", 1)
    wait_until(lambda: stage.queue.info().counters["uncounted"] >= 1)
    assert stage.queue.info().dead == 0
    assert "cpython-39" in stage.output() or "given back" in stage.output()


def test_whatever_a_task_raises_or_returns_the_worker_goes_on(stage):
    """sys.exit, KeyboardInterrupt, errors and results that do not pickle: outcomes like any other."""
    tasks = stage.tasks(
        """
        once = dict(stop=stop_after_attempt(1))
        class Awkward(Exception):
            def __init__(self, a, b): super().__init__('awkward')
        @app.task(**once)
        def leave(): sys.exit(3)
        @app.task(**once)
        def interrupt(): raise KeyboardInterrupt
        @app.task(**once)
        def awkward(): raise Awkward(1, 2)
        @app.task(**once)
        def lock(): import threading; return threading.Lock()
        @app.task(**once)
        def reject(): raise Reject('no use')
        @app.task(wait=wait_fixed(60))
        def again():
            if current_message().attempt == 1: raise Retry(after=0.05)
            return current_message().attempt
        @app.task
        def pid(): return os.getpid()
        """
    )
    stage.worker("-p", 1)
    pid = tasks.pid.delay().result(timeout=10)
    for name in ("leave", "interrupt", "awkward"):
        with pytest.raises(TaskFailed):
            getattr(tasks, name).delay().result(timeout=10)
    assert "lock" in repr(tasks.lock.delay().result(timeout=10))
    with pytest.raises((TaskFailed, TaskBuried), match="no use"):
        tasks.reject.delay().result(timeout=10)
    assert tasks.again.delay().result(timeout=10) == 2
    assert tasks.pid.delay().result(timeout=10) == pid, "the process has lived through all of it"


def test_a_main_script_s_tasks_run_on_a_worker_without_the_script(stage):
    """By value: function, policy and the tasks it sends travel along; the worker needs no APP."""
    stage.manager.get_queue(stage.name)
    script = stage.folder / "script.py"
    url = stage.manager.settings()["url"]
    script.write_text(
        f"""
import os, sys
from tenacity import stop_after_attempt, wait_fixed
from psmq_tasks import TaskApp, current_message
app = TaskApp({stage.name!r}, url={url!r}, secret={stage.secret!r})
LOG = {str(stage.log)!r}

@app.task
def second(n):
    return n + 1

@app.task(stop=stop_after_attempt(3), wait=wait_fixed(0.05))
def first(n):
    if current_message().attempt < 3:
        raise OSError('not yet')
    if n:
        return [first.delay(n - 1).id, second.delay(n).id]
    return 'end'

print(first.delay(1).result(timeout=20), second.delay(41).result(timeout=20))
print((lambda: 0) and app.task(lambda x: x * 2, name='double').delay(21).result(timeout=20))
"""
    )
    import os
    import subprocess
    import sys

    stage.worker("-q", stage.name, "-u", url, "-p", 1, app="")
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, env={**os.environ}, check=False
    )
    assert done.returncode == 0, done.stderr + stage.output()
    assert done.stdout.splitlines()[0].endswith(" 42")
    assert done.stdout.splitlines()[1] == "42"
    wait_until(lambda: stage.queue_info().leased + stage.queue_info().ready + stage.queue_info().delayed == 0, 20)
    assert stage.queue_info().dead == 0
