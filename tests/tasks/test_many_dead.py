"""Very many dead letters: what is looked for is found in little time and memory, and nobody else is held up.

Time is that of the processors: a machine that does other things, too, must not fail a test.
"""

from __future__ import annotations

import time
import tracemalloc

import pytest
import redis
from mishaps import failure

from psmq import Bury, QueueManager
from psmq_tasks.inspection import Filter, Inspector

COUNT = 20_000
#: µs of either processor for a letter: nearly twice what a busy machine was seen to need (22 of the client's)
CLIENT, SERVER = 40.0, 80.0
#: ms of the server's processor for a call, on average
CALL = 10.0


@pytest.fixture(scope="module")
def crowd(quiet_server):
    """A server on which so many letters are dead, of four errors, with tracebacks, after three attempts each."""
    with QueueManager(url=quiet_server) as manager:
        queue = manager.get_queue("q")
        kinds = [(f"Kind{number}Error", f"no {number}") for number in range(4)]
        record = [failure(1, message, kind=kind) for kind, message in kinds]
        for _ in range(COUNT // 1000):
            queue.push_many([b"body" * 20] * 1000, metadata={"task": "mail:send", "args": "1", "sender": "host:1"})
            for attempt in range(3):
                got = queue.get_many(1000)
                queue.exchange(
                    [(one, Bury("{}: {}".format(*kinds[at % 4]), failure=record[at % 4])) for at, one in enumerate(got)]
                )
                if attempt < 2:
                    queue.redrive([one.message_id for one in got])
        with redis.Redis.from_url(quiet_server) as raw:
            yield Inspector(manager), raw


@pytest.mark.parametrize("what", ["error", "task", "queue", "reason", "--error", "--reason", "--task", "list --error"])
def test_looking_through_them_takes_little_time(crowd, what):
    """Counting by what they have in common, and choosing by each filter."""
    inspector, raw = crowd
    look = {
        "--error": lambda: inspector.count_dead(Filter(error="Kind1")),
        "--reason": lambda: inspector.count_dead(Filter(reason="Kind1")),
        "--task": lambda: inspector.count_dead(Filter(task="mail:*")),
        "list --error": lambda: inspector.newest_dead(Filter(error="Kind1"), 50).total,
    }.get(what, lambda: sum(group.count for group in inspector.group_dead(by=what)))
    raw.config_resetstat()
    before, began = raw.info("cpu"), time.process_time()
    found = look()
    client = (time.process_time() - began) / COUNT * 1e6
    after = raw.info("cpu")
    server = sum(after[f"used_cpu_{kind}"] - before[f"used_cpu_{kind}"] for kind in ("user", "sys")) / COUNT * 1e6
    assert found == (COUNT // 4 if what in ("--error", "--reason", "list --error") else COUNT)
    assert client < CLIENT
    assert server < SERVER
    calls = raw.info("commandstats")["cmdstat_fcall"]["calls"]
    assert server * COUNT / calls < CALL * 1000


def test_the_first_of_them_are_sent_back_at_once(crowd):
    """A redrive by filter does not read all before it does something."""
    inspector, raw = crowd
    raw.config_resetstat()
    assert inspector.redrive_all(Filter(error="Kind2"), limit=10).done == 10
    assert raw.info("commandstats")["cmdstat_fcall"]["calls"] < 10


def test_no_more_than_a_page_is_held(crowd):
    """However many there are."""
    inspector, _ = crowd
    tracemalloc.start()
    try:
        inspector.newest_dead(Filter(error="Kind1"), 50)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 8 * 2**20
