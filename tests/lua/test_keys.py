"""keys.lua: the only place that spells keys, but for the few that Python waits on."""

from psmq import commands
from psmq.commands import Address


def test_python_spells_the_keys_that_it_waits_on_like_lua(raw):
    """wake and result are used by plain commands; a difference would be a wait that nothing ends."""
    address = raw.address
    id_ = raw.push()
    assert raw.server.type(address.wake) == b"list"
    ((id_, receipt, *_),) = raw.get()
    raw.settle((id_, receipt, "d", "", "", "a result"))
    assert raw.server.lrange(address.result(id_), 0, -1) == [b"a result"]


def test_all_keys_of_a_queue_share_its_hash_tag(raw):
    """A queue lives in one slot of a cluster: {name} is in every key, and nothing lies outside."""
    for number in range(4):
        raw.push(b"x", f"d{number}t100000p{number}r1000", f"dedup-{number}")
    ((id_, receipt, *_),) = raw.get()
    raw.settle((id_, receipt, "b", "why", "what", "result"))
    found = [key.decode() for key in raw.server.scan_iter(f"*{raw.address.name}*")]
    assert len(found) > 8
    assert all(key == raw.base or key.startswith(f"psmq:{{{raw.address.name}}}:") for key in found)


def test_the_second_declared_key_never_exists(raw):
    """Its absence is what makes a migrating slot answer TRYAGAIN before the first write."""
    raw.push()
    raw.get()
    assert raw.address.never == f"{raw.base}:never"
    assert not raw.server.exists(raw.address.never)


def test_namespaces_keep_queues_apart():
    """Two applications on one server: same names, other keys, other registry."""
    ours, theirs = Address.of("ours", "q"), Address.of("theirs", "q")
    assert {ours.base, ours.wake, ours.never, ours.result("1")}.isdisjoint(
        {theirs.base, theirs.wake, theirs.never, theirs.result("1")}
    )
    assert commands.registry("ours") != commands.registry("theirs")
    assert commands.registry("psmq") == "psmq:queues"
