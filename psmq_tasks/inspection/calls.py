"""The call inside a dead letter, opened and changed.

The one place of inspection that unpickles: only when it is told to, and only what the key signed. ``edit`` and
``show --decode`` of the command line are this.
"""

from __future__ import annotations

import base64
import getpass
import importlib
import inspect
import os
import socket
import sys
import time
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from psmq import id_random
from psmq.errors import InvalidOption
from psmq_tasks.errors import MalformedPayload, PayloadError
from psmq_tasks.history import Failure
from psmq_tasks.metadata import show_arguments
from psmq_tasks.payload import SealedCall, dump_call, dump_json, load_call, open_call, seal_call

if TYPE_CHECKING:
    from collections.abc import Mapping

    from psmq import DeadLetter
    from psmq_tasks.envelope import Keyring
    from psmq_tasks.inspection.records import DeadTask

__all__ = ["Calls", "Change", "OpenedCall", "unedited"]

#: bytes of an original, packed: with it a history has room for the attempts that follow
_LARGEST_ORIGINAL: Final = 40_000


@dataclass(frozen=True, slots=True)
class OpenedCall:
    """A call, unpickled."""

    sealed: SealedCall
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    #: what a by-value call brings along
    carried: Any

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``: the arguments as Python writes them."""
        return {
            "task": self.sealed.task,
            "codec": self.sealed.codec,
            "signed": self.sealed.signed,
            "args": [_shown(value) for value in self.args],
            "kwargs": {name: _shown(value) for name, value in self.kwargs.items()},
        }


class Change(NamedTuple):
    """What ``Inspector.amend`` stores in place of a dead letter's call."""

    data: bytes
    metadata: dict[str, str]
    #: the record in its history
    note: bytes
    #: the arguments now, as listings show them
    shown: str


class Calls:
    """Opens and seals calls with an app's key: ``Calls(app.keyring, app.namespace)``."""

    def __init__(self, keyring: Keyring, namespace: str = "psmq") -> None:
        self._keyring = keyring
        self._namespace = namespace

    def open(self, letter: DeadTask) -> OpenedCall:
        """The call of a letter that ``Inspector.find`` gave; a PayloadError says what it is instead.

        Unpickling runs code of the arguments, and imports their modules. Nothing is unpickled that is not signed.
        """
        if letter.data is None:
            raise MalformedPayload("its data was not fetched: use Inspector.find")
        sealed = open_call(self._keyring, letter.data, **self._place(letter))
        try:
            carried, args, kwargs = load_call(sealed)
        except PayloadError:
            raise
        except Exception as error:
            raise MalformedPayload(f"its arguments' own code raised {type(error).__name__}: {error}") from error
        return OpenedCall(sealed, args, kwargs, carried)

    def change(
        self,
        letter: DeadTask,
        values: Mapping[str, Any] | None = None,
        *,
        args: tuple[Any, ...] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        by: str | None = None,
        keep_original: bool = True,
    ) -> Change:
        """The same call with other arguments, signed anew.

        ``values`` by parameter name, or by position ("0", "1" …); ``args`` and ``kwargs`` replace all of theirs.
        ``by`` defaults to user@host. The original data goes into the history, unless told otherwise. PayloadError when
        the call cannot be opened, has no such argument, or its original is too large to be kept.
        """
        call = self.open(letter)
        new_args = list(call.args if args is None else args)
        new_kwargs = dict(call.kwargs if kwargs is None else kwargs)
        for name, value in (values or {}).items():
            _place_value(call, new_args, new_kwargs, name, value)
        sealed = call.sealed
        if sealed.codec == "json":
            body, by_value = dump_json(tuple(new_args), new_kwargs), False
        else:
            body, by_value = dump_call(call.carried, tuple(new_args), new_kwargs)
        data = seal_call(
            self._keyring,
            **self._place(letter),
            task=sealed.task,
            codec=sealed.codec,
            by_value=by_value,
            headers=sealed.headers,
            body=body,
        )
        shown = show_arguments(tuple(new_args), new_kwargs)
        hidden = bool(letter.task) and not letter.args and bool(call.args or call.kwargs)
        metadata = {name: value for name, value in letter.metadata.items() if name != "args"}
        if shown and not hidden:  # a task that does not show its arguments keeps them to itself
            metadata["args"] = shown
        before = show_arguments(call.args, call.kwargs)
        what = "its arguments" if hidden else f"({before}) is now ({shown})"
        assert letter.data is not None
        return Change(data, metadata, _note(letter, what, by, letter.data if keep_original else b""), shown)

    def moved(self, letter: DeadLetter, to: str) -> bytes:
        """The data of a letter, signed for another queue; nothing is unpickled. What carries no signature is unchanged.

        ForgedPayload: not signed with this key, so this key will not vouch for it elsewhere.
        """
        message = letter.message
        random = id_random(message.message_id)
        return self._keyring.moved("task", self._namespace, message.queue_name, to, random, message.data)

    def _place(self, letter: DeadTask) -> dict[str, Any]:
        return {"namespace": self._namespace, "queue": letter.queue, "random": id_random(letter.id)}


def original_of(failure: Failure) -> bytes:
    """The data that an edit replaced; b"" when it was not kept, or a stranger wrote what cannot be read."""
    try:
        return zlib.decompress(base64.b64decode(failure.original)) if failure.original else b""
    except (ValueError, zlib.error):
        return b""


def unedited(letter: DeadTask) -> DeadTask | None:
    """The letter with the data that the first edit replaced, of those that kept it; None: there is none."""
    data = next(filter(None, map(original_of, letter.failures)), None)
    return None if data is None else replace(letter, data=data, size=len(data))


def _note(letter: DeadTask, what: str, by: str | None, original: bytes) -> bytes:
    packed = base64.b64encode(zlib.compress(original)).decode() if original else ""
    if len(packed) > _LARGEST_ORIGINAL:
        raise MalformedPayload(
            f"its original has {len(packed):,} bytes, packed, too many to be kept in its history: export it first "
            "(psmq dead export), then edit with --drop-original"
        )
    now = time.time()
    return Failure(
        attempt=letter.attempts,
        outcome="edited",
        type="",
        message=what,
        traceback="",
        started=now,
        ended=now,
        host=socket.gethostname(),
        pid=os.getpid(),
        task=letter.task,
        decision=f"by {by or _user()}",
        original=packed,
    ).pack()


def _user() -> str:
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError, ImportError):
        return f"{os.getuid()}@{socket.gethostname()}"


def _place_value(call: OpenedCall, args: list[Any], kwargs: dict[str, Any], name: str, value: Any) -> None:
    """Put a value where this name stands; a name that no argument has is refused."""
    if name in kwargs:
        kwargs[name] = value
        return
    if name.isdecimal():
        if int(name) >= len(args):
            raise InvalidOption(f"argument {name}", f"is not there: it has {len(args)} by position, counted from 0")
        args[int(name)] = value
        return
    signature = _signature(call)
    if signature is None:
        known = ", ".join([*map(str, range(len(args))), *kwargs])
        raise InvalidOption(
            f"argument {name!r}",
            f"has no place that can be told, as {call.sealed.task} cannot be imported here: "
            f"run this where its module is, or say which of {known}",
        )
    names = [
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())
    if name in names[: len(args)]:
        args[names.index(name)] = value
    elif name in signature.parameters or takes_any:
        kwargs[name] = value
    else:
        raise InvalidOption(f"argument {name!r}", f"is none of {call.sealed.task}{signature}")


def _signature(call: OpenedCall) -> inspect.Signature | None:
    """Of the task's function; None: it is not to be had here."""
    function: Any = getattr(call.carried, "function", None)
    if function is None:
        module, _, qualname = call.sealed.task.partition(":")
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.insert(0, here)
        try:
            found: Any = importlib.import_module(module)
            for part in qualname.split("."):
                found = getattr(found, part)
        except Exception:  # whatever a module does when it is imported: then it is not to be had
            return None
        function = getattr(found, "function", found)
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except Exception as error:
        return f"<{type(value).__qualname__}: its repr raised {type(error).__name__}>"
    return text if len(text) <= 10_000 else f"{text[:10_000]}…"
