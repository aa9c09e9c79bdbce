"""A server that would lose messages, or take none, is refused when one connects, with one line that says what to do."""

from __future__ import annotations

import asyncio

import pytest
from support import output
from topology import free_port

from psmq import AsyncQueueManager, QueueManager, suitability
from psmq.endpoint import Endpoint
from psmq.errors import InvalidOption, ServerUnsuitable


def refusal(url, **options):
    """What both kinds of managers say, which must be the same and one line."""
    with QueueManager(url=url, timeout=5, **options) as manager, pytest.raises(ServerUnsuitable) as caught:
        manager.get_queue("q").push(b"x")

    async def main():
        async with AsyncQueueManager(url=url, timeout=5, **options) as manager:
            with pytest.raises(ServerUnsuitable) as other:
                await (await manager.get_queue("q")).push(b"x")
            return str(other.value)

    said = str(caught.value)
    assert asyncio.run(main()) == said
    assert "\n" not in said
    return said


def works(url, **options):
    with QueueManager(url=url, timeout=5, **options) as manager:
        queue = manager.get_queue("q")
        queue.push(b"x")
        return queue.pop().data == b"x"


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_server_that_evicts_keys_is_refused_unless_one_takes_the_risk(fleet, policy, monkeypatch):
    """Messages would vanish without a word. The setting, the URL or the environment ends the refusal."""
    server = fleet.start(maxmemory_policy=policy)
    said = refusal(server.url)
    assert f"maxmemory-policy {policy} throws messages away" in said
    assert "CONFIG SET maxmemory-policy noeviction" in said
    assert works(f"{server.url}?allow_eviction=1")
    monkeypatch.setenv("PSMQ_ALLOW_EVICTION", "1")
    assert works(server.url)
    refusal(f"{server.url}?allow_eviction=0")  # what a URL says goes before it
    monkeypatch.delenv("PSMQ_ALLOW_EVICTION")
    refusal(server.url)
    server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    assert works(server.url)


def test_a_read_only_replica_is_refused_and_names_its_primary(fleet):
    """Every push would be tried until its timeout."""
    primary = fleet.start()
    said = refusal(fleet.replica(primary).url)
    assert f"is a read-only replica of 127.0.0.1:{primary.port}" in said


def test_a_server_that_asks_for_a_password_says_where_it_goes(fleet):
    """And a wrong one is told from none."""
    server = fleet.start(requirepass="secret", password="secret")
    assert "asks for a password: put it into the URL" in refusal(server.url)
    said = refusal(server.url.replace("//", "//:wrong@"))
    assert "takes no such user or password" in said
    assert "wrong" not in said.replace("wrong password", "")
    assert works(server.url.replace("//", "//:secret@"))


def test_a_server_without_functions_is_too_old(fleet):
    """Whatever it says of its version."""
    assert "psmq needs" in refusal(fleet.start(rename_command="FCALL NOSUCH").url)


@pytest.mark.parametrize(
    ("info", "said"),
    [
        ("redis_version:6.2.14", "Redis 6.2.14 has no functions: psmq needs Redis 7.0 or Valkey 7.2"),
        ("redis_version:7.0.0", ""),
        ("redis_version:7.2.4\nvalkey_version:8.1.0", ""),
        ("redis_version:8.0.1", ""),
        ("server_name:other", ""),
        ("redis_mode:sentinel", "is a Sentinel"),
    ],
)
def test_the_version_decides(info, said):
    """As INFO tells it; who tells nothing is taken on trust."""
    endpoint = Endpoint.of_url("redis://somewhere")
    answers = [info.encode(), b"role:master", b"maxmemory_policy:noeviction"]
    if said:
        with pytest.raises(ServerUnsuitable, match=said):
            suitability.judge(endpoint, {"host": info}, answers)
    else:
        suitability.judge(endpoint, {"host": info}, answers)


def test_a_server_that_takes_no_functions_names_what_an_administrator_runs(fleet):
    """And when that was run, this user needs no such right."""
    server = fleet.start()
    server.ask("ACL", "SETUSER", "ada", "on", ">pw", "~*", "+@all", "-function")
    url = server.url.replace("//", "//ada:pw@")
    assert "psmq server load URL" in refusal(url)
    with QueueManager(url=server.url) as manager:
        manager.load_library()
    assert works(url)


def test_a_user_who_may_not_ask_is_taken_on_trust(fleet):
    """INFO and CONFIG are no right that a producer needs."""
    server = fleet.start(maxmemory_policy="allkeys-lru")
    server.ask("ACL", "SETUSER", "ada", "on", ">pw", "~*", "+@all", "-info", "-config")
    assert works(server.url.replace("//", "//ada:pw@"))


def test_a_node_of_a_cluster_and_a_single_server_are_told_apart(fleet):
    """The scheme says which it is."""
    node = fleet.start(cluster_enabled="yes", cluster_port=free_port())
    assert "use redis+cluster://" in refusal(node.url)
    assert "is no node of a cluster: use redis://" in refusal(fleet.start().url.replace("redis:", "redis+cluster:"))


@pytest.mark.parametrize(
    ("settings", "demand", "said"),
    [
        ({}, "everysec", "keeps no append-only file: CONFIG SET appendonly yes"),
        ({"appendonly": "yes"}, "always", "has appendfsync everysec: CONFIG SET appendfsync always"),
        ({"appendonly": "yes"}, "everysec", ""),
        ({"appendonly": "yes", "appendfsync": "always"}, "always", ""),
        ({"appendonly": "yes", "appendfsync": "always"}, "everysec", ""),
    ],
)
def test_a_demanded_durability_is_given_or_refused(fleet, settings, demand, said):
    """By option or URL; nobody believes in a file that is not there."""
    server = fleet.start(**settings)
    if said:
        assert said in refusal(server.url, durability=demand)
        assert said in refusal(f"{server.url}?durability={demand}")
    else:
        assert works(server.url, durability=demand)


def test_a_server_is_asked_once_in_a_process(fleet):
    """Ten connections, two managers: one look."""
    server = fleet.start()
    server.ask("CONFIG", "RESETSTAT")
    output(
        """
        import sys
        from concurrent.futures import ThreadPoolExecutor
        from psmq import QueueManager

        with QueueManager(url=sys.argv[1]) as manager:
            queue = manager.get_queue("q")
            with ThreadPoolExecutor(10) as pool:
                list(pool.map(lambda _: queue.get(wait=0.2), range(10)))
        with QueueManager(url=sys.argv[1]) as manager:
            manager.list_queues()
        """,
        server.url,
    )
    calls = server.info("commandstats")
    assert calls["cmdstat_info"]["calls"] == 3
    assert "cmdstat_config|get" not in calls


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("redis+sentinel://h", "names no service"),
        ("redis+cluster://h/1", "has only number 0"),
        ("redis+cluster://", "names no host"),
        ("redis+cluster://h:x", "cannot be read"),
        ("embedded+cluster:///x", "must start with one of"),
        ("redis+magic://h", "must start with one of"),
        ("redis://h?durability=best", "everysec, always or replica:1"),
        ("redis://h?durability=replica:0", "everysec, always or replica:1"),
        ("embedded:///x?durability=replica:1", "everysec or always"),
    ],
)
def test_a_url_that_means_nothing_is_refused_where_it_is_written(url, problem):
    """Before anything is sent."""
    with pytest.raises(InvalidOption, match=problem):
        QueueManager(url=url)


def test_an_option_that_nobody_knows_is_named(fleet):
    """A misspelt ssl_ca_cert must not be left out in silence."""
    with QueueManager(url=f"{fleet.start().url}?ssl_ca_cert=x") as manager:
        with pytest.raises(InvalidOption, match="ssl_ca_cert"):
            manager.list_queues()


@pytest.mark.parametrize("url", ["redis+cluster://ada:pw@h:1,h:2?sentinel_password=pw", "redis://:pw@h", "redis://h"])
def test_passwords_are_not_shown(url):
    """In whatever kind of URL."""
    manager = QueueManager(url=url)
    assert "pw" not in f"{manager!r} {manager.url}"
    assert manager.settings()["url"] == url
