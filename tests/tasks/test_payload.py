"""What travels. Nothing is unpickled that was not verified, and a result can always be written."""

from __future__ import annotations

import enum
import json
import pickle
import secrets
import struct
import subprocess
import sys
import textwrap
import threading

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import ROOT

from psmq_tasks import envelope, payload
from psmq_tasks.envelope import Keyring
from psmq_tasks.errors import (
    ForeignPython,
    ForgedPayload,
    MalformedPayload,
    MissingCode,
    NewerPayload,
    PayloadError,
    Reject,
    TaskBuried,
    TaskExpired,
    TaskFailed,
    UnserializableArgument,
    UnsignedPayload,
)
from psmq_tasks.outcome import Lost, Raised, Returned, TimedOut, Unpicklable
from psmq_tasks.payload import Carried, dump_call, load_call, open_call, open_result, seal_call, seal_result

RING = Keyring([secrets.token_bytes(32)])
OPEN = Keyring([], allow_unsigned=True)
PLACE = {"namespace": "psmq", "queue": "mail", "random": "0123456789a"}

touched: list[str] = []


class Marker:
    """Leaves a trace when it is unpickled."""

    def __reduce__(self):
        return leave_a_trace, ()


def leave_a_trace():
    touched.append("unpickled")


class Fragile(Exception):
    """Pickles and does not unpickle: its __init__ wants more than args has."""

    def __init__(self, code, reason):
        super().__init__(code)
        self.reason = reason


class Colour(enum.Enum):
    RED = 1


def sealed(ring=RING, *, task="m:f", codec="pickle", by_value=False, headers=None, body=None, **place):
    return seal_call(
        ring,
        task=task,
        codec=codec,
        by_value=by_value,
        headers=headers or {},
        body=dump_call(None, (1,), {"b": 2})[0] if body is None else body,
        **{**PLACE, **place},
    )


def round_trip(value, ring=RING):
    return open_result(ring, seal_result(ring, value, **PLACE), **PLACE)


# -- calls ------------------------------------------------------------------------------------------------------------


def test_a_call_arrives_as_it_was_sent():
    """Name, headers, args, kwargs; by reference it carries no code."""
    call = open_call(RING, sealed(headers={"hard": "5.0", "soft": ""}), **PLACE)
    assert (call.task, call.codec, call.by_value, call.tag, call.signed) == ("m:f", "pickle", False, "", True)
    assert call.headers == {"hard": "5.0", "soft": ""}
    assert load_call(call) == (None, (1,), {"b": 2})


def test_a_small_call_is_small():
    """109 bytes for a name of 20 characters and two short strings: signature included."""
    body, by_value = dump_call(None, ("a@example.org", "hello"), {})
    assert not by_value
    assert len(sealed(task="mail.tasks:send_mail", body=body)) <= 110


@pytest.mark.parametrize("place", [{"queue": "other"}, {"namespace": "other"}, {"random": "0123456789b"}])
def test_a_call_copied_elsewhere_is_a_forgery(place):
    """To another queue, another namespace, another message."""
    with pytest.raises(ForgedPayload):
        open_call(RING, sealed(), **{**PLACE, **place})


def test_a_result_is_no_call_and_a_call_is_no_result():
    """The signature says what it is for."""
    with pytest.raises(ForgedPayload):
        open_call(RING, seal_result(RING, Returned(1), **PLACE), **PLACE)
    with pytest.raises(ForgedPayload):
        open_result(RING, sealed(), **PLACE)


def test_an_unsigned_pickle_is_refused_unless_allowed():
    """Also when there is no key at all: having none is not allowing it."""
    data = sealed(OPEN, body=dump_call(None, (Marker(),), {})[0])
    touched.clear()
    for ring in (RING, Keyring([])):
        with pytest.raises(UnsignedPayload):
            open_call(ring, data, **PLACE)
    assert touched == []
    load_call(open_call(OPEN, data, **PLACE))
    assert touched == ["unpickled"]


def test_opening_does_not_unpickle():
    """A payload may kill while it unpickles: the worker marks the message started in between."""
    data = sealed(body=dump_call(None, (Marker(),), {})[0])
    touched.clear()
    call = open_call(RING, data, **PLACE)
    assert touched == []
    load_call(call)
    assert touched == ["unpickled"]


@given(st.data())
def test_a_changed_call_never_unpickles(data):
    """Whatever is done to the bytes: a PayloadError, or a call in plain JSON that nobody vouches for."""
    original = sealed(body=dump_call(None, (Marker(),), {})[0], headers={"a": "b"})
    at = data.draw(st.integers(0, len(original) - 1))
    changed = original[:at] + data.draw(st.binary(max_size=8)) + original[at + data.draw(st.integers(0, 8)) :]
    if changed == original:
        return
    touched.clear()
    try:
        call = open_call(RING, changed, **PLACE)
        assert (call.codec, call.signed) == ("json", False)
        load_call(call)
    except PayloadError:
        pass
    assert touched == []


@given(st.binary(max_size=200))
@example(b"{")
@example(b"{}")
@example(b"psmq\x01\x00")
@example(b"psmq\x01\x00" + struct.pack("<BBHHH", 0, 0, 65535, 65535, 65535))
@example(b"psmq\x01\x00" + struct.pack("<BBHHH", 0, 0, 2, 0, 0) + b"\xff\xff")
@example(b"psmq\x01\x00" + struct.pack("<BBHHH", 9, 9, 0, 0, 0))
@example(b"[" * 100_000)
@example(b"{" + b'"task":' + b"[" * 100_000)
def test_garbage_gets_a_payload_error(data):
    """No other exception, with or without a key, also where unsigned calls are allowed."""
    for ring in (RING, OPEN, Keyring([])):
        for prefix in (b"", b"psmq\x01\x00"):
            try:
                call = open_call(ring, prefix + data, **PLACE)
            except PayloadError:
                continue
            assert not call.signed
            if call.codec == "json":
                with pytest.raises(MalformedPayload):
                    load_call(call)


def test_a_newer_call_is_handed_back_if_our_key_signed_it(monkeypatch):
    """Rolling upgrades: a worker that does not know the version leaves it to one that does; who only says so is not one."""
    with monkeypatch.context() as patch:
        patch.setattr(envelope, "VERSION", 2)
        patch.setattr(envelope, "SIGNED", b"psmq\x02\x01")
        newer = sealed()
    with pytest.raises(NewerPayload) as caught:
        open_call(RING, newer, **PLACE)
    assert caught.value.hand_back
    data = bytearray(sealed())
    data[4] += 1
    with pytest.raises(ForgedPayload):
        open_call(RING, bytes(data), **PLACE)


# -- pickling ---------------------------------------------------------------------------------------------------------


def test_code_that_nobody_can_import_goes_by_value():
    """A lambda comes along whole, and marked."""
    body, by_value = dump_call(None, (lambda x: x + 1,), {})
    assert by_value
    call = open_call(RING, sealed(by_value=True, body=body), **PLACE)
    assert call.tag == sys.implementation.cache_tag
    assert load_call(call)[1][0](1) == 2


def test_a_call_by_value_carries_function_and_options():
    """For workers that have never heard of the task."""

    def greet(name):
        return f"hello {name}"

    body, by_value = dump_call(Carried(greet, {"time_limit": 5}), ("you",), {})
    carried, args, kwargs = load_call(open_call(RING, sealed(by_value=by_value, body=body), **PLACE))
    assert carried.function(*args, **kwargs) == "hello you"
    assert carried.options == {"time_limit": 5}


def test_an_instance_of_a_main_class_goes_by_value(tmp_path):
    """pickle writes it by reference without complaint, and the worker's __main__ is another program."""
    program = """
        import sys
        from psmq_tasks.payload import dump_call
        class Point:
            def __init__(self, x): self.x = x
        body, by_value = dump_call(None, (Point(3),), {})
        assert by_value
        sys.stdout.buffer.write(body)
    """
    script = tmp_path / "sender.py"
    script.write_text(textwrap.dedent(program))
    body = subprocess.run(
        [sys.executable, script], env={"PYTHONPATH": str(ROOT)}, capture_output=True, timeout=60, check=True
    ).stdout
    (point,) = load_call(open_call(RING, sealed(by_value=True, body=body), **PLACE))[1]
    assert point.x == 3


def test_code_of_another_python_is_never_touched():
    """It could crash this one: it is handed back, with what would run it."""
    touched.clear()
    call = open_call(RING, sealed(by_value=True, body=dump_call(None, (Marker(),), {})[0]), **PLACE)
    with pytest.raises(ForeignPython) as caught:
        load_call(call._replace(tag="cpython-399"))
    assert touched == []
    assert caught.value.hand_back
    assert "cpython-399" in str(caught.value)


def test_the_tag_of_the_python_is_signed():
    """Changing it to fit is a forgery."""
    data = sealed(by_value=True)
    tag = sys.implementation.cache_tag.encode()
    assert data.count(tag) == 1
    with pytest.raises(ForgedPayload):
        open_call(RING, data.replace(tag, tag[:-1] + b"9"), **PLACE)


@pytest.mark.parametrize(
    "args, kwargs, named",
    [
        ((1, threading.Lock()), {}, "argument 'body'"),
        ((1, 2, [threading.Lock()]), {}, "argument 3"),
        ((1,), {"lock": threading.Lock()}, "argument 'lock'"),
        ((), {"gen": (x for x in ())}, "argument 'gen'"),
    ],
)
def test_the_error_names_the_argument_that_does_not_pickle(args, kwargs, named):
    """Not just "cannot pickle '_thread.lock' object", somewhere."""
    with pytest.raises(UnserializableArgument) as caught:
        dump_call(None, args, kwargs, ("to", "body"))
    assert caught.value.argument == named
    assert str(caught.value).startswith(named)
    assert isinstance(caught.value, TypeError)


def test_a_function_that_refers_to_what_does_not_pickle_is_named_too():
    """The arguments are fine; the closure is not."""
    lock = threading.Lock()
    with pytest.raises(UnserializableArgument, match="the function, with what it refers to"):
        dump_call(Carried(lambda: lock, {}), (1,), {})


def test_an_argument_whose_own_pickling_raises_is_named():
    """Whatever its ``__reduce__`` raises."""

    class Broken:
        def __reduce__(self):
            raise RuntimeError("not today")

    with pytest.raises(UnserializableArgument, match=r"argument 'to'.*not today"):
        dump_call(None, (Broken(),), {}, ("to",))


def test_arguments_whose_code_is_not_here_are_handed_back():
    """A deploy may be under way: a worker with the newer code stands beside this one."""
    for body in (b"cno_such_module\nThing\n.", b"cpsmq_tasks.payload\nno_such_name\n."):
        with pytest.raises(MissingCode) as caught:
            load_call(open_call(RING, sealed(body=body), **PLACE))
        assert caught.value.hand_back


def test_an_attribute_error_of_the_arguments_own_code_is_theirs():
    """It counts as a failed attempt instead of being handed back for a day."""
    body = dump_call(None, (OwnError(),), {})[0]
    with pytest.raises(AttributeError, match="own"):
        load_call(open_call(RING, sealed(body=body), **PLACE))


class OwnError:
    def __reduce__(self):
        return raise_attribute_error, ()


def raise_attribute_error():
    raise AttributeError("own")


@pytest.mark.parametrize("body", [b"", b"\x80", b"N.", b"not a pickle", b"\x80\x05]."])
def test_a_signed_body_that_is_no_call_is_malformed(body):
    """Signed by mistake is still not a call."""
    with pytest.raises(MalformedPayload):
        load_call(open_call(RING, sealed(body=body), **PLACE))


def test_what_is_carried_must_be_a_function_with_options():
    """Not just anything that was signed."""
    body = pickle.dumps((["not", "carried"], (), {}), 5)
    with pytest.raises(MalformedPayload, match="carries"):
        load_call(open_call(RING, sealed(body=body), **PLACE))


# -- JSON -------------------------------------------------------------------------------------------------------------


def test_the_json_codec_runs_no_code_of_the_sender():
    """Lists, dicts, strings and numbers, and nothing else."""
    body = payload.dump_json((1, "é"), {"b": [None, True]})
    call = open_call(RING, sealed(codec="json", body=body), **PLACE)
    assert load_call(call) == (None, (1, "é"), {"b": [None, True]})


def test_json_refuses_what_it_cannot_say_and_names_it():
    """At the sender, not in the worker."""
    for value in ({1, 2}, Colour.RED, float("nan")):
        with pytest.raises(UnserializableArgument, match="argument 'to'"):
            payload.dump_json((value,), {}, ("to",))


def test_a_sender_without_psmq_writes_plain_json():
    """Unsigned by nature: ``signed=False`` lets the app ask whether the task takes that."""
    data = json.dumps({"task": "m:f", "args": [1], "kwargs": {"b": 2}}).encode()
    call = open_call(RING, data, **PLACE)
    assert (call.task, call.codec, call.signed) == ("m:f", "json", False)
    assert load_call(call) == (None, (1,), {"b": 2})
    assert load_call(open_call(RING, b'{"task": "m:f"}', **PLACE)) == (None, (), {})


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"[1, 2]", b"[[], []]", b"[[]", b"[[], {}, 1]", b"\xff"])
def test_a_json_body_is_args_and_kwargs(body):
    """Anything else is malformed, signed or not."""
    with pytest.raises(MalformedPayload):
        load_call(open_call(RING, sealed(codec="json", body=body), **PLACE))


@pytest.mark.parametrize(
    "call",
    [{}, {"task": 5}, {"task": "m:f", "arg": [1]}, {"task": "m:f", "args": {}}, {"task": "m:f", "kwargs": [1]}],
)
def test_plain_json_that_is_no_call_says_how_one_looks(call):
    """A misspelt key is not ignored."""
    with pytest.raises(MalformedPayload, match='"kwargs"'):
        open_call(RING, json.dumps(call).encode(), **PLACE)


# -- results ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, 0, "é", {"a": [1, (2, 3)]}, Colour.RED, b"\0" * 1000])
def test_a_returned_value_comes_back(value):
    """By pickle, signed."""
    assert round_trip(Returned(value)) == Returned(value)


def test_limits_and_losses_come_back():
    """With their numbers and words."""
    assert round_trip(TimedOut(2.5, hard=True)) == TimedOut(2.5, hard=True)
    assert round_trip(Lost("killed by signal 9 é")) == Lost("killed by signal 9 é")


def test_an_error_comes_back_as_itself_with_the_remote_traceback_as_its_cause():
    """``except KeyError`` works at the caller, and the worker's lines are shown."""
    try:
        {}["k"]
    except KeyError as error:
        outcome = round_trip(Raised(error))
    assert type(outcome.error) is KeyError
    assert outcome.error.args == ("k",)
    assert '{}["k"]' in str(outcome.error.__cause__)
    assert "in the worker" in str(outcome.error.__cause__)


@pytest.mark.parametrize("make", [lambda: Fragile(1, "x"), lambda: ValueError(threading.Lock())])
def test_an_error_that_does_not_survive_the_trip_comes_back_in_words(make):
    """Many errors pickle and fail to unpickle: TaskFailed has their type, message and traceback."""
    outcome = round_trip(Raised(make()))
    assert type(outcome.error) is TaskFailed
    assert outcome.error.type_name.endswith(type(make()).__name__)
    assert outcome.error.traceback
    assert outcome.error.__cause__ is not None


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), Reject("no"), GeneratorExit()])
def test_what_would_end_or_steer_the_reader_comes_back_in_words(error):
    """A task's ``sys.exit(3)`` must not exit the web server that asks for the result."""
    failed = round_trip(Raised(error)).error
    assert type(failed) is TaskFailed
    assert failed.type_name.endswith(type(error).__name__)


def test_a_value_that_does_not_pickle_comes_back_as_a_stand_in():
    """The task did return; what, is told by type and repr."""
    lock = threading.Lock()
    value = round_trip(Returned(lock)).value
    assert isinstance(value, Unpicklable)
    assert value.type_name == "_thread.lock"
    assert "unlocked" in value.text
    assert "does not pickle" in repr(value)


class Spiteful(Exception):
    """Raises from everything that a result could ask of it."""

    def __reduce_ex__(self, protocol):
        raise SystemExit(1)

    def __repr__(self):
        raise SystemExit(2)

    def __str__(self):
        raise SystemExit(3)


def test_a_result_can_always_be_written():
    """Whatever the value or error does when it is pickled or shown."""
    value = round_trip(Returned(Spiteful())).value
    assert "SystemExit" in value.text
    assert round_trip(Raised(Spiteful())).error.type_name.endswith("Spiteful")
    recursive = []
    for _ in range(100_000):
        recursive = [recursive]
    assert isinstance(round_trip(Returned(recursive)).value, Unpicklable)


def test_a_value_that_cannot_be_rebuilt_here_is_an_error_at_the_reader():
    """A by-value result of another Python is not touched; a class that is not here is named."""
    data = seal_result(RING, Returned(lambda: 1), **PLACE)
    tag = sys.implementation.cache_tag.encode()
    content = RING.open("result", *PLACE.values(), data)[0].replace(tag, tag[:-1] + b"?")
    foreign = open_result(RING, RING.seal("result", *PLACE.values(), content), **PLACE)
    assert isinstance(foreign.error, ForeignPython)

    content = RING.open("result", *PLACE.values(), seal_result(RING, Returned(Colour.RED), **PLACE))[0]
    gone = content.replace(b"Colour", b"Colouz")
    missing = open_result(RING, RING.seal("result", *PLACE.values(), gone), **PLACE)
    assert isinstance(missing.error, MissingCode)


@pytest.mark.parametrize(
    "data, error", [(b"!expired at noon", TaskExpired), (b"!buried by hand", TaskBuried), (b"!buried", TaskBuried)]
)
def test_what_the_server_writes_is_a_plain_code(data, error):
    """It has no key: its words are read, never unpickled."""
    outcome = open_result(RING, data, **PLACE)
    assert type(outcome.error) is error
    assert outcome.error.args == (data.partition(b" ")[2].decode(),)
    assert open_result(RING, b"!lost killed by signal 9", **PLACE) == Lost("killed by signal 9")


@pytest.mark.parametrize("place", [{"queue": "other"}, {"namespace": "other"}, {"random": "0123456789b"}])
def test_a_result_copied_elsewhere_is_a_forgery(place):
    """To another message, say, whose sender would take it for theirs."""
    with pytest.raises(ForgedPayload):
        open_result(RING, seal_result(RING, Returned(1), **PLACE), **{**PLACE, **place})


@given(st.data())
def test_a_changed_result_never_unpickles(data):
    """Anything but the original is an error or a plain code of the server."""
    original = seal_result(RING, Returned(Marker()), **PLACE)
    at = data.draw(st.integers(0, len(original) - 1))
    changed = original[:at] + data.draw(st.binary(max_size=8)) + original[at + data.draw(st.integers(0, 8)) :]
    if changed == original:
        return
    touched.clear()
    with pytest.raises(PayloadError):
        open_result(RING, changed, **PLACE)
    assert touched == []


@pytest.mark.parametrize("content", [b"", b"\x00", struct.pack("<BBHHII", 9, 0, 0, 0, 0, 0)])
def test_a_signed_result_that_is_none_is_malformed(content):
    """Too short, or of a kind that is not written."""
    with pytest.raises(MalformedPayload):
        open_result(RING, RING.seal("result", *PLACE.values(), content), **PLACE)


@given(st.binary(max_size=100))
def test_a_garbled_unsigned_result_is_a_payload_error_or_an_outcome(data):
    """Where unsigned results are allowed, garbage still raises nothing else. (Empty bodies only: it does unpickle.)"""
    head = struct.pack("<BBHHII", 2 + len(data) % 3, 0, 0, 0, len(data), 0)
    try:
        open_result(OPEN, b"psmq\x01\x00" + head + data, **PLACE)
    except PayloadError:
        pass
    with pytest.raises(PayloadError):
        open_result(RING, b"psmq\x01\x00" + head + data, **PLACE)
