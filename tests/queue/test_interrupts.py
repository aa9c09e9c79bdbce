"""Interrupted calls: nothing is lost or leased to nobody, and no answer reaches another caller."""

from __future__ import annotations

import asyncio
import select
import signal
import threading
import time

import pytest
from support import output

from psmq import Delete, Release, async_connection, commands, connection
from psmq.errors import PsmqError


@pytest.fixture
def interrupt(monkeypatch):
    """interrupt(n): the n-th answer from now is interrupted, when the server has already given it."""
    original = connection._next_answer
    state = {"left": 0}

    def next_answer(sock, parser):
        if state["left"] and threading.current_thread() is threading.main_thread():
            state["left"] -= 1
            if not state["left"]:
                if not parser.has_data():
                    select.select([sock], [], [], 5)  # it is on its way: the server has done what was asked
                raise KeyboardInterrupt
        return original(sock, parser)

    monkeypatch.setattr(connection, "_next_answer", next_answer)

    def arm(answer):
        state["left"] = answer

    return arm


def counts(queue):
    info = queue.info()
    return info.ready, info.delayed, info.leased, info.dead


@pytest.mark.parametrize(("wait", "answer"), [(0, 1), (5, 1)])
def test_an_interrupted_get_gives_back_what_it_was_given(queue, interrupt, wait, answer):
    """Uncounted and at its place: it was never started."""
    queue.push_many([b"first", b"second"])
    interrupt(answer)
    with pytest.raises(KeyboardInterrupt):
        queue.get(wait=wait)
    assert counts(queue) == (2, 0, 0, 0)
    message = queue.get()
    assert (message.data, message.retrieval_count) == (b"first", 1)


@pytest.mark.parametrize("answer", [2, 3])
def test_an_interrupted_wait_gives_back_what_it_was_given(queue, interrupt, answer):
    """Both in the wait for the token and in the exchange behind it."""
    timer = threading.Timer(0.2, queue.push, [b"x"])
    timer.start()
    interrupt(answer)
    with pytest.raises(KeyboardInterrupt):
        queue.get(wait=5)
    timer.join()
    message = queue.get(wait=2)
    assert (message.data, message.retrieval_count) == (b"x", 1)


def test_what_was_got_earlier_stays_with_its_holder(queue, interrupt):
    """Only the interrupted get's own messages go back: others of the same connection are being worked on."""
    queue.push(b"held")
    held = queue.get()
    interrupt(1)
    with pytest.raises(KeyboardInterrupt):
        queue.get()
    assert counts(queue) == (0, 0, 1, 0)
    held.delete()


def test_a_get_that_never_arrived_gives_back_nothing(queue, monkeypatch):
    """Interrupted before a byte was sent: the last get of this connection is somebody's."""
    queue.push(b"held")
    held = queue.get()
    original = connection.Channel._send
    calls = []

    def send(self, *step):
        if not calls:
            calls.append(1)
            raise KeyboardInterrupt
        return original(self, *step)

    monkeypatch.setattr(connection.Channel, "_send", send)
    with pytest.raises(KeyboardInterrupt):
        queue.get()
    assert counts(queue) == (0, 0, 1, 0)
    held.delete()


@pytest.mark.parametrize("answer", [3, 4])
def test_the_first_of_many_is_not_left_behind(queue, interrupt, answer):
    """get_many waits for one and then asks for the rest: interrupted there, the one goes back, too."""
    timer = threading.Timer(0.2, queue.push_many, [[b"1", b"2", b"3"]])
    timer.start()
    interrupt(answer)
    try:
        found = queue.get_many(3, wait=5)
    except KeyboardInterrupt:
        found = []
    timer.join()
    assert counts(queue)[2] == len(found)
    assert [message.data for message in found + queue.get_many(9)] == [b"1", b"2", b"3"]


@pytest.mark.parametrize("answer", [1, 2, 3])
def test_what_came_in_earlier_trips_is_not_left_behind(queue, interrupt, answer):
    """A get of a thousand takes five trips: interrupted in any, all that was given goes back to its place."""
    queue.push_many([b"%d" % number for number in range(1000)])
    interrupt(answer)
    with pytest.raises(KeyboardInterrupt):
        queue.get_many(1000)
    assert counts(queue) == (1000, 0, 0, 0)
    found = queue.get_many(1000)
    assert [message.data for message in found] == [b"%d" % number for number in range(1000)]
    assert {message.retrieval_count for message in found} == {1}


@pytest.mark.parametrize("trip", [1, 2, 3])
def test_a_signal_between_two_trips_leaves_nothing_behind(queue, monkeypatch, trip):
    """It comes while no command is under way, in the code that asks for the next."""
    queue.push_many([b"%d" % number for number in range(600)])
    build, left = commands.exchange, trip

    def exchange(address, settlements, limit, **how):
        nonlocal left
        left -= limit > 0
        if not left and limit:
            raise KeyboardInterrupt
        return build(address, settlements, limit, **how)

    with monkeypatch.context() as patch:
        patch.setattr(commands, "exchange", exchange)
        with pytest.raises(KeyboardInterrupt):
            queue.get_many(600)
    assert counts(queue) == (600, 0, 0, 0)
    assert {message.retrieval_count for message in queue.get_many(600)} == {1}


def test_an_error_behind_the_first_of_many_does_not_hide_it(queue, monkeypatch):
    """What is held is worth more than the error."""
    original, asked = queue._link.run, []

    def run(command, **how):
        asked.append(command)
        if len(asked) == 3:
            raise PsmqError("no answer")
        return original(command, **how)

    threading.Timer(0.2, queue.push_many, [[b"1", b"2"]]).start()
    with monkeypatch.context() as patch:
        patch.setattr(
            queue._link,
            "run",
            lambda command, **how: (run if command.function == "exchange" else original)(command, **how),
        )
        found = queue.get_many(2, wait=5)
    assert [message.data for message in found] == [b"1"]
    assert [message.data for message in queue.get_many(9)] == [b"2"]


@pytest.mark.parametrize("verb", ["delete", "release", "extend", "bury"])
def test_an_interrupted_settlement_hands_back_nothing(queue, interrupt, verb):
    """It was done, or it was not: nothing else happens to the message."""
    queue.push(b"x")
    message = queue.get()
    arguments = {"extend": (60,), "bury": ("why",), "release": (30,)}.get(verb, ())
    interrupt(1)
    with pytest.raises(KeyboardInterrupt):
        getattr(message, verb)(*arguments)
    assert (
        counts(queue)
        == {"delete": (0, 0, 0, 0), "release": (0, 1, 0, 0), "extend": (0, 0, 1, 0), "bury": (0, 0, 0, 1)}[verb]
    )


def test_no_answer_reaches_another_caller(queue, interrupt):
    """The connection of an interrupted call is closed: what still comes is read by nobody."""
    ids = queue.push_many([b"%d" % number for number in range(10)])
    for number in range(20):
        interrupt(1 + number % 2)
        with pytest.raises(KeyboardInterrupt):
            for _ in range(3):
                queue.info()
        assert queue.push(b"more") not in ids
        assert queue.peek().data == b"0"
    assert counts(queue) == (30, 0, 0, 0)


def test_ctrl_c_ends_a_wait_at_once(queue):
    """A real signal, in the main thread."""

    def on_alarm(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, on_alarm)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        begun = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            queue.get(wait=30)
        assert time.monotonic() - begun < 2
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    queue.push(b"x")
    assert queue.get().data == b"x"


def test_signals_at_any_moment_lose_nothing(queue):
    """Thirty alarms while messages fly: whatever the caller does not hold is ready, or comes back uncounted."""
    held, lost = [], 0

    def on_alarm(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, on_alarm)
    try:
        for number in range(30):
            queue.push_many([b"x", b"y"])
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0005 + number * 0.0001)
                while True:
                    if message := queue.get(wait=0.002, visibility_timeout=6):
                        held.append(message)
            except KeyboardInterrupt:
                pass
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.signal(signal.SIGALRM, before)
    words, _ = queue.exchange([(message, Delete()) for message in held])
    assert set(words) <= {"done"}
    # between the last byte read and the caller's variable Python has an instant of its own: such a lease just ends
    lost = counts(queue)[2]
    assert lost <= 3
    seen = len(held)
    while message := queue.get(wait=7 if lost else 0):
        message.delete()
        seen += 1
        lost = counts(queue)[2] or (lost and counts(queue)[0])
    assert seen == 60


def test_a_signal_while_a_command_is_written_does_not_crash():
    """hiredis calls str() on what is neither bytes nor str, where handlers run, and does not survive one that raises."""
    code = """
        import signal
        from psmq.dialogue import pack

        def on_alarm(number, frame):
            raise KeyboardInterrupt

        signal.signal(signal.SIGALRM, on_alarm)
        words, caught = (7,) * 200_000, 0
        for number in range(30):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.001)
                while True:
                    pack(words)
            except KeyboardInterrupt:
                caught += 1
        print(caught)
        """
    assert output(code) == "30\n"


# --- asyncio


@pytest.fixture
def cancel_answer(monkeypatch):
    """cancel_answer(n): the task that reads the n-th answer from now is cancelled, when the server has given it."""
    original = async_connection._anext_answer
    state = {"left": 0}

    async def next_answer(reader, parser):
        if state["left"]:
            state["left"] -= 1
            if not state["left"]:
                await asyncio.sleep(0.1)
                asyncio.current_task().cancel()
                await asyncio.sleep(1)
        return await original(reader, parser)

    monkeypatch.setattr(async_connection, "_anext_answer", next_answer)

    def arm(answer):
        state["left"] = answer

    return arm


def test_a_cancelled_get_gives_back_what_it_was_given(in_loop, cancel_answer):
    """Before the cancellation is over: also when it ends the loop."""

    async def body(manager, queue):
        await queue.push_many([b"first", b"second"])
        cancel_answer(1)
        task = asyncio.create_task(queue.get())
        with pytest.raises(asyncio.CancelledError):
            await task
        info = await queue.info()
        assert (info.ready, info.leased) == (2, 0)
        message = await queue.get()
        assert (message.data, message.retrieval_count) == (b"first", 1)

    in_loop(body)


def test_the_first_of_many_is_not_left_behind_by_a_cancellation(in_loop, cancel_answer):
    """As with threads."""

    async def body(manager, queue):
        cancel_answer(4)
        task = asyncio.create_task(queue.get_many(3, wait=5))
        await asyncio.sleep(0.1)
        other = manager._link.channel()
        from psmq import NewMessage, commands

        await other.run(commands.push(queue._address, [NewMessage(b"1"), NewMessage(b"2"), NewMessage(b"3")]))
        await other.close()
        try:
            found = await task
        except asyncio.CancelledError:
            found = []
        assert (await queue.info()).leased == len(found)
        assert [message.data for message in found + await queue.get_many(9)] == [b"1", b"2", b"3"]

    in_loop(body)


def test_wait_for_gives_up_without_a_trace(in_loop):
    """asyncio.wait_for and timeout() are how asyncio programs stop waiting."""

    async def body(manager, queue):
        for _ in range(5):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(queue.get(wait=30), 0.05)
        await queue.push(b"x")
        message = await queue.get()
        assert (message.data, message.retrieval_count) == (b"x", 1)

    in_loop(body)


def test_cancelled_gets_and_pushes_race_and_nothing_is_lost(in_loop):
    """Whoever is not cancelled gets each message once, none waits for its visibility timeout."""

    async def body(manager, queue):
        got = []

        async def work(patience):
            try:
                async with asyncio.timeout(patience):
                    while True:
                        if message := await queue.get(wait=5):
                            got.append(message)
            except TimeoutError:
                pass

        workers = [asyncio.create_task(work(0.02 + 0.003 * number)) for number in range(40)]
        for number in range(200):
            await queue.push(b"%d" % number)
        await asyncio.gather(*workers)
        while message := await queue.get():
            got.append(message)
        assert sorted(int(message.data) for message in got) == list(range(200))
        assert (await queue.info()).leased == 200
        words, _ = await queue.exchange([(message, Release()) for message in got])
        assert set(words) == {"done"}

    in_loop(body)
