"""Whether a server is fit to keep messages: asked once for each server and process, in one write, when one connects.

A queue on a server that forgets or that refuses every write is worse than none. What a user may not ask (INFO and
CONFIG can be forbidden) is taken on trust, but for what is demanded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from psmq.dialogue import Lost, Refused, pack
from psmq.durability import Durability, fields_of_info
from psmq.errors import InvalidOption, ServerUnsuitable

if TYPE_CHECKING:
    from psmq.endpoint import Endpoint

__all__ = ["Questions", "judge", "made", "meant", "questions"]

#: the first with functions
_OLDEST: Final = {"redis": (7, 0), "valkey": (7, 2)}
_NEEDED: Final = "psmq needs Redis 7.0 or Valkey 7.2, or newer"
_QUESTIONS: Final = (("INFO", "server"), ("INFO", "replication"), ("INFO", "memory"))
#: only where a durability is demanded
_MORE: Final = (("INFO", "persistence"), ("CONFIG", "GET", "appendfsync"))
_NO_LOGIN: Final = "asks for a password: put it into the URL, as in redis://user:password@host"
#: servers that this process has found fit
_fit: set[tuple[object, ...]] = set()


class Questions(NamedTuple):
    """To be written as they are, and so many answers read."""

    payload: bytes
    answers: int


def questions(endpoint: Endpoint, settings: dict[str, Any]) -> Questions | None:
    """What to ask the server at the other end of these settings; None: it is known, or ours."""
    if endpoint.is_ours or _name(endpoint, settings) in _fit:
        return None
    asked = [*_QUESTIONS, *(_MORE if endpoint.durability else ())]
    return Questions(b"".join(map(pack, asked)), len(asked))


def judge(endpoint: Endpoint, settings: dict[str, Any], answers: list[Any]) -> None:
    """ServerUnsuitable, with what to change, for a server that would lose messages or take none.

    Lost where another server will do: the Sentinels named one that has just been demoted.
    """
    if any(isinstance(answer, Refused) and answer.code == "NOAUTH" for answer in answers):
        raise ServerUnsuitable(f"{endpoint.shown}: {_NO_LOGIN}")
    info = "\n".join(answer.decode("utf-8", "replace") for answer in answers if isinstance(answer, bytes))
    found = fields_of_info(info)
    if endpoint.route is not None and not endpoint.is_cluster and found.get("role") == "slave":
        raise Lost("it is a replica now", sent=False)
    if problem := _problem(endpoint, found):
        raise ServerUnsuitable(f"{endpoint.shown}: {problem}")
    if endpoint.durability:
        setting = answers[-1]
        flushed = setting[-1].decode() if isinstance(setting, list) and setting else None
        if lack := Durability.read(info, flushed).lacks(endpoint.durability):
            raise ServerUnsuitable(f"{endpoint.shown}: durability={endpoint.durability!r} is demanded, but it {lack}")
    if endpoint.route is None or endpoint.is_cluster:  # who was the primary may be a replica the next time
        _fit.add(_name(endpoint, settings))


def _problem(endpoint: Endpoint, found: dict[str, str]) -> str:
    """What is wrong and what to do, "" when nothing is."""
    flavour = "valkey" if "valkey_version" in found else "redis"
    version = found.get(f"{flavour}_version", "")
    numbers = tuple(int(word) for word in version.split(".")[:2] if word.isdigit())
    mode = found.get("server_mode") or found.get("redis_mode")
    if mode == "sentinel":
        return "is a Sentinel: use redis+sentinel://host/service"
    if numbers and numbers < _OLDEST[flavour]:
        return f"{flavour.capitalize()} {version} has no functions: {_NEEDED}"
    if mode == "cluster" and not endpoint.is_cluster:
        return "is a node of a cluster: use redis+cluster://"
    if found.get("role") == "slave" and not endpoint.is_cluster:
        primary = f"{found.get('master_host')}:{found.get('master_port')}"
        return f"is a read-only replica of {primary}: name that one, or use redis+sentinel:// to find it"
    policy = found.get("maxmemory_policy", "noeviction")
    if policy != "noeviction" and not endpoint.allow_eviction:
        return (
            f"its maxmemory-policy {policy} throws messages away when memory is full: CONFIG SET maxmemory-policy "
            "noeviction (or take the risk: allow_eviction=1 in the URL, or PSMQ_ALLOW_EVICTION=1)"
        )
    return ""


def meant(endpoint: Endpoint, error: Exception, *, sent: bool) -> Exception:
    """What an error on the way to a server means to whoever has a command carried out: Lost, ServerUnsuitable, or
    what it says itself. ``sent``: the command had been written.
    """
    from redis import exceptions

    if isinstance(error, exceptions.BusyLoadingError):
        return Lost(str(error), sent=False)
    if isinstance(error, (exceptions.ConnectionError, exceptions.TimeoutError, OSError)):
        # Another try would fail in the same way where the password is wrong, or the certificate.
        if isinstance(error, exceptions.AuthenticationError) or "CERTIFICATE_VERIFY_FAILED" in str(error):
            return _refused(endpoint, error)
        return Lost(str(error) or "no answer in time", sent=sent)
    return _refused(endpoint, error) if isinstance(error, exceptions.RedisError) else error


def _refused(endpoint: Endpoint, error: Exception) -> ServerUnsuitable:
    """Refused while connecting (user, password, database number), or no server that speaks the protocol."""
    text = str(error)
    if "Authentication required" in text:
        text = _NO_LOGIN
    elif "invalid username-password" in text:
        text = "takes no such user or password: see ACL LIST, and what the URL says"
    elif "CERTIFICATE_VERIFY_FAILED" in text:
        text = f"its certificate is not trusted here; rediss://…?ssl_ca_certs=/path/ca.pem names who signed it ({text})"
    return ServerUnsuitable(f"{endpoint.shown}: {text}")


def made(kind: Any, settings: dict[str, Any]) -> Any:
    """A connection, not open yet; InvalidOption for what the URL's query says and redis-py does not know."""
    try:
        return kind(**settings)
    except TypeError as error:
        raise InvalidOption("url", f"has an option that is not known: {error}") from None


def _name(endpoint: Endpoint, settings: dict[str, Any]) -> tuple[object, ...]:
    where = (settings.get(name) for name in ("host", "port", "path", "username"))
    return (*where, endpoint.durability, endpoint.allow_eviction)
