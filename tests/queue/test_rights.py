"""What the doctor asks a server about its user's rights is what psmq sends, and what its functions call."""

from __future__ import annotations

import ast
import re

import pytest
import redis
from support import ROOT

from psmq import QueueManager, library
from psmq.rights import CALLED, SENT, title

#: they speak to the server that they started, whose user may do everything
OUR_OWN = ("server_process.py", "kept_server.py", "server_keeper.py", "memory_server.py", "server.py")


def built():
    """The constant first words of whatever is put together in psmq: (first, second or "")."""
    for path in (ROOT / "psmq").rglob("*.py"):
        if path.name in ("rights.py", *OUR_OWN):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            words = node.elts if isinstance(node, ast.Tuple) else node.args if isinstance(node, ast.Call) else []
            for at, word in enumerate(words):
                if isinstance(word, ast.Constant) and re.fullmatch("[A-Z]{3,}", str(word.value)):
                    second = words[at + 1] if at + 1 < len(words) else None
                    yield word.value, str(second.value) if isinstance(second, ast.Constant) else ""


@pytest.fixture
def known(own_server):
    """Tells whether the server has a command: known("CONFIG|GET")."""
    with redis.Redis.from_url(own_server) as client:
        yield {name.decode().upper() for name in client.command_list()}.__contains__


def test_every_command_that_is_built_is_asked_for(known):
    """But for what asks, and what leads to the server."""
    found = set()
    for first, second in built():
        if known(first):
            found.add(f"{first}|{second}" if second and known(f"{first}|{second}") else first)
    found -= {"ACL|WHOAMI", "ACL|DRYRUN", "CLUSTER|SLOTS", "READONLY"}  # the last is the name of an error, too
    assert {"FCALL", "DEL", "HGET", "SET", "CONFIG|GET", "FUNCTION|LOAD", "FUNCTION|LIST", "WAIT"} <= found
    assert found == {title(line) for line in SENT}


def test_every_command_of_the_functions_is_asked_for(known):
    """They are refused to a user who may not send them, in the middle of a call."""
    found = {word for word in re.findall(r"'([A-Z]{3,})'", library.source()) if known(word)}
    assert {"ZADD", "ZSCAN", "HSCAN", "XADD", "UNLINK"} <= found
    assert found <= {title(line) for line in (*SENT, *CALLED)}
    assert {title(line) for line in CALLED} <= found


@pytest.mark.parametrize("line", [*SENT, *CALLED], ids=title)
def test_each_of_them_is_missed(quiet_server, line):
    """Whichever is refused is named, with the line that allows it."""
    name = title(line)
    with redis.Redis.from_url(quiet_server) as client:
        client.execute_command("ACL", "SETUSER", "app", "reset", "on", ">pw", "~*", "+@all", f"-{name.lower()}")
    with QueueManager(url=quiet_server.replace("unix://", "unix://app:pw@"), timeout=2) as manager:
        if name in ("INFO", "SMEMBERS", "TIME"):  # that the doctor needs itself
            with pytest.raises(Exception, match="NOPERM"):
                manager.diagnose()
            return
        (found,) = [one for one in manager.diagnose() if one.subject == "rights"]
    assert found.message.startswith(f"user app may not {name}")
    assert found.fix.startswith(f"ACL SETUSER app +{name.lower()} ~psmq:*")
    assert found.level == ("advice" if "|" in name else "problem")
