"""The examples of the project's first README, in its order, in one process, word for word.

One thing differs: it wrote ``~./.config/pmsq``, which pathlib itself refuses (nobody is called ".").
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

from psmq import server

EXAMPLES = r"""
# Get or create a queue
from psmq import QueueManager
from pathlib import Path

file_queues = QueueManager(db_dir=Path("~/.config/psmq").expanduser().resolve())
file_test_queue = file_queues.get_queue("test_queue")

# Push a message to a queue
from psmq import QueueManager
import umsgpack
import json

memory_queues = QueueManager()
test_queue = memory_queues.get_queue("test_queue")

msgpack_data = umsgpack.packb({"foo": "bar"})
json_data = json.dumps({"foo": "bar"}).encode("utf-8")
test_queue.push(msgpack_data)
test_queue.push(json_data)

# with serializers and deserializers of the queue
from psmq import QueueManager
import umsgpack
import json

json_serializer = lambda x: json.dumps(x).encode("utf-8")
json_deserializer = lambda x: json.loads(x.decode("utf-8"))

memory_queues = QueueManager()
msgpack_test_queue = memory_queues.get_queue(
    "msgpack_test_queue",
    serializer=umsgpack.packb,
    deserializer=umsgpack.unpackb
)
json_test_queue = memory_queues.get_queue(
    "json_test_queue",
    serializer=json_serializer,
    deserializer=json_deserializer
)

message_data = {"foo": "bar"}
msgpack_test_queue.push(message_data)
json_test_queue.push(message_data)

# Pop a message from a queue
from psmq import QueueManager
import umsgpack

memory_queues = QueueManager()
test_queue = memory_queues.get_queue(
    "msgpack_test_queue",
    serializer=umsgpack.packb,
    deserializer=umsgpack.unpackb
)

message = test_queue.pop()
if message:
    print(message)
else:
    print("No messages in queue.")

# Get a message from a queue
from psmq import QueueManager
import umsgpack

memory_queues = QueueManager()
test_queue = memory_queues.get_queue(
    "msgpack_test_queue",
    serializer=umsgpack.packb,
    deserializer=umsgpack.unpackb
)

message = test_queue.get()
if message:
    print(message)
    message.delete()
else:
    print("No messages in queue.")
"""

LOOK = """
popped = memory_queues.get_queue("msgpack_test_queue", serializer=umsgpack.packb, deserializer=umsgpack.unpackb)
popped.push({"foo": "bar"})
got = popped.get()
report = {
    "folder": str(file_queues.db_dir),
    "in the folder": file_queues.list_queues(),
    "in memory": memory_queues.list_queues(),
    "bytes": [message.data.decode("latin-1") for message in memory_queues.get_queue("test_queue").get_many(5)],
    "json": json_test_queue.get().data,
    "msgpack": got.data,
    "fields": [got.sent <= got.first_retrieved, got.retrieval_count, got.message_id > "0"],
}
got.delete()
report["left"] = popped.info().ready + popped.info().leased
print(json.dumps(report))
"""


@pytest.fixture
def home(tmp_path):
    yield tmp_path
    server.stop(tmp_path / ".config" / "psmq")


def run(source, home):
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", source],
        env={**os.environ, "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert found.stderr == ""
    assert found.returncode == 0
    return found.stdout.splitlines()


def test_the_first_readme_runs_as_written(home):
    """Its queues are where it says, and hold what it pushed; pop takes the message, so get finds none."""
    popped, empty, report = run(EXAMPLES + LOOK, home)
    assert popped.startswith("Message(")
    assert "foo" in popped
    assert empty == "No messages in queue."
    found = json.loads(report)
    assert found["folder"] == str((home / ".config" / "psmq").resolve())
    assert found["in the folder"] == ["test_queue"]
    assert found["in memory"] == ["json_test_queue", "msgpack_test_queue", "test_queue"]
    assert found["bytes"] == ["\x81\xa3foo\xa3bar", '{"foo": "bar"}']
    assert found["json"] == found["msgpack"] == {"foo": "bar"}
    assert found["fields"] == [True, 1, True]
    assert found["left"] == 0


def test_a_message_got_and_not_deleted_comes_back_when_its_process_has_crashed(home):
    """'If this process crashes, the message appears in the queue after the visibility timeout expires.'"""
    crash = """
    import os, signal
    from pathlib import Path
    from psmq import QueueManager
    queue = QueueManager(db_dir=Path("~/.config/psmq").expanduser()).get_queue("work", visibility_timeout=0.5)
    queue.push(b"once more")
    print(queue.get().retrieval_count, flush=True)
    os._exit(1)
    """
    again = """
    from pathlib import Path
    from psmq import QueueManager
    queue = QueueManager(db_dir=Path("~/.config/psmq").expanduser()).get_queue("work")
    message = queue.get(wait=10)
    print(message.data, message.retrieval_count)
    message.delete()
    """
    dead = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(crash)],
        env={**os.environ, "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (dead.returncode, dead.stdout) == (1, "1\n")
    assert run(textwrap.dedent(again), home) == ["b'once more' 2"]
