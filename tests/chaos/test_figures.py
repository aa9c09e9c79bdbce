"""The long runs, whose table is in the README: ``pytest -m chaos_long tests/chaos`` (some twenty minutes).

``PSMQ_CHAOS_SCALE=0.1`` makes them a tenth as large.
"""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
from chaos.proxy import Proxy
from support import wait_until

from psmq import QueueManager
from psmq_tasks.torture import check, percentile

pytestmark = [pytest.mark.chaos_long, pytest.mark.timeout(1200)]

SCALE = float(os.environ.get("PSMQ_CHAOS_SCALE", "1"))


def scaled(count):
    return max(1, int(count * SCALE))


def seconds(value):
    return "none" if value is None else f"{value:.2f} s"


def test_no_fault(arena, figure):
    count = scaled(100_000)
    arena.worker("-p", 2, "-t", 8)
    began = time.monotonic()
    arena.push(count, batch=1000)
    arena.drain(600)
    took = time.monotonic() - began
    found = arena.verdict()
    assert found.holds
    assert (found.done, found.twice) == (count, 0)
    figure(
        f"no fault, {count:,} tasks",
        f"{len(found.lost)} lost, {found.twice} twice, {took:.0f} s",
        "0 lost, 0 twice",
    )


def test_killed_children(arena, figure):
    count, kills = scaled(10_000), scaled(200)
    worker = arena.worker("-p", 2, "-t", 4)
    arena.push(count, 0.12, batch=1000)
    done = 0
    while done < kills and arena.left():
        time.sleep(arena.dice.uniform(0.5, 1.0))
        done += worker.kill_a_child(arena.dice)
    arena.drain(600)
    found = arena.verdict()
    assert found.holds
    assert (found.done, found.overlapping) == (count, 0)
    # Who was hit a second time in a row waits for seconds, as what kills its process would.
    firsts = check([record for record in arena.history.read() if record.attempt < 3], {}, {}).recoveries
    figure(
        f"SIGKILL to a child, {done} times in {count:,} tasks",
        f"{len(found.lost)} lost, {found.twice} twice; {len(firsts)} interrupted, started again after "
        f"{seconds(percentile(firsts, 50))} (p50), {seconds(percentile(firsts, 95))} (p95); with the "
        f"{len(found.recoveries) - len(firsts)} that were hit again: {seconds(percentile(found.recoveries, 95))} (p95), "
        f"{seconds(percentile(found.recoveries, 100))} (longest)",
        "0 lost, p95 ≤ 1 s",
    )


def test_killed_supervisors(arena, figure):
    kills = scaled(50)
    arena.keep_workers(count=2)
    feeding = arena.feed(kills * 1.5, 60, 0.05)
    done = 0
    while done < kills:
        time.sleep(1.0)
        arena.keep_workers(count=2)[0].kill()
        done += 1
    feeding.join()
    arena.keep_workers(count=2)
    arena.drain(300)
    found = arena.verdict()
    assert found.holds
    assert (found.done, found.overlapping) == (found.pushed, 0)
    figure(
        f"SIGKILL to a whole worker, {done} times in {found.pushed:,} tasks, leases of 2 s",
        f"{len(found.lost)} lost, {found.twice} twice; {len(found.recoveries)} interrupted, started again after "
        f"{seconds(percentile(found.recoveries, 50))} (p50), {seconds(percentile(found.recoveries, 100))} (longest)",
        "0 lost, none later than timeout + 1 s",
    )


def test_killed_servers(arena, figure):
    kills = scaled(20)
    arena.worker("-p", 2, "-t", 4)
    feeding = arena.feed(kills * 2.2, 150, 0.01)
    resumed = []
    for _ in range(kills):
        time.sleep(arena.dice.uniform(0.8, 1.4))
        arena.kill_server()
        time.sleep(arena.dice.uniform(0.0, 0.5))
        arena.start_server()
        back = time.monotonic()
        wait_until(lambda back=back: any(r.kind == "start" and r.time > back for r in arena.history.read()[-500:]), 20)
        resumed.append(min(r.time for r in arena.history.read()[-2000:] if r.kind == "start" and r.time > back) - back)
    feeding.join()
    arena.drain(120)
    found = arena.verdict()
    assert found.holds
    assert found.done >= found.pushed
    figure(
        f"SIGKILL to the server, {kills} times in {found.pushed:,} tasks",
        f"{len(found.lost)} lost, {found.twice} twice; work resumed after {seconds(percentile(resumed, 50))} (p50), "
        f"{seconds(percentile(resumed, 100))} (longest)",
        "0 lost, ≤ 2 s",
    )


@pytest.mark.parametrize("rate", [0.02, 0.10, 0.30])
def test_lost_replies(arena, figure, rate):
    count = scaled(10_000)
    with Proxy(str(arena.socket), arena.seed, drop_reply=rate) as proxy:
        with QueueManager(url=proxy.url, timeout=120) as manager:
            queue = manager.get_queue(arena.name)
            ids = []

            def push():
                for number in range(count // 4):
                    ids.append(queue.push(b"%d" % number))

            threads = [threading.Thread(target=push) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        lost = proxy.happened["drop reply"]
    stored = []
    while got := arena.queue.get_many(1000):
        stored += [message.message_id for message in got]
    assert sorted(stored) == sorted(ids)
    assert len(set(ids)) == count // 4 * 4
    figure(
        f"{rate:.0%} of the replies lost, {len(ids):,} pushes",
        f"{len(stored):,} messages ({lost:,} replies were lost)",
        "as many messages as pushes",
    )


def test_stopped_workers(arena, figure):
    stops = scaled(50)
    arena.keep_workers("-p", 1, "-t", 4, count=2)
    feeding = arena.feed(stops * 3.0, 30, 0.3)
    for _ in range(stops):
        stopped = arena.dice.choice(arena.workers)
        stopped.signal_all(signal.SIGSTOP)
        time.sleep(2.7)
        stopped.signal_all(signal.SIGCONT)
        time.sleep(0.3)
    feeding.join()
    arena.drain(120)
    found = arena.verdict()
    assert found.holds
    assert found.done == found.pushed
    deleted = arena.queue.info().counters["deleted"]
    assert deleted == found.pushed, "a late settlement was accepted"
    refused = sum(worker.log.read_text().count("was refused") for worker in arena.workers)
    figure(
        f"SIGSTOP for longer than the leases, {stops} times in {found.pushed:,} tasks",
        f"{len(found.lost)} lost, {deleted:,} deleted; {refused} late settlements, each refused",
        "0 lost, each late settlement refused",
    )


def test_killers(arena, figure):
    killers, others = scaled(100), scaled(900)
    arena.worker("-p", 2, "-t", 4)
    began = time.monotonic()
    for _ in range(killers):
        arena.push(1, task="killer")
        arena.push(others // killers, 0.005)
    arena.drain(900)
    took = time.monotonic() - began
    found = arena.verdict()
    assert found.holds
    assert (found.dead, found.done) == (killers, others // killers * killers)
    starts = [record.key for record in arena.history.read() if record.kind == "start"]
    assert all(starts.count(key) == 3 for key in set(starts) if key.startswith("killer"))
    figure(
        f"{killers} killers among {found.pushed:,} tasks",
        f"{found.dead} dead, each after exactly 3 starts; {found.done} done; {took:.0f} s",
        "the dead are exactly the killers",
    )


def test_rolling_restarts(arena, figure):
    restarts = scaled(12)
    arena.keep_workers("-p", 2, "-t", 4, count=2)
    feeding = arena.feed(restarts * 5.0, 200, 0.02)
    done = 0
    while feeding.is_alive():
        time.sleep(4.0)
        oldest = next(worker for worker in arena.workers if worker.alive)
        arena.worker("-p", 2, "-t", 4)
        assert oldest.end() == 0
        done += 1
    arena.drain(120)
    found = arena.verdict()
    assert found.holds
    assert (found.done, found.twice) == (found.pushed, 0)
    figure(
        f"rolling restart every 5 s, {done} times in {found.pushed:,} tasks",
        f"{len(found.lost)} lost, {found.twice} twice",
        "0 lost, 0 twice",
    )
