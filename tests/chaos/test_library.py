"""The library on the server: lost, older, or not to be replaced; the work goes on."""

from __future__ import annotations

import threading
import time

import pytest
import redis

from psmq import QueueManager, library
from psmq.errors import ServerUnsuitable


def older():
    """The library as if it were of the release before."""
    ours = library.revision()
    source = library.source().replace(f"calls.revision = {ours}\n", f"calls.revision = {ours - 1}\n")
    assert source != library.source()
    return source


@pytest.fixture
def client(arena):
    with redis.Redis.from_url(arena.url) as client:
        yield client


@pytest.fixture
def limited(arena, client):
    """The URL of a user who may call functions and not load them."""
    client.execute_command("ACL", "SETUSER", "limited", "on", ">pw", "~*", "&*", "+@all", "-function")
    return arena.url.replace("unix://", "unix://limited:pw@")


def test_functions_that_are_flushed_come_back_and_no_command_is_done_twice(arena, client):
    """FUNCTION FLUSH twenty times a second under load: each job is done once."""
    arena.worker("-p", 1, "-t", 4)
    ends = time.monotonic() + 2

    def flush():
        while time.monotonic() < ends:
            client.function_flush()
            time.sleep(0.05)

    thread = threading.Thread(target=flush)
    thread.start()
    while time.monotonic() < ends:
        arena.push(10)
    thread.join()
    arena.drain(20)
    found = arena.verdict()
    assert found.holds
    assert (found.done, found.twice) == (found.pushed, 0)


def test_an_older_library_is_replaced(arena, client):
    """By the first client of a newer release, in the middle of whatever it does."""
    client.function_load(older(), replace=True)
    arena.queue.push(b"x")
    (found,) = client.function_list("psmq_v1", withcode=True)
    assert f"calls.revision = {library.revision()}\n".encode() in found[found.index(b"library_code") + 1]


def test_who_may_not_replace_an_older_library_goes_on_with_it(client, arena, limited):
    """It does all that it ever did; and it stays as it is."""
    client.function_load(older(), replace=True)
    with QueueManager(url=limited) as manager:
        queue = manager.get_queue(arena.name)
        queue.push(b"x")
        message = queue.get()
        assert message.data == b"x"
        message.delete()
    (found,) = client.function_list("psmq_v1", withcode=True)
    assert f"calls.revision = {library.revision() - 1}\n".encode() in found[found.index(b"library_code") + 1]


def test_who_may_not_load_a_missing_library_is_told_the_way(client, arena, limited):
    """One line that names the command of an administrator."""
    client.function_flush()
    with QueueManager(url=limited) as manager, pytest.raises(ServerUnsuitable, match="psmq server load"):
        manager.get_queue(arena.name)
