"""The server's clock jumps by an hour, there and back, while workers run: nothing early, nothing late, nothing lost.

libfaketime lies to the server about the time of day, and about nothing else.
"""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path

import pytest
from support import wait_until

pytestmark = [pytest.mark.chaos_long, pytest.mark.timeout(300)]

#: seconds that a delayed job waits, and that it may come later than that on a busy machine
DELAY, LATE = 1.5, 2.5


@pytest.fixture
def library():
    for folder in ("/usr/lib", "/usr/local/lib"):
        for found in Path(folder).glob("**/faketime/libfaketime.so.1"):
            return found
    return pytest.skip("needs libfaketime: apt-get install faketime")


class Clock:
    """What the server takes for the time: the real one and so many seconds."""

    def __init__(self, path, library):
        self.path = path
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(path),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }
        self.set(0)

    def set(self, seconds):
        aside = self.path.with_suffix(".new")
        aside.write_text(f"{seconds:+d}")
        aside.rename(self.path)  # whole, whenever it is read
        self.seconds = seconds


@pytest.fixture
def clock(tmp_path, library):
    return Clock(tmp_path / "clock", library)


@pytest.fixture
def arena(clock, make_arena):
    return make_arena(timeout=6, environment=clock.environment)


def server_time(arena):
    """As the server tells it, in seconds ahead of ours."""
    import redis

    with redis.Redis.from_url(arena.url) as client:
        seconds, micros = client.time()
    return seconds + micros / 1e6 - time.time()


class Delayed:
    """Jobs that are due at a known time."""

    def __init__(self, arena):
        self.arena, self.due = arena, {}
        self.task = arena.app.find("job").using(queue=arena.name, delay=DELAY)

    def push(self, count):
        for _ in range(count):
            key = f"job-delayed-{len(self.due)}"
            self.arena.history.note("try", key, "")
            before = time.monotonic()
            (handle,) = self.arena.app.send([self.task.call(str(self.arena.history.path), key)])
            self.arena.history.note("push", key, handle.id)
            self.due[key] = (before + DELAY, time.monotonic() + DELAY)

    def ran(self):
        found = defaultdict(list)
        for record in self.arena.history.read():
            if record.kind == "start" and record.key in self.due:
                found[record.key].append(record.time)
        return found

    def judge(self, keys):
        """→ by how many seconds the first was too early, and the last too late; below 0: it was not"""
        ran = wait_until(lambda: (found := self.ran()).keys() >= set(keys) and found, DELAY + 30)
        early = max(self.due[key][0] - min(ran[key]) for key in keys)
        late = max(min(ran[key]) - self.due[key][1] for key in keys)
        return early, late


def test_workers_go_on_whatever_the_server_s_clock_says(arena, clock, figure):
    """Forward by an hour, back, back by one more, and home: what is pushed before or behind a step back, and behind a
    step forward, comes when it is due; running jobs keep their leases and run once."""
    (worker,) = arena.keep_workers("-p", 2, "-t", 4)
    assert abs(server_time(arena)) < 1
    delayed, table = Delayed(arena), []
    feeding = arena.feed(35.0, 60, 0.01)
    for jump in (3600, 0, -3600, 0, -7200, 3600):
        forward = jump > clock.seconds
        arena.push(4, 3.0)  # they run while it jumps
        time.sleep(0.5)
        known = set(delayed.due)
        if not forward:
            delayed.push(10)
        clock.set(jump)
        wait_until(lambda jump=jump: abs(server_time(arena) - jump) < 1)
        delayed.push(10)
        early, late = delayed.judge(set(delayed.due) - known)
        table.append((jump, round(early, 3), round(late, 3)))
    feeding.join()
    print("jump, early, late (s):", table)
    arena.drain(60)
    found = arena.verdict()
    assert found.holds
    assert (found.done, found.twice, found.overlapping, found.dead) == (found.pushed, 0, 0, 0)
    assert max(early for _, early, _ in table) <= 0
    assert max(late for _, _, late in table) < LATE
    assert worker.alive
    ids = [
        record.message_id
        for record in arena.history.read()
        if record.kind == "push" and record.key.startswith("job-delayed")
    ]
    assert ids == sorted(ids), "ids go up, whatever the clock says"
    late = max(late for _, _, late in table)
    figure(
        f"the server's clock jumps 6 times by 1 to 3 hours, {found.pushed:,} tasks",
        f"0 lost, 0 twice; none early, the latest by {late:.3f} s",
        "0 lost, 0 twice, none early",
    )
