"""May this user do what psmq does? Asked of the server, which does none of it.

Only of a user who may run ACL WHOAMI and ACL DRYRUN is that known. The README has roles that suffice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from psmq import library
from psmq.commands import Plain
from psmq.errors import PsmqError
from psmq.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

__all__ = ["CALLED", "SENT", "rights", "texts", "title"]

#: what psmq sends; K: a key. Who gets here may ACL DRYRUN, and CLUSTER SLOTS where that is needed
SENT: Final = (
    f"FCALL {library.NAME}_exchange 2 K K", "FUNCTION LOAD x", "FUNCTION LIST", "INFO server", "CONFIG GET save",
    "TIME", "WAIT 1 1", "BLPOP K 1", "BLMOVE K K LEFT LEFT 1", "LINDEX K 0", "HGET K x", "HMGET K x", "EXISTS K",
    "DEL K", "SADD K x", "SREM K x", "SMEMBERS K", "SET K x PX 1", "GET K",
)  # fmt: skip
#: what the functions do besides, as the rules see it: with the rights of who calls them
CALLED: Final = (
    "HDEL K x", "HEXISTS K x", "HGETALL K", "HINCRBY K x 1", "HLEN K", "HSCAN K 0", "HSET K x x", "HSETNX K x x",
    "HSTRLEN K x", "LLEN K", "LTRIM K 0 1", "RPUSH K x", "PEXPIRE K 1", "PTTL K", "RENAME K K", "UNLINK K",
    "XADD K * x x", "XLEN K", "XRANGE K - +", "ZADD K 1 x", "ZCARD K", "ZCOUNT K 0 1", "ZMSCORE K x", "ZRANGE K 0 1",
    "ZRANGEBYSCORE K 0 1", "ZRANK K x", "ZREM K x", "ZREMRANGEBYSCORE K 0 1", "ZSCAN K 0", "ZSCORE K x",
)  # fmt: skip
#: what queues do without: an administrator loads the library, and what a server does not tell is taken on trust
_SPARED: Final = ("FUNCTION|LOAD", "FUNCTION|LIST", "CONFIG|GET")


def title(line: str) -> str:
    """The command as rules name it."""
    words = line.split()
    return "|".join(words[:2]) if words[0] in ("FUNCTION", "CONFIG") else words[0]


def texts(reply: Any) -> Iterator[str]:
    """Every word of a nested answer."""
    if isinstance(reply, bytes):
        yield reply.decode("utf-8", "replace")
    elif isinstance(reply, list):
        for part in reply:
            yield from texts(part)


def rights(namespace: str, key: str) -> Generator[Any, Any, list[Finding]]:
    """What the user may not do on the server that has this key."""
    try:
        (user,) = yield Plain(("ACL", "WHOAMI"), lambda reply: list(texts(reply)), key)
        refused = []
        for line in (*SENT, *CALLED):
            words = ("ACL", "DRYRUN", user, *(key if word == "K" else word for word in line.split()))
            if (yield Plain(words, lambda reply: " ".join(texts(reply)), key)) != "OK":
                refused.append(title(line))
    except PsmqError:
        return [Finding("fine", "rights", "this user may not ask what it may do; what it did here was allowed")]
    if not refused:
        return [Finding("fine", "rights", f"user {user} may do all that psmq does")]
    allowed = " ".join(f"+{command.lower()}" for command in refused)
    fix = f"ACL SETUSER {user} {allowed} ~{namespace}:*"
    if "FUNCTION|LOAD" in refused:
        fix += ", or an administrator runs psmq server load URL with each new psmq"
    message = f"user {user} may not {', '.join(refused)}"
    if {*refused} <= {*_SPARED}:
        return [Finding("advice", "rights", f"{message}; queues do without", fix)]
    return [Finding("problem", "rights", message, fix)]
