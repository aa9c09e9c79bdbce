"""Looking and mending as programs do it: plain data, in pages, and nothing is ever unpickled."""

from __future__ import annotations

import asyncio
import inspect
import json
import pickle
import uuid

import pytest
from mishaps import failure, kill, retry_later

from psmq import AsyncQueueManager, Bury, NewMessage, QueueManager, Release
from psmq.errors import QueueNotFound
from psmq_tasks import TaskApp
from psmq_tasks.errors import IdAmbiguous, IdNotFound
from psmq_tasks.inspection import AsyncInspector, Calls, Filter, Inspector, letters_of


@pytest.fixture
def namespace():
    return f"n{uuid.uuid4().hex[:12]}"


@pytest.fixture
def manager(server_url, namespace):
    """A server that nobody else has queues on."""
    with QueueManager(url=server_url, namespace=namespace) as manager:
        yield manager
        for name in manager.list_queues():
            manager.delete_queue(name)


@pytest.fixture
def inspector(manager):
    return Inspector(manager)


def ids(found):
    return [one.id for one in found]


# --- looking


def test_every_queue_shows_its_counts(manager, inspector):
    """By name; durations in seconds in what JSON gets."""
    manager.get_queue("b").push(b"1")
    kill(manager.get_queue("a", visibility_timeout=7), 2)
    first, second = inspector.queues()
    assert (first.name, first.dead, second.name, second.ready) == ("a", 2, "b", 1)
    shown = json.loads(json.dumps(first.as_dict()))
    assert shown["config"]["visibility_timeout"] == 7
    assert shown["counters"]["buried"] == 2


def test_looking_makes_no_queue(manager, inspector):
    """A name that does not exist is an error, and stays one."""
    for look in (
        lambda: inspector.messages("nope"),
        lambda: inspector.retries("nope"),
        lambda: list(inspector.dead(Filter(queue="nope"))),
        lambda: inspector.find("0", "nope"),
        lambda: inspector.redrive_all(Filter(queue="nope")),
    ):
        with pytest.raises(QueueNotFound):
            look()
    assert manager.list_queues() == []


def test_dead_letters_come_in_pages_oldest_first(manager, inspector):
    """However many there are: no call asks for more than a page."""
    buried = kill(manager.get_queue("q"), 250)
    found = list(inspector.dead())
    assert sorted(ids(found)) == sorted(buried)
    assert [one.buried for one in found] == sorted(one.buried for one in found)
    assert inspector.count_dead() == 250


def test_a_dead_letter_tells_what_was_called_and_every_attempt(manager, inspector):
    """What a person needs to judge it, without its payload."""
    (message_id,) = kill(manager.get_queue("q"), attempts=3, message="no such address")
    found = inspector.find(message_id)
    assert (found.id, found.queue, found.task, found.args) == (message_id, "q", "mail:send", "'a@example.org'")
    assert (found.sender, found.attempts, found.reason) == ("host:1", 3, "ValueError: no such address")
    assert [one.attempt for one in found.failures] == [1, 2, 3]
    assert found.failures[-1].traceback.endswith("ValueError: no such address\n")
    assert found.size == len(b"body")
    assert found.sent <= found.buried


def test_filters_choose_by_queue_task_and_error(manager, inspector):
    """A task by its whole name, its function or a pattern; an error by a part of it, in any case."""
    mail, shop = manager.get_queue("mail"), manager.get_queue("shop")
    one = kill(mail, task="app.mail:send", message="No Route")
    two = kill(mail, task="app.mail:fetch", message="timeout")
    three = kill(shop, task="app.shop:send", message="timeout")

    def chosen(**fields):
        return sorted(ids(inspector.dead(Filter(**fields))))

    assert chosen(queue="mail") == sorted(one + two)
    assert chosen(task="send") == sorted(one + three)
    assert chosen(task="app.mail:*") == sorted(one + two)
    assert chosen(task="app.mail:send") == one
    assert chosen(error="no route") == one
    assert chosen(error="TIMEOUT", queue="shop") == three
    assert chosen(error="valueerror", task="fetch") == two
    assert chosen(task="nothing") == []
    assert inspector.count_dead(Filter(error="timeout")) == 2


def test_the_newest_are_found_whatever_their_number(manager, inspector):
    """Also where many died in the same millisecond; the newest is last."""
    queue = manager.get_queue("q")
    kill(queue, 300)
    last = kill(queue, 5)
    listing = inspector.newest_dead(limit=5)
    assert listing.total == 305
    assert sorted(ids(listing.items)) == sorted(last)
    everything = list(inspector.dead())
    for limit in (1, 7, 120, 305, 400):
        assert ids(inspector.newest_dead(limit=limit).items) == ids(everything)[-limit:]
    assert inspector.newest_dead(limit=0).items == []


def test_the_newest_of_several_queues_are_merged_by_time(manager, inspector):
    """One listing for all; filtered ones count what fits."""
    a, b = manager.get_queue("a"), manager.get_queue("b")
    dead = [*kill(a, message="x"), *kill(b), *kill(a), *kill(b, message="x")]
    assert ids(inspector.newest_dead(limit=3).items) == dead[1:]
    listing = inspector.newest_dead(Filter(error="x"), limit=1)
    assert (ids(listing.items), listing.total) == (dead[3:], 2)


def test_an_id_may_be_given_by_its_end(manager, inspector):
    """While it is unique; with a … in front, as people copy it. What is ambiguous names the candidates."""
    queue = manager.get_queue("q")
    queue.push_many([NewMessage(b"", random=random) for random in ("00000000abc", "00000000xbc", "11111111111")])
    for message in queue.get_many(3):
        message.bury("why")
    assert inspector.find("…111").id.endswith("11111111111")
    assert inspector.find("abc").id.endswith("00000000abc")
    with pytest.raises(IdAmbiguous) as caught:
        inspector.find("bc")
    assert len(caught.value.candidates) == 2
    for wrong in ("zzz", "", "0" * 22):
        with pytest.raises(IdNotFound):
            inspector.find(wrong)
    with pytest.raises(IdNotFound, match="queue 'q'"):
        inspector.find("zzz", "q")
    whole = inspector.find("abc").id
    assert inspector.resolve(["abc", whole, "…abc"]) == [("q", whole)]


def test_retries_are_what_waits_for_another_attempt_next_first(manager, inspector):
    """With what went wrong last; a delayed push that nobody has tried yet is none."""
    queue, other = manager.get_queue("q"), manager.get_queue("other")
    queue.push(b"later", delay=60)
    late = retry_later(queue, 600, message="later", max_retrievals=4)
    soon = retry_later(other, 300, message="sooner")
    first, second = inspector.retries().items
    assert (first.id, second.id) == (soon, late)
    assert (second.attempts, second.max_attempts, second.failures[-1].message) == (1, 4, "later")
    assert first.due < second.due
    assert ids(inspector.retries("q").items) == [late]
    listing = inspector.retries(limit=1)
    assert (ids(listing.items), listing.total) == ([soon], 2)


def test_what_no_worker_knows_is_among_the_retries(manager, inspector):
    """Its deliveries do not count, so that the count alone would hide it."""
    queue = manager.get_queue("q")
    queue.push(b"", metadata={"task": "new:task"})
    queue.exchange([(queue.get(), Release(30, count=False, unknown=True))])
    (retry,) = inspector.retries().items
    assert (retry.attempts, retry.task) == (0, "new:task")
    assert retry.unknown_since is not None


def test_messages_are_shown_in_the_order_of_get(manager, inspector):
    """And stay where they are."""
    queue = manager.get_queue("q")
    pushed = queue.push_many([b"1", b"2", b"3"])
    urgent = queue.push(b"0", priority=5)
    found = inspector.messages("q", limit=3)
    assert ids(found) == [urgent, *pushed[:2]]
    assert found[0].data == b"0"
    assert queue.info().ready == 4
    queue.get()
    (leased,) = inspector.messages("q", "leased")
    assert leased.due is not None


# --- mending


def test_redriven_letters_are_ready_again_with_their_history(manager, inspector):
    """Same id, count anew; only those that were meant."""
    queue = manager.get_queue("q")
    chosen, other = kill(queue)[0], kill(queue)[0]
    mended = inspector.redrive([("q", chosen)])
    assert (mended.done, mended.gone, mended.queues) == (1, (), ("q",))
    assert ids(inspector.dead()) == [other]
    assert ids(inspector.messages("q")) == [chosen]
    queue.get().bury("again")
    assert len(inspector.find(chosen).failures) == 1


def test_one_that_is_gone_does_not_hold_up_the_others(manager, inspector):
    """Two people mend at once: each letter goes back once, and the slower one is told."""
    queue = manager.get_queue("q")
    dead = kill(queue, 3)
    queue.redrive([dead[1]])
    mended = inspector.redrive([("q", one) for one in dead])
    assert (mended.done, mended.gone) == (2, (dead[1],))
    assert queue.info().ready == 3


def test_a_redrive_of_all_ends_though_they_die_again_at_once(manager, inspector):
    """Its walk covers what was there when it began."""
    queue = manager.get_queue("q")
    kill(queue, 250)

    def die_again(_done):
        while got := queue.get_many(100):
            queue.exchange([(one, Bury("again", failure=failure())) for one in got])

    told = []
    mended = inspector.redrive_all(on_batch=lambda done: (told.append(done), die_again(done)))
    assert mended.done == sum(told) == 250
    assert len(told) > 1
    assert inspector.count_dead() == 250


def test_mending_takes_what_fits_and_no_more_than_asked(manager, inspector):
    """Filters and a limit, oldest first."""
    queue = manager.get_queue("q")
    wanted = kill(queue, 5, message="yes")
    kill(queue, 5)
    assert inspector.redrive_all(Filter(error="yes"), limit=2).done == 2
    assert ids(inspector.messages("q")) == wanted[:2]
    assert inspector.purge_all(Filter(error="yes")).done == 3
    assert inspector.count_dead() == 5
    assert inspector.purge_all(limit=0).done == 0


def test_purged_letters_are_gone(manager, inspector):
    """By id, and only dead ones."""
    queue = manager.get_queue("q")
    dead = kill(queue, 2)
    ready = queue.push(b"x")
    assert inspector.purge([("q", dead[0]), ("q", ready)]).done == 1
    assert ids(inspector.dead()) == dead[1:]
    assert queue.info().ready == 1


# --- whatever is stored


class Marker:
    """Unpickling it leaves a mark."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_nothing_is_unpickled(manager, inspector, tmp_path):
    """Not to look, not to find, not to send back."""
    mark = tmp_path / "mark"
    (message_id,) = kill(manager.get_queue("q"), data=pickle.dumps(Marker(str(mark))))
    json.dumps(inspector.find(message_id).as_dict())
    inspector.redrive([("q", message_id)])
    json.dumps([one.as_dict() for one in inspector.messages("q")])
    assert not mark.exists()


def test_garbage_is_shown_as_what_it_is(manager, inspector, namespace, raw_server):
    """Values, states, histories and ids that psmq never wrote do not end a listing."""
    queue = manager.get_queue("q")
    base = f"{namespace}:{{q}}"
    (good,) = kill(queue, task="fine:fine")
    for message_id, value in (("ODD ID!", b"\xff\xfe"), ("0", b"n9999;x"), ("z" * 22, b"x99999999999999;")):
        raw_server.hset(f"{base}:messages", message_id, value)
        raw_server.hset(f"{base}:failures", message_id, b"7:garbage,999:short")
        raw_server.zadd(f"{base}:dead", {message_id: 5})
    found = {one.id: one for one in inspector.dead()}
    assert found[good].task == "fine:fine"
    assert found["ODD ID!"].failures[0].message == "garbage"
    assert {"ODD ID!", "0"} <= found.keys()
    for one in found.values():
        json.dumps(one.as_dict())
    assert inspector.newest_dead(limit=1).items[0].id == good


def test_what_is_printed_as_json_is_plain(manager, inspector):
    """Times in ISO 8601 with their zone; data as text, or in base64 where it is none."""
    queue = manager.get_queue("q")
    kill(queue)
    retry_later(queue)
    queue.push("grüße".encode())
    queue.push(b"\x80\x00")
    (dead,) = inspector.dead()
    shown = json.loads(json.dumps(dead.as_dict()))
    assert shown["buried"].endswith("+00:00")
    assert shown["failures"][0]["started"].endswith("+00:00")
    (retry,) = inspector.retries().items
    assert json.loads(json.dumps(retry.as_dict()))["due"].endswith("+00:00")
    text, binary = (one.as_dict() for one in inspector.messages("q"))
    assert (text["data"], text["data_base64"]) == ("grüße", None)
    assert (binary["data"], binary["data_base64"]) == (None, "gAA=")


# --- both doors


def test_both_inspectors_have_the_same_verbs():
    """Names, parameters and words."""

    def verbs(cls):
        return {
            name: (list(inspect.signature(member).parameters.items()), member.__doc__)
            for name, member in vars(cls).items()
            if not name.startswith("_") and callable(member)
        }

    assert verbs(Inspector) == verbs(AsyncInspector)


def test_the_async_inspector_sees_and_does_the_same(manager, inspector, server_url, namespace):
    """Each verb once, on the same letters."""
    queue = manager.get_queue("q")
    dead = kill(queue, 4)
    retry_later(queue)

    async def look():
        async with AsyncQueueManager(url=server_url, namespace=namespace) as found:
            there = AsyncInspector(found)
            assert [info.name for info in await there.queues()] == ["q"]
            assert await there.messages("q", "dead") == inspector.messages("q", "dead")
            assert await there.retries() == inspector.retries()
            assert [one async for one in there.dead()] == list(inspector.dead())
            assert await there.newest_dead(limit=2) == inspector.newest_dead(limit=2)
            assert await there.count_dead() == 4
            assert await there.find(dead[0]) == inspector.find(dead[0])
            assert await there.resolve([dead[0]]) == [("q", dead[0])]
            with pytest.raises(IdNotFound):
                await there.find("zzz")
            assert (await there.redrive([("q", dead[0])])).done == 1
            assert (await there.redrive_all(limit=1)).done == 1
            assert (await there.purge([("q", dead[2])])).done == 1
            assert (await there.purge_all()).done == 1

    asyncio.run(look())
    assert inspector.count_dead() == 0


def test_asyncio_programs_mend_the_same_way(server_url, namespace, manager):
    """Groups, hastening, giving up, changing, exporting and bringing back, awaited."""
    queue = manager.get_queue("q")
    app = TaskApp("q", url=server_url, namespace=namespace, secret="0123456789abcdef")
    app.task(name="shop:order", codec="json")(lambda item: item)
    sent = app.tasks["shop:order"].delay("tee")
    queue.get().bury("KeyError: 'tee'")
    first, second = retry_later(queue), retry_later(queue)

    async def mend():
        async with AsyncQueueManager(url=server_url, namespace=namespace) as asynchronous:
            inspector = AsyncInspector(asynchronous)
            assert [(one.key, one.count) for one in await inspector.group_dead(by="error")] == [("KeyError", 1)]
            assert (await inspector.hasten(await inspector.resolve_waiting([first[-8:]]))).done == 1
            assert (await inspector.bury_waiting([("q", second)], "no use")).done == 1
            assert (await inspector.hasten([("q", second)])).gone == (second,)
            lines = [line async for line in inspector.export()]
            assert lines == await inspector.export_ids([("q", sent.id), ("q", second)])
            await inspector.purge_all()
            assert await inspector.adopt(list(letters_of(lines))) == 2
            letter = await inspector.find(sent.id)
            await inspector.amend(letter, Calls(app.keyring, namespace).change(letter, {"0": "tea"}), redrive=True)
            assert (await inspector.redrive_all(rate=1000)).done == 1

    asyncio.run(mend())
    app.close()
    assert queue.info().ready == 3
    assert sent.id in [one.message_id for one in queue.get_many(3) if one.data.endswith(b'[["tea"],{}]')]


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("ValueError: no", "ValueError"),
        ("psmq_tasks.Reject: a: b", "psmq_tasks.Reject"),
        ("failed at attempt 3: KeyError: 'x'", "KeyError"),
        ("KeyboardInterrupt", "KeyboardInterrupt"),
        (
            "its lease ended at delivery 5 of 5 without an answer",
            "its lease ended at delivery N of N without an answer",
        ),
        ("", ""),
    ],
)
def test_a_letter_has_a_kind_of_error(manager, inspector, reason, kind):
    """The type, however it died; numbers do not make kinds."""
    queue = manager.get_queue("q")
    queue.push(b"x")
    queue.get().bury(reason or " ")
    (group,) = inspector.group_dead()
    assert group.key.strip() == kind
