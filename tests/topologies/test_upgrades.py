"""Clients of two revisions on one server: the newer library stays, the older client is served, nobody loses anything."""

from __future__ import annotations

import asyncio
import re

import pytest
from support import python, wait_until

from psmq import AsyncQueueManager, QueueManager, library
from psmq.errors import ServerUnsuitable


def source_of(revision):
    """The library as of another revision."""
    return re.sub(r"(?m)^calls\.revision = \d+$", f"calls.revision = {revision}", library.source())


def revision_on(server):
    """What the server's library says of itself."""
    with server.client() as client:
        code = client.execute_command("FUNCTION", "LIST", "WITHCODE")
    return int(re.search(r"calls\.revision = (\d+)", str(code))[1])


#: pushes and gets, as a client of the revision that is its second argument
CLIENT = """
import re, sys
from psmq import QueueManager, library

url, revision, name = sys.argv[1], int(sys.argv[2]), sys.argv[3]
text = re.sub(r"(?m)^calls\\.revision = \\d+$", f"calls.revision = {revision}", library.source())
library.source, library.revision = lambda: text, lambda: revision
with QueueManager(url=url) as manager:
    queue = manager.get_queue("q")
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(300):
        queue.push(b"%s-%d" % (name.encode(), number))
        if message := queue.get():
            print(message.data.decode())
            message.delete()
"""


def test_clients_of_two_revisions_work_side_by_side(fleet):
    """In whatever order they come: each message is got once, and the library is the newer one's."""
    server, now = fleet.start(), library.revision()
    with (
        python(CLIENT, server.url, now, "old") as old,
        python(CLIENT, server.url, now + 1, "new") as new,
    ):
        for one in (old, new):
            assert one.stdout.readline() == "ready\n"
        found = [one.communicate("\n", timeout=60) for one in (old, new)]
        assert [one.returncode for one in (old, new)] == [0, 0], found
    got = [line for out, _ in found for line in out.split()]
    with QueueManager(url=server.url) as manager:
        queue = manager.get_queue("q")
        got += [message.data.decode() for message in queue.get_many(1000)]
        assert sorted(got) == sorted(f"{name}-{number}" for name in ("old", "new") for number in range(300))
        queue.push(b"x")
    assert revision_on(server) == now + 1


def test_an_older_client_leaves_a_newer_library_alone(fleet):
    """Also one that is not asked for anything new."""
    server, now = fleet.start(), library.revision()
    server.ask("FUNCTION", "LOAD", source_of(now + 5))
    with QueueManager(url=server.url) as manager:
        manager.load_library()
        manager.get_queue("q").push(b"x")
    assert revision_on(server) == now + 5


def test_a_newer_client_replaces_an_older_library(fleet):
    """By its first call, which is repeated then."""
    server, now = fleet.start(), library.revision()
    server.ask("FUNCTION", "LOAD", source_of(now - 1))
    with QueueManager(url=server.url) as manager:
        manager.get_queue("q").push(b"x")
    assert revision_on(server) == now


def test_where_it_may_not_replace_it_a_newer_client_speaks_the_older_one(fleet):
    """It needs nothing that is new."""
    server, now = fleet.start(), library.revision()
    server.ask("FUNCTION", "LOAD", source_of(now - 1))
    server.ask("ACL", "SETUSER", "ada", "on", ">pw", "~*", "+@all", "-function")
    with QueueManager(url=server.url.replace("//", "//ada:pw@")) as manager:
        queue = manager.get_queue("q")
        queue.push(b"x")
        assert queue.get(wait=1).data == b"x"
    assert revision_on(server) == now - 1


def test_data_of_a_newer_layout_is_refused_by_both_kinds_of_clients(fleet):
    """With one line that says what to do; and it is left as it is."""
    server = fleet.start()
    with QueueManager(url=server.url) as manager:
        queue = manager.get_queue("q")
        queue.push(b"x")
        server.ask("HSET", queue._address.base, "layout", 99)
        for verb in (queue.get, queue.pop, queue.peek, queue.info, lambda: queue.push(b"y"), queue.purge):
            with pytest.raises(ServerUnsuitable, match="newer psmq: upgrade this client"):
                verb()
        with pytest.raises(ServerUnsuitable, match="newer psmq: upgrade this client"):
            manager.get_queue("q")

        async def main():
            async with AsyncQueueManager(url=server.url) as other:
                with pytest.raises(ServerUnsuitable, match="newer psmq"):
                    await other.get_queue("q")

        asyncio.run(main())
        server.ask("HSET", queue._address.base, "layout", 1)
        assert [message.data for message in queue.get_many(9)] == [b"x"]


def test_a_worker_outlives_the_upgrade_of_its_library(fleet, works):
    """A newer client comes while it runs: nothing is lost, and it does not fight for its own."""
    server, now = fleet.start(), library.revision()
    stage = works(server.url, ["q"])
    stage.start()
    stage.send(0, "before").result(timeout=10)
    server.ask("FUNCTION", "LOAD", "REPLACE", source_of(now + 1))
    stage.send(0, "after").result(timeout=10)
    wait_until(lambda: stage.done() == {"before": 1, "after": 1})
    assert revision_on(server) == now + 1
