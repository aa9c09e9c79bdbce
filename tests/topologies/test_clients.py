"""connection=: the settings of redis-py's own clients, of one server, of a cluster and of a Sentinel; sync and async."""

from __future__ import annotations

import asyncio
import gc

import pytest
import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from support import fresh_name
from topology import Cluster, Guarded

from psmq import AsyncQueueManager, QueueManager
from psmq.endpoint import Endpoint
from psmq.errors import InvalidOption, ServerUnsuitable
from psmq.routes import slot_of


@pytest.fixture(scope="module")
def cluster():
    with Cluster(replicas=0) as found:
        yield found


@pytest.fixture(scope="module")
def guarded():
    with Guarded() as found:
        for sentinel in found.sentinels:
            sentinel.ask("ACL", "SETUSER", "asker", "on", ">word", "+@all")
        yield found


@pytest.fixture
def sentinels(guarded):
    return [("127.0.0.1", one.port) for one in guarded.sentinels]


def use(client, names):
    """Push and get on each, by threads' manager. → its name for the server"""
    with QueueManager(connection=client, timeout=20) as manager:
        for name in names:
            queue = manager.get_queue(name)
            queue.push(b"x")
            queue.get(wait=5).delete()
            manager.delete_queue(name)
        return manager.url


def use_async(make, names):
    """The same on an event loop, with a client that is made there."""

    async def main():
        client = make()
        async with AsyncQueueManager(connection=client, timeout=20) as manager:
            for name in names:
                queue = await manager.get_queue(name)
                await queue.push(b"x")
                await (await queue.get(wait=5)).delete()
                await manager.delete_queue(name)
            url = manager.url
        await client.aclose()
        return url

    return asyncio.run(main())


def names_of_all_nodes(cluster):
    found = {}
    while len(found) < 3:
        name = fresh_name()
        found.setdefault(cluster.node_of(slot_of(f"psmq:{{{name}}}")).port, name)
    return list(found.values())


@pytest.fixture(params=["sync", "async"])
def use_with(request):
    """use_with(sync client's maker, async client's maker, names): works with clients of either kind."""

    def run(sync, asynchronous, names):
        if request.param == "async":
            return use_async(asynchronous, names)
        client = sync()
        try:
            return use(client, names)
        finally:
            client.close()

    return run


def test_a_client_of_one_server(guarded, use_with):
    """Its address, user and database; decoding stays its own affair."""
    where = {"host": "127.0.0.1", "port": guarded.primary.port, "db": 3, "decode_responses": True}
    url = use_with(lambda: redis.Redis(**where), lambda: redis.asyncio.Redis(**where), [fresh_name()])
    assert url == f"connection to 127.0.0.1:{guarded.primary.port}"


def test_a_client_of_a_cluster_leads_to_all_its_nodes(cluster, use_with):
    """From those that it knows; MOVED is followed by us."""
    where = {"host": "127.0.0.1", "port": cluster.servers[1].port, "decode_responses": True}
    names = names_of_all_nodes(cluster)
    url = use_with(lambda: redis.RedisCluster(**where), lambda: redis.asyncio.RedisCluster(**where), names)
    assert url.startswith("connection to the cluster of 127.0.0.1:")


def test_a_cluster_s_user_is_taken_over(cluster):
    """As its client's."""
    for one in cluster.servers:
        one.ask("ACL", "SETUSER", "guest", "on", ">word", "~*", "+@all")
    where = {"host": "127.0.0.1", "port": cluster.servers[0].port, "username": "guest"}
    with redis.RedisCluster(**where, password="word") as client:
        use(client, [fresh_name()])
        for one in cluster.servers:
            one.ask("ACL", "SETUSER", "guest", ">other", "<word")
        with pytest.raises(ServerUnsuitable, match="password"):
            use(client, [fresh_name()])


def test_a_client_made_by_a_sentinel_asks_it_for_the_primary(guarded, sentinels, use_with):
    """With the Sentinels' own login, which is another one than the servers'."""
    login = {"username": "asker", "password": "word"}
    url = use_with(
        lambda: redis.sentinel.Sentinel(sentinels, sentinel_kwargs=login).master_for("main"),
        lambda: redis.asyncio.sentinel.Sentinel(sentinels, sentinel_kwargs=login).master_for("main"),
        [fresh_name()],
    )
    assert url.startswith("connection to 'main' of the Sentinels 127.0.0.1:")
    wrong = {"username": "asker", "password": "wrong"}
    client = redis.sentinel.Sentinel(sentinels, sentinel_kwargs=wrong).master_for("main")
    with pytest.raises(ServerUnsuitable, match="user and password"):
        use(client, [fresh_name()])


def test_a_client_made_by_a_sentinel_follows_a_failover(guarded, sentinels):
    """By our own route, not by the client."""
    client = redis.sentinel.Sentinel(sentinels).master_for("main")
    with QueueManager(connection=client, timeout=30) as manager:
        queue = manager.get_queue(fresh_name())
        queue.push(b"before")
        guarded.fail_over("kill")
        queue.push(b"after")
        assert queue.get().data in (b"before", b"after")
    guarded.heal()


def test_whether_sentinels_and_servers_speak_tls_is_kept_apart():
    """One may, the other not."""
    made = redis.sentinel.Sentinel([("h", 1)], sentinel_kwargs={"ssl": True, "ssl_ca_certs": "a"}).master_for("main")
    endpoint = Endpoint.of_client(made)
    assert endpoint.client["_tls"] is False
    assert (endpoint.route._login["_tls"], endpoint.route._login["ssl_ca_certs"]) == (True, "a")
    made = redis.sentinel.Sentinel([("h", 1)], ssl=True, ssl_ca_certs="b").master_for("main")
    endpoint = Endpoint.of_client(made)
    assert (endpoint.client["_tls"], endpoint.client["ssl_ca_certs"]) == (True, "b")
    assert endpoint.route._login["_tls"] is False


def test_a_cluster_s_tls_is_taken_over():
    """Certificates and what is demanded of the server's."""
    endpoint = Endpoint.of_client(redis.asyncio.RedisCluster(host="h", port=1, ssl=True, ssl_ca_certs="a"))
    assert (endpoint.client["_tls"], endpoint.client["ssl_ca_certs"]) == (True, "a")
    assert endpoint.client["ssl_cert_reqs"] == "required"


def test_what_leads_to_no_primary_is_refused_in_one_line():
    """With what to give instead."""
    sentinel = redis.sentinel.Sentinel([("h", 1)])
    remapped = redis.asyncio.RedisCluster(host="h", port=1, address_remap=lambda place: place)
    for wrong, hint in (
        (sentinel, r"give what its master_for\(service\) makes"),
        (sentinel.slave_for("main"), r"give what the Sentinel's master_for\(service\) makes"),
        (remapped, r"cluster-announce-ip.*url=redis\+cluster://"),
        (object(), "must be a redis-py client, not object"),
    ):
        with pytest.raises(InvalidOption, match=hint) as caught:
            QueueManager(connection=wrong)
        assert "\n" not in str(caught.value)
    gc.collect()
