"""A disk that fills up under load: pushes say so, nothing acknowledged is lost, and it goes on when there is space."""

from __future__ import annotations

import subprocess
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from support import wait_until

from psmq import Delete
from psmq.errors import DiskFull, OutcomeUnknown, PsmqError, ServerUnreachable

pytestmark = [pytest.mark.chaos_long, pytest.mark.timeout(180)]

#: seconds after which it works again once there is space
SOON = 5.0


class Disk:
    """A small file system of its own."""

    def __init__(self, path):
        self.path = path
        self.ballast = path / "ballast"

    def fill(self):
        with pytest.raises(OSError), self.ballast.open("ab", buffering=0) as file:
            while True:
                file.write(b"\0" * 4096)

    def make_space(self):
        self.ballast.unlink()


@pytest.fixture
def disk():
    path = Path(tempfile.mkdtemp(prefix="psmq-disk-", dir="/tmp"))
    command = ["mount", "-t", "tmpfs", "-o", "size=24m,mode=0700", "tmpfs", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        path.rmdir()
        pytest.skip(f"may not mount a small tmpfs: {done.stderr.strip()}")
    yield Disk(path)
    subprocess.run(["umount", str(path)], check=True)
    path.rmdir()


class Pusher(threading.Thread):
    """Sends jobs one by one, and counts what it is told."""

    def __init__(self, arena):
        super().__init__()
        self.arena, self.told, self.done, self.pushed_at = arena, Counter(), threading.Event(), 0.0
        self.start()

    def run(self):
        while not self.done.is_set():
            try:
                self.arena.push(1, 0.002)
                self.pushed_at = time.monotonic()
                self.told["pushed"] += 1
            except PsmqError as error:
                self.told[type(error)] += 1
            time.sleep(0.005)

    def end(self):
        self.done.set()
        self.join(60)


def test_a_full_disk_under_load_is_an_error_that_ends(disk, make_arena, figure):
    """everysec: the server lives and refuses; workers wait, then go on with the same processes."""
    arena = make_arena(options=["--dir", disk.path])
    (worker,) = arena.keep_workers("-p", 2, "-t", 2)
    children = wait_until(lambda: len(found := worker.children()) == 2 and found)
    pusher = Pusher(arena)
    wait_until(lambda: pusher.told["pushed"] > 200, 20)
    disk.fill()
    wait_until(lambda: pusher.told[DiskFull] > 20, 20)
    time.sleep(3)  # longer than the leases
    disk.make_space()
    back = time.monotonic()
    wait_until(lambda: pusher.pushed_at > back, 20)
    recovered = time.monotonic() - back
    ran = len(arena.history.read())
    wait_until(lambda: len(arena.history.read()) > ran + 100, 20)
    working = time.monotonic() - back
    pusher.end()
    arena.drain(30)
    found = arena.verdict()
    print(f"told {dict(pusher.told)}; pushes after {recovered:.2f} s, work after {working:.2f} s")
    assert found.holds
    assert (found.done, found.overlapping, found.dead) == (found.pushed, 0, 0)
    assert pusher.told.keys() == {"pushed", DiskFull}
    assert recovered < SOON
    assert worker.alive
    assert worker.children() == children
    arena.kill_server()
    arena.start_server()
    assert arena.verdict().holds, "what is on the disk is what was said"
    figure(
        f"a full disk under load, {found.pushed:,} tasks",
        f"{pusher.told[DiskFull]} pushes refused; 0 lost, {found.twice} twice; pushes {recovered:.2f} s and work "
        f"{working:.2f} s after there was space",
        f"0 lost, ≤ {SOON:g} s",
    )


def test_a_server_that_ends_with_its_disk_has_all_that_it_acknowledged(disk, make_arena):
    """always: it ends at the first write that fails. Started again when there is space, it has every push that
    returned, and the workers go on."""
    arena = make_arena(options=["--dir", disk.path, "--appendfsync", "always"])
    (worker,) = arena.keep_workers("-p", 2, "-t", 2)
    pusher = Pusher(arena)
    wait_until(lambda: pusher.told["pushed"] > 200, 20)
    disk.fill()
    wait_until(lambda: arena.server.poll() is not None, 20)
    disk.make_space()
    arena.start_server()
    back = time.monotonic()
    wait_until(lambda: pusher.pushed_at > back, 20)
    recovered = time.monotonic() - back
    before = pusher.told["pushed"]
    wait_until(lambda: pusher.told["pushed"] > before + 100, 20)
    pusher.end()
    arena.drain(30)
    found = arena.verdict()
    print(f"told {dict(pusher.told)}; pushes after {recovered:.2f} s")
    assert found.holds
    assert (found.overlapping, found.dead, found.queued) == (0, 0, 0)
    assert found.done >= found.pushed
    assert pusher.told.keys() <= {"pushed", DiskFull, ServerUnreachable, OutcomeUnknown}
    assert recovered < SOON
    assert worker.alive


def test_every_verb_says_that_the_disk_is_full_and_changes_nothing(disk, make_arena):
    """What only looks goes on; what was tried is as if it had not been."""
    arena = make_arena(options=["--dir", disk.path], timeout=60)
    queue = arena.queue
    queue.push_many([b"x"] * 10)
    held = queue.get()
    disk.fill()

    def refused():
        try:
            queue.push(b"y" * 1000)
        except DiskFull:
            return True
        return False

    wait_until(refused, 20)
    before = queue.info()
    for verb in (
        queue.get, queue.pop, queue.purge, held.delete, lambda: held.extend(60), lambda: held.bury("no"),
        lambda: queue.push_many([b"z"] * 500), lambda: queue.exchange([(held, Delete())], 5),
        lambda: arena.manager.get_queue("another"),
    ):  # fmt: skip
        with pytest.raises(DiskFull) as caught:
            verb()
        assert "\n" not in str(caught.value)
    after = queue.info()
    assert (after.ready, after.leased, after.counters) == (before.ready, before.leased, before.counters)
    assert queue.peek() is not None
    assert len(queue.messages("ready", limit=1000)) == before.ready
    disk.make_space()
    wait_until(lambda: not refused(), SOON)
    held.delete()
    assert queue.get() is not None
