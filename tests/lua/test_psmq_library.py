"""psmq_library.lua: what is registered, and what may run where."""

import re

from psmq import library

EXPECTED_REVISION = 5
EXPECTED_DIGEST = "6b534e8de31e410f"


def functions(raw_server):
    (found,) = raw_server.function_list("psmq_v1")
    found = dict(zip(found[::2], found[1::2], strict=True))
    listed = [dict(zip(entry[::2], entry[1::2], strict=True)) for entry in found[b"functions"]]
    return {entry[b"name"].decode(): {flag.decode() for flag in entry[b"flags"]} for entry in listed}


def test_whoever_changes_the_lua_raises_its_revision():
    """Servers keep a library until a client with a higher revision comes: an unraised one would never be taken.

    Raise calls.revision (once between releases), then put the new digest here.
    """
    assert (library.revision(), library.digest()) == (EXPECTED_REVISION, EXPECTED_DIGEST)


def test_reads_write_nothing_and_what_drains_runs_at_maxmemory(raw_server, queue):
    """Reads run on replicas too; on a full server only what stores something new is refused."""
    flags = functions(raw_server)
    reads = {"peek", "messages", "dead_letters", "info", "stats", "audit", "trace", "transfers"}
    assert {name for name, found in flags.items() if "no-writes" in found} == {f"psmq_v1_{name}" for name in reads}
    storing = {name for name, found in flags.items() if not found}
    assert storing == {"psmq_v1_push", "psmq_v1_amend", "psmq_v1_adopt", "psmq_v1_arrive"}


def test_every_function_says_its_arguments_above():
    """argv and returns stand above each, as the contract that clients of other languages would read."""
    source = library.source()
    for name in re.findall(r"register\('(\w+)'", source):
        above = re.search(rf"-- psmq_v1_{name}:(?:.*\n)((?:--.*\n)*)function", source)
        assert above, name
        assert "-- argv: " in above[1], name


def test_each_file_declares_one_local_table_named_as_the_file():
    """The files are concatenated: a chunk has room for 200 locals, and later files use the earlier by name."""
    for name in library.ORDER[:-1]:
        assert re.search(rf"^local {name} = {{}}$", library.source(), re.MULTILINE), name


def test_no_global_is_used_while_loading():
    """Redis 7.0 has only `redis` then: math, string, tonumber … exist inside functions only."""
    at_top = [line for line in library.source().splitlines() if re.match(r"local .*\b(math|string|tonumber)\b", line)]
    assert at_top == []
