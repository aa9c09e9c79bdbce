"""A real server for everybody: PSMQ_TEST_URL, or the in-memory one of this process. Queues have fresh names and are
deleted after their test, so tests run side by side on one server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from freezegun import freeze_time
from hypothesis import HealthCheck, settings
from support import fresh_name, raw_client, wait_until

from psmq import AsyncQueueManager, QueueManager, server

_common = {"deadline": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("psmq", max_examples=60, stateful_step_count=40, **_common)
settings.load_profile("psmq")


@pytest.fixture(scope="session")
def server_url():
    return os.environ.get("PSMQ_TEST_URL") or f"unix://{server.ensure_memory()}"


@contextlib.contextmanager
def running_server():
    """A server of one's own, by its URL. PSMQ_TEST_BINARY: of which kind, where the shared one is not our own."""
    folder = Path(tempfile.mkdtemp(prefix="psmq-own-", dir="/tmp"))
    socket = folder / "s"
    binary = os.environ.get("PSMQ_TEST_BINARY") or str(server.find_binary())
    words = [binary, "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(folder), "--hz", "100"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(socket.exists)
            yield f"unix://{socket}"
        finally:
            process.kill()
            process.wait()
            shutil.rmtree(folder)


@pytest.fixture
def own_server():
    """A server for one test: to fill it, flush its functions, count its commands or kill it."""
    with running_server() as url:
        yield url


@pytest.fixture(scope="module")
def quiet_server():
    """A server for one file of tests, on which nobody else sends commands."""
    with running_server() as url:
        yield url


@pytest.fixture(scope="session")
def raw_server(server_url):
    """A redis-py client, to see what really is on the server and to send what psmq never would."""
    with raw_client(server_url) as client:
        yield client


@pytest.fixture
def manager(server_url):
    with QueueManager(url=server_url) as manager:
        yield manager


@pytest.fixture
def new_queue(manager):
    """Makes queues with a fresh name: new_queue(**config)."""
    made = []

    def make(**config):
        queue = manager.get_queue(fresh_name(), **config)
        made.append(queue.name)
        return queue

    yield make
    for name in made:
        if name in manager.list_queues():
            manager.delete_queue(name)


@pytest.fixture
def queue(new_queue):
    return new_queue()


@pytest.fixture
def clock():
    """The time of queues made with clock="test": clock.tick(seconds), clock.move_to(time)."""
    with freeze_time("2030-01-01 12:00:00", real_asyncio=True) as frozen:
        yield frozen


@pytest.fixture
def test_queue(clock, new_queue):
    """A queue whose time is moved by `clock`."""
    return new_queue(clock="test")


@pytest.fixture
def in_loop(server_url):
    """Runs ``async def body(manager, queue)`` on an event loop with an AsyncQueueManager and a fresh queue."""

    def run(body, **config):
        async def whole():
            async with AsyncQueueManager(url=server_url) as manager:
                queue = await manager.get_queue(fresh_name("a"), **config)
                try:
                    return await body(manager, queue)
                finally:
                    if queue.name in await manager.list_queues():
                        await manager.delete_queue(queue.name)

        return asyncio.run(whole())

    return run
