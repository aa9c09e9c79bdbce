"""One command from start to end, without the sending: what to write, how to take the answer, when to write it again.

A generator, driven by ``Channel`` (threads) and ``AsyncChannel`` (asyncio) alike. A command that changes something
carries who sends it and a number, so that repeating it after a lost answer does nothing twice.
"""

from __future__ import annotations

import os
import re
import socket
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from hiredis import pack_command

from psmq import errors, library
from psmq.commands import Command, Plain, draw_randoms, error_of, function_name

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

T = TypeVar("T")

#: a command is repeated for at most this long (s): the server remembers its clients for twenty minutes
LONGEST_TIMEOUT: Final = 600.0

#: as much of the host's name as a client id has room for
_HOST: Final = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:16]

#: how often a library that goes missing is loaded for one command
_LOADS: Final = 3
#: where a call's words have the revision
_REVISION: Final = 6

#: seconds that waits in the server may take longer than asked (its timers are coarse)
_LATENESS: Final = 1.0

#: first words of answers of a server that is not ready yet; ASK and TRYAGAIN end when the slot has moved: every call
#: declares a key that never exists, so neither node does anything before that
_PASSING: Final = ("LOADING", "TRYAGAIN", "ASK", "CLUSTERDOWN", "MASTERDOWN", "READONLY", "BUSY", "UNBLOCKED")
#: those after which another server, or a new connection, may know more
_DEMOTED: Final = ("READONLY", "MASTERDOWN", "UNBLOCKED")

#: how often a command follows a slot at once; then it waits, and the whole map is read again
_MOVES: Final = 5
#: what brings messages in; of one that goes to another queue nothing else is left when it has left its own
_STORING: Final = ("push", "arrive", "adopt")
#: ms that replicas may take to acknowledge a push before the server is asked again
_COPYING: Final = 1000


def steady(read: Callable[[], float] = time.monotonic) -> float:
    """Seconds that pass whatever a test does to the clock: bound here, freezegun does not find it."""
    return read()


class QueueDeletingError(errors.QueueNotFound):
    """Somebody began to delete the queue; whoever wants to make it anew finishes that first."""

    code = "PSMQ_QUEUE_DELETING"


class StrangeKeyError(errors.ServerUnsuitable):
    """A key beside the queues holds something of another type than ours."""

    def __init__(self, where: str, key: str) -> None:
        super().__init__(f"{where}: key {key!r} holds what psmq never wrote there; rename it, psmq makes its own anew")
        self.key = key


class Lost(Exception):  # a signal between the driver and the dialogue, never seen outside
    """The connection broke. ``sent`` tells whether anything had been written."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.sent = sent


class Refused(NamedTuple):
    """An error that the server answered, with its first word apart."""

    code: str
    detail: str


class Send(NamedTuple):
    """Write this and read that many answers; they may take ``patience`` seconds longer than usual."""

    payload: bytes
    answers: int
    patience: float
    #: whose server it is for
    key: str = ""


class Sleep(NamedTuple):
    """Wait, then see to it that the server is there (an embedded one may have to be started)."""

    seconds: float
    #: not over this connection again
    anew: bool = False


class Terms(NamedTuple):
    """What a channel brings into each of its dialogues."""

    #: the server, for errors
    where: str
    #: seconds a command is tried
    timeout: float
    #: replicas that must have a push before it returns
    copies: int = 0
    #: whether it matters whose server a command is for
    routed: bool = False


Step = Send | Sleep


class Meanwhile:
    """What we do while the server is at it, once, and how many seconds that took: they are not the server's."""

    __slots__ = ("_do", "seconds")

    def __init__(self, do: Callable[[], None]) -> None:
        self._do: Callable[[], None] | None = do
        self.seconds = 0.0

    def __call__(self) -> None:
        do, self._do = self._do, None
        if do is not None:
            began = steady()
            do()
            self.seconds = steady() - began


class Identity:
    """Who sends: a random id that outlives reconnects, and the number of its last command."""

    __slots__ = ("client_id", "number", "revision")

    def __init__(self) -> None:
        #: of the library it speaks to: ours, or an older one where the server does not take ours
        self.revision = library.revision()
        self.renew()

    def renew(self) -> None:
        """After a fork, a clash, or being given up by a supervisor."""
        # Named, so that the event log tells who; what makes it the only one is random.
        self.client_id = f"{_HOST}:{os.getpid()}:{draw_randoms(1)[0]}"
        self.number = 0


def pack(words: Sequence[bytes | str | int]) -> bytes:
    """A command as the protocol writes it."""
    # hiredis calls str() on what is neither bytes nor str, and crashes when a signal's handler raises in there.
    texts = tuple([word if type(word) is bytes or type(word) is str else str(word) for word in words])
    packed: bytes = pack_command(texts)  # type: ignore[arg-type]  # its stub says a tuple of one
    return packed


def converse(
    identity: Identity,
    command: Command[T] | Plain[T],
    terms: Terms,
    *,
    clock: str = "",
    wake: float | None = None,
    meanwhile: Meanwhile | None = None,
) -> Generator[Step, list[Any], T]:
    """Carry out one command. ``wake``: first wait that many seconds for the queue's token, in the same write.

    ``meanwhile``: what whoever carries it does before it reads. Raises ServerUnreachable or OutcomeUnknown
    after ``terms.timeout`` seconds, and what the server refuses with.
    """
    started = steady()
    delays: Iterator[float] | None = None
    sent = False
    loads = moves = 0
    body, key = _body(identity, command, clock), _key(command) if terms.routed else ""
    copies = terms.copies and _copies(command, terms)
    while True:
        question = _question(body, command, key, wake=wake, copies=copies)
        wake = None  # a repeat is the command alone: the token it waited for may be gone
        problem: str
        lacking: int | None = None
        anew = False
        try:
            replies = yield question
        except Lost as lost:
            problem, sent = str(lost), sent or lost.sent
        except errors.ServerUnreachable as error:
            # there is no server to be had, now
            raise _gave_up(command, terms, str(error), sent=sent) from error
        else:
            copied = replies.pop() if copies else None
            first, answer = replies[0], replies[-1]
            if not isinstance(answer, Refused):
                if copies and not (isinstance(copied, int) and copied >= copies):
                    # Stored, but not safe yet: the repeat stores nothing more and waits for all that was stored.
                    problem, lacking = _not_copied(copied, terms, command), copied if isinstance(copied, int) else 0
                    sent = True
                else:
                    found = command.parse(answer)
                    if isinstance(first, Refused) and first.code == "NOPERM" and not getattr(found, "messages", None):
                        # Without the wait this would become a polling loop.
                        raise error_for(first, command, terms.where)
                    return found
            elif answer.code == "MOVED":
                problem = f"{answer.code} {answer.detail}"
                moves += 1
                if moves % _MOVES:
                    continue  # whoever carries this has taken note of the way
            elif answer.code in _PASSING:
                problem, anew = f"{answer.code} {answer.detail}", answer.code in _DEMOTED
            elif _library_is_missing(answer) and loads < _LOADS:
                loads += 1
                passing = yield from _load(identity, answer, terms.where, key)
                if passing is None:
                    body = _spoken(body, identity.revision)
                    continue
                problem = passing
            elif answer.code in ("PSMQ_COMMAND_CLASH", "PSMQ_CLIENT_GONE"):
                identity.renew()
                if sent and isinstance(command, Command):
                    raise errors.OutcomeUnknown(
                        f"{terms.where}: {command.function} was ended by a supervisor, or another process used its "
                        "identity; it may have been done"
                    )
                body = _body(identity, command, clock)
                continue
            else:
                raise error_for(answer, command, terms.where)
        if delays is None:
            # No more than the server's memory of what was done has room for.
            ours = min(meanwhile.seconds, LONGEST_TIMEOUT) if meanwhile is not None else 0.0
            delays = backoff(min(terms.timeout, LONGEST_TIMEOUT), started + ours)
        delay = next(delays, None)
        if delay is None:
            raise _gave_up(command, terms, problem, sent=sent, lacking=lacking)
        try:
            yield Sleep(delay, anew)
        except errors.ServerUnreachable as error:
            raise _gave_up(command, terms, str(error), sent=sent) from error


def _question(
    body: Sequence[bytes | str | int], command: Command[Any] | Plain[Any], key: str, *, wake: float | None, copies: int
) -> Send:
    """The command, behind the wait for its queue's token, or before the wait for replicas, in one write."""
    payload = pack(body)
    if wake is not None and isinstance(command, Command):
        # 0 would wait for ever
        waiting = pack(("BLPOP", command.address.wake, f"{max(wake, 0.001):.3f}"))
        return Send(waiting + payload, 2, wake + _LATENESS, key)
    if copies:
        return Send(payload + pack(("WAIT", copies, _COPYING)), 2, _COPYING / 1000 + _LATENESS, key)
    return Send(payload, 1, _patience(command), key)


def _key(command: Command[Any] | Plain[Any]) -> str:
    return command.address.base if isinstance(command, Command) else command.key


def _copies(command: Command[Any] | Plain[Any], terms: Terms) -> int:
    return terms.copies if isinstance(command, Command) and command.function in _STORING else 0


def _not_copied(copied: Any, terms: Terms, command: Command[Any] | Plain[Any]) -> str:
    if not isinstance(copied, Refused):
        return f"{copied} of {terms.copies} replicas have it"
    if copied.code in _PASSING:
        return f"{copied.code} {copied.detail}"
    raise error_for(copied, command, terms.where)


def _patience(command: Command[Any] | Plain[Any]) -> float:
    return command.patience + _LATENESS if isinstance(command, Plain) and command.patience else 0.0


def _body(identity: Identity, command: Command[Any] | Plain[Any], clock: str) -> Sequence[bytes | str | int]:
    if isinstance(command, Plain):
        return command.words
    address = command.address
    head: tuple[bytes | str | int, ...] = (
        "FCALL",
        function_name(command),
        2,
        address.base,
        address.never,
        clock,
        identity.revision,
    )
    if not command.numbered:
        return (*head, *command.args)
    identity.number += 1
    return (*head, identity.client_id, identity.number, os.urandom(8).hex(), *command.args)


def _spoken(body: Sequence[bytes | str | int], revision: int) -> Sequence[bytes | str | int]:
    """The same call, with the same number, to a library of another revision."""
    return (*body[:_REVISION], revision, *body[_REVISION + 1 :])


def _library_is_missing(answer: Refused) -> bool:
    return answer.code == "PSMQ_OLD_LIBRARY" or "Function not found" in answer.detail


def _load(identity: Identity, why: Refused, where: str, key: str) -> Generator[Step, list[Any], str | None]:
    """Give the server our library. → why that must be tried again; None when the command can be"""
    is_older = why.code == "PSMQ_OLD_LIBRARY"
    words = ("FUNCTION", "LOAD", *(("REPLACE",) if is_older else ()), library.source())
    try:
        (answer,) = yield Send(pack(words), 1, 0.0, key)
    except Lost as lost:
        return str(lost)
    if not isinstance(answer, Refused) or "already exists" in answer.detail:
        return None
    if answer.code in _PASSING:
        return f"{answer.code} {answer.detail}"
    if is_older and why.detail.isdigit():
        # The older one of the same protocol does all that it ever did.
        identity.revision = int(why.detail)
        return None
    if answer.code == "OOM":
        raise errors.ServerUnsuitable(
            f"{where}: at its maxmemory the server takes no function library; raise maxmemory"
        )
    raise errors.ServerUnsuitable(
        f"{where}: the server does not take psmq's function library ({answer.code} {answer.detail}); "
        "an administrator runs once: psmq server load URL"
    )


def error_for(answer: Refused, command: Command[Any] | Plain[Any], where: str) -> errors.PsmqError:
    """What a refusal means to the one who asked."""
    name = command.address.name if isinstance(command, Command) else ""
    if answer.code == "PSMQ_QUEUE_DELETING":
        return QueueDeletingError(name)
    if answer.code == "OOM":
        return errors.ServerFull(name)
    if answer.code == "MISCONF":
        return errors.DiskFull(name)
    if answer.code == "WRONGTYPE" and isinstance(command, Plain):
        return StrangeKeyError(where, str(command.words[1]))
    if answer.code == "CROSSSLOT":
        return errors.ServerUnsuitable(f"{where}: is a node of a cluster: use redis+cluster://")
    if answer.code in ("NOAUTH", "WRONGPASS", "NOPERM"):
        return errors.ServerUnsuitable(f"{where}: {answer.code} {answer.detail}")
    if "unknown command" in answer.detail.lower():
        return errors.ServerUnsuitable(f"{where}: psmq needs Valkey 7.2 or Redis 7.0 or newer ({answer.detail[:60]})")
    return error_of(answer.code, answer.detail, name) or errors.PsmqError(f"{where}: {answer.code} {answer.detail}")


def _gave_up(
    command: Command[Any] | Plain[Any], terms: Terms, problem: str, *, sent: bool, lacking: int | None = None
) -> errors.PsmqError:
    if lacking is not None:
        return errors.NotReplicated(terms.where, lacking, terms.copies)
    if sent and isinstance(command, Command) and command.numbered:
        return errors.OutcomeUnknown(
            f"{terms.where}: no answer within {terms.timeout:g} s ({problem}); {command.function} may have been done"
        )
    return errors.ServerUnreachable(f"{terms.where}: {problem}")


def backoff(timeout: float, started: float) -> Iterator[float]:
    """Seconds to wait before each further try: 0.02, 0.04 … 1 with jitter, until ``timeout`` would be passed."""
    from tenacity import RetryCallState, Retrying, stop_before_delay, wait_exponential, wait_random

    waiting = wait_exponential(multiplier=0.02, max=1.0) + wait_random(0, 0.02)
    policy = Retrying(wait=waiting, stop=stop_before_delay(timeout))
    state = RetryCallState(policy, None, (), {})
    state.start_time = started
    while True:
        state.outcome_timestamp = steady()
        state.upcoming_sleep = policy.wait(state)
        if policy.stop(state):
            return
        yield state.upcoming_sleep
        state.attempt_number += 1
