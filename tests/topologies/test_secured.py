"""TLS with a certificate of one's own CA, and the README's three roles: what each can do, and what it cannot."""

from __future__ import annotations

import json
import re

import pytest
from click.testing import CliRunner
from secured_server import Secured, roles
from support import fresh_name, python, wait_until
from topology import Fleet

from psmq import Bury, Delete, QueueManager, library
from psmq.errors import ServerUnsuitable
from psmq_tasks.cli import psmq


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    with Fleet() as fleet:
        found = Secured(fleet, tmp_path_factory.mktemp("tls"))
        with QueueManager(url=found.url("admin", "secret3")) as manager:
            manager.load_library()
        yield found


@pytest.fixture
def producer(secured):
    with QueueManager(url=secured.url("producer", "secret1"), timeout=5) as manager:
        yield manager


@pytest.fixture
def worker(secured):
    with QueueManager(url=secured.url("worker", "secret2"), timeout=5) as manager:
        yield manager


@pytest.fixture
def admin(secured):
    with QueueManager(url=secured.url("admin", "secret3"), timeout=5) as manager:
        yield manager


def refused(*calls):
    for call in calls:
        with pytest.raises(ServerUnsuitable, match="NOPERM"):
            call()


def test_a_producer_pushes_and_waits_and_gets_nothing(producer, worker):
    """It opens queues, sends, and hears what became of it."""
    queue = producer.get_queue(fresh_name())
    message_id = queue.push(b"x", delay=0, priority=3, ttl=60, deduplication_id="d", metadata={"a": "b"})
    queue.push_many([b"y"] * 10)
    held = worker.get_queue(queue.name)
    held.exchange([(held.get(), Delete(b"42"))])
    assert queue.result(message_id, wait=5) == b"42"
    before = queue.info()
    refused(
        queue.get, queue.pop, queue.peek, queue.purge, queue.pause, queue.dead_letters,
        lambda: queue.messages("ready"), lambda: queue.redrive([message_id]), lambda: queue.configure(delay=1),
        lambda: producer.delete_queue(queue.name),
    )  # fmt: skip
    after = queue.info()
    assert (after.ready, after.leased, after.config) == (
        before.ready,
        before.leased,
        before.config,
    ) and after.ready == 10


def test_a_worker_gets_and_settles_and_mends_nothing(worker, producer):
    """All that a psmq-worker does."""
    queue = worker.get_queue(fresh_name())
    producer.get_queue(queue.name).push_many([b"x"] * 5)
    first, second, third, fourth = queue.get_many(4, wait=5)
    first.extend(60)
    first.delete()
    second.release(delay=1)
    third.bury("why")
    queue.exchange([(fourth, Bury("why"))], 1)
    consumer = worker.consumer()
    assert consumer.wait_any([queue], 0.05) in (queue, None)
    consumer.abandon(queue, "a" * 22)
    consumer.close()
    refused(
        queue.purge, queue.pause, queue.pop, queue.dead_letters, lambda: queue.redrive(["x"]),
        lambda: queue.configure(delay=1), lambda: worker.delete_queue(queue.name),
    )  # fmt: skip
    assert (queue.info().dead, queue.info().paused) == (2, False)


def test_an_administrator_mends_and_deletes(admin, producer, worker):
    """Everything that queues have."""
    queue = admin.get_queue(fresh_name())
    ids = producer.get_queue(queue.name).push_many([b"x"] * 5)
    worker.get_queue(queue.name).get().bury("why")
    assert [letter.reason for letter in queue.dead_letters()] == ["why"]
    assert queue.redrive(ids[:1]) == 1
    queue.pause()
    queue.resume()
    queue.configure(delay=1)
    assert len(queue.messages("ready")) == 5
    assert queue.pop() is not None
    assert queue.purge() == 4
    assert queue.info().durability.fsync in (None, "everysec")
    admin.delete_queue(queue.name)
    assert queue.name not in admin.list_queues()


def test_a_name_that_is_left_over_stops_nobody(secured, producer, admin):
    """Who may not take it off the list lists the others."""
    queue = producer.get_queue(fresh_name())
    left = fresh_name()
    secured.server.ask("SADD", "psmq:queues", left)
    assert queue.name in (listed := producer.list_queues()) and left not in listed
    admin.delete_queue(queue.name)


@pytest.mark.parametrize("role", [("producer", "secret1"), ("worker", "secret2"), ("admin", "secret3")])
@pytest.mark.parametrize(
    "words",
    [("FLUSHALL",), ("KEYS", "*"), ("CONFIG", "SET", "maxmemory", "1"), ("ACL", "LIST"), ("SHUTDOWN",), ("EVAL", "", 0),
     ("GET", "other"), ("HSET", "other:key", "a", "b"), ("FUNCTION", "FLUSH"), ("MONITOR",)],
    ids=lambda words: words[0],
)  # fmt: skip
def test_no_role_reaches_beyond_queues(secured, role, words):
    """Nobody's other data, nobody's server."""
    with secured.server.client(username=role[0]) as client:
        client.connection_pool.connection_kwargs["password"] = role[1]
        with pytest.raises(Exception, match="(?i)noperm|no permission"):
            client.execute_command(*words)


def test_no_function_stops_half_way_for_want_of_a_right(secured):
    """What a function calls is checked against its caller's rights, in the middle of its work."""
    called = set(re.findall(r"\b(?:p?call|put|drop)\((?:call\.writes, |writes, )?'([A-Z]+)'", library.source()))
    assert {"ZADD", "HSET", "LLEN", "TIME", "ZREM"} <= called
    for words in roles():
        for name in called:
            (found,) = secured.server.ask("COMMAND", "INFO", name).values()
            groups = {f"+{group}" for group in found["acl_categories"]}
            assert f"+{name.lower()}" in words or groups & {"+@hash", "+@sortedset", "+@list"} & {*words}, name


def test_a_worker_and_a_sender_do_their_work_over_tls(secured, works, tmp_path):
    """Each as its role, with signatures and results."""
    stage = works(secured.url("producer", "secret1"), [fresh_name()])
    stage.start(PSMQ_URL=secured.url("worker", "secret2"))
    assert stage.send(0, "hello").result(timeout=20) is None
    assert stage.done() == {"hello": 1}


def run(*words, code=0):
    """The command's output as an administrator has it."""
    result = CliRunner().invoke(psmq, [*map(str, words)])
    assert result.exit_code == code, result.output
    return result.stdout


def test_an_administrator_sees_who_works(secured, works):
    """A worker with its role is listed while it is there, with workers and top; nothing is refused to either."""
    stage, url = works(secured.url("producer", "secret1"), [fresh_name()]), secured.url("admin", "secret3")
    stage.start(PSMQ_URL=secured.url("worker", "secret2"))
    ((worker, log),) = stage.workers

    def listed():
        return [one["pid"] for one in json.loads(run("workers", "-u", url, "--json"))["workers"]]

    wait_until(lambda: worker.pid in listed())
    with python(
        "import sys; from psmq_tasks.cli import psmq; sys.argv[0] = 'psmq'; psmq()", "top", "-u", url, "--json"
    ) as top:
        seen = json.loads(top.stdout.readline())
        top.kill()
    assert worker.pid in [one["pid"] for one in seen["workers"]]
    assert secured.server.ask("SMEMBERS", "psmq:workers")
    worker.terminate()
    assert worker.wait(20) == 0
    assert worker.pid not in listed()
    assert not secured.server.ask("SMEMBERS", "psmq:workers")
    assert "warning" not in log.read_text()


def test_a_worker_that_cannot_be_listed_says_so_once(secured, works):
    """And works all the same; the line says what to allow."""
    (words,) = [words for words in roles() if words[2] == "worker"]
    secured.server.ask("ACL", "SETUSER", "unlisted", *words[3:], "-set")
    stage = works(secured.url("producer", "secret1"), [fresh_name()])
    stage.start(PSMQ_URL=secured.url("unlisted", "secret2"))
    ((_, log),) = stage.workers
    with secured.server.client() as client:

        def refusals():
            found = [one for one in client.acl_log(128) if one["username"] == "unlisted" and one["object"] == "set"]
            return sum(one["count"] for one in found)

        wait_until(lambda: refusals() >= 2, 20)  # two beats
    assert stage.send(0, "hello").result(timeout=20) is None
    (line,) = [line for line in log.read_text().splitlines() if "NOPERM" in line]
    assert "warning" in line and "psmq workers" in line
    assert line.endswith("ACL SETUSER … +set +del +sadd +srem ~psmq:*")


def test_an_administrator_has_every_command(secured, admin, worker, tmp_path):
    """None of them is refused anything."""
    name, url = fresh_name(), secured.url("admin", "secret3")
    there = ("-u", url)
    queue = worker.get_queue(name)
    run("push", name, "one", *there)
    run("push", name, "two", *there)
    queue.get().bury("why")
    letter = admin.get_queue(name).dead_letters()[0].message.message_id
    for words in (
        ("queues",), ("workers",), ("stats",), ("check", "oldest_age > 600"), ("peek", name), ("retries", "list"),
        ("pause", name), ("resume", name), ("configure", name, "delay=0"), ("dead", "list"),
        ("dead", "show", letter), ("dead", "export", "-o", tmp_path / "letters"), ("trace", letter),
        ("doctor", "--audit", name),
    ):  # fmt: skip
        run(*words, *there)
    assert "NOPERM" not in run("doctor", url, code=1)  # nothing is written to disk there
    run("dead", "redrive", letter, "--yes", *there)
    run("get", name, *there)
    run("purge", name, "--yes", *there)
    run("server", "load", url)
    run("delete-queue", name, "--yes", *there)
    assert name not in admin.list_queues()


def test_a_certificate_of_nobody_one_trusts_is_refused(secured):
    """At once, and it says which option names the CA."""
    with QueueManager(url=secured.url("admin", "secret3", ca=False), timeout=30) as manager:
        with pytest.raises(ServerUnsuitable, match="ssl_ca_certs="):
            manager.list_queues()


def test_a_certificate_for_another_host_is_refused(secured):
    """Names are compared: it says 127.0.0.1, and nothing of localhost."""
    with QueueManager(url=secured.url("admin", "secret3").replace("127.0.0.1", "localhost"), timeout=30) as manager:
        with pytest.raises(ServerUnsuitable, match="certificate"):
            manager.list_queues()
