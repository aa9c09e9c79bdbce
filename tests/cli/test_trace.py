"""psmq trace: the life of one message, from its queue, its history and the event log; and as it goes on."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest
from mishaps import failure, kill

from psmq import AsyncQueueManager, Bury, Delete, Release
from psmq_tasks.inspection import AsyncInspector, Inspector

METADATA = {"task": "mail:send", "args": "1", "sender": "web:7"}


def words(shown):
    """What the timeline says, without times."""
    return [line.split("  ", 2)[2].split("  ")[-1].strip() for line in shown.splitlines() if line[2:3] == ":"]


def told(document):
    return [event["verb"] for event in document["events"]]


def test_a_finished_message_is_traced_by_the_log(manager, run, read):
    """By whom it was sent, each delivery and to whom, what failed, how it ended; found by the end of its id."""
    queue = manager.get_queue("q", event_log=100)
    message_id = queue.push(b"body", metadata=METADATA, result_ttl=60)
    queue.exchange([(queue.get(), Release(0, reason="failed at attempt 1: ValueError: no (wait_fixed(0) → 0 s)"))])
    message = queue.get()
    message.extend(45)
    queue.exchange([(message, Delete(b"result"))])
    found = read("trace", message_id[-8:])
    assert (found["id"], found["state"], found["attempts"], found["logged"]) == (message_id, "done", 2, True)
    assert (found["task"], found["args"], found["sender"]) == ("mail:send", "1", "web:7")
    assert told(found) == ["pushed", "delivered", "released", "delivered", "extended", "deleted"]
    assert 50 < found["result_kept"] <= 60
    shown = run("trace", message_id).stdout
    assert "mail:send(1)" in shown
    assert "by web:7" in shown
    me = found["events"][0]["client"]
    assert words(shown) == [
        f"pushed by {me}",
        f"attempt 1, delivered to {me}",
        "failed, again at once: ValueError: no (wait_fixed(0) → 0 s)",
        f"attempt 2, delivered to {me}",
        "lease extended to 45s",
        f"done by {me}",
    ]


def test_without_a_log_a_whole_id_finds_the_result_of_what_is_finished(manager, run, read):
    """And nothing where none was kept: that is not found."""
    queue = manager.get_queue("q")
    kept, not_kept = queue.push(b"x", result_ttl=60), queue.push(b"x")
    queue.exchange([(queue.get(), Delete(b"result"))])
    queue.get().delete()
    found = read("trace", kept)
    assert (found["state"], found["logged"], found["events"]) == ("done", False, [])
    assert "attempts" not in run("trace", kept).stdout
    assert "event_log" in run("trace", not_kept, code=4).stderr
    assert "event_log" in run("trace", kept[-8:], code=4).stderr


def test_what_the_server_wrote_as_a_result_tells_how_it_ended(manager, read):
    """A ttl that ended, though no log and no message is left."""
    queue = manager.get_queue("q", clock="test")
    message_id = queue.push(b"x", ttl=0.001, result_ttl=60)
    wait = threading.Event()
    while queue.info().counters["expired"] == 0:
        queue.get()
        wait.wait(0.01)
    found = read("trace", message_id)
    assert (found["state"], found["reason"]) == ("expired", "its ttl ended before it was delivered")


def test_without_a_log_the_history_tells_what_failed(manager, run, read):
    """When each attempt began and ended, where, and which part of the policy decided what."""
    queue = manager.get_queue("q")
    queue.push(b"x", metadata=METADATA)
    record = failure(why="wait_fixed(60) → 60 s; stop_after_attempt(5): 1 of 5", delay=60.0)
    queue.exchange([(message := queue.get(), Release(60, failure=record))])
    found = read("trace", message.message_id)
    assert told(found) == ["pushed", "delivered", "released"]
    _, delivered, released = found["events"]
    assert (delivered["attempt"], delivered["client"]) == (1, "host:7")
    assert (released["seconds"], released["how"]) == (60, "counted")
    assert released["reason"] == "ValueError: no (wait_fixed(60) → 60 s; stop_after_attempt(5): 1 of 5)"
    shown = run("trace", message.message_id).stdout
    assert "wait_fixed(60) → 60 s; stop_after_attempt(5): 1 of 5" in shown
    assert "Traceback of attempt 1:\n" in shown
    (dead,) = kill(queue)
    assert words(run("trace", dead, "--follow").stdout)[1:] == [
        "attempt 1, delivered to host:7",
        "failed: ValueError: no",
        "dead: ValueError: no",
    ]


def test_attempts_that_are_counted_anew_show_that_somebody_sent_it_back(manager, run):
    """Also without a log: else there would be two first attempts, and nothing between them."""
    queue = manager.get_queue("q")
    queue.push(b"x")
    for again in (True, False):
        queue.exchange([(message := queue.get(), Bury("no", failure=failure()))])
        if again:
            queue.redrive([message.message_id])
    assert run("trace", message.message_id).stdout.count("sent back, counted anew") == 1
    assert "\nTraceback of the last attempt that is numbered 1:\n" in run("dead", "show", message.message_id).stdout
    assert words(run("trace", message.message_id, "--follow").stdout)[1:-1] == [
        "attempt 1, delivered to host:7",
        "failed: ValueError: no",
        "back in its queue, attempts are counted anew",
        "attempt 1, delivered to host:7",
        "failed: ValueError: no",
    ]


def test_a_timeline_looks_the_same_when_it_is_followed(manager, run):
    """Header, widths, rows."""
    queue = manager.get_queue("q", event_log=100)
    message_id = queue.push(b"x")
    queue.get().bury("no")
    looked, followed = run("trace", message_id).stdout, run("trace", message_id, "--follow").stdout
    assert "\nWHEN           AFTER  WHAT\n" in looked
    assert followed.partition("\n\n")[2].startswith(looked.partition("\n\n")[2])


def test_several_messages_with_one_ending_are_named(manager, run):
    """Also those that only a log knows."""
    queue = manager.get_queue("q", event_log=1000)
    ids = queue.push_many([b"x"] * 70)
    queue.purge()
    ending = next(one[-1] for one in ids if sum(other.endswith(one[-1]) for other in ids) > 1)
    result = run("trace", ending, code=2)
    assert next(one for one in ids if one.endswith(ending)) in result.stderr
    assert run("trace", "…", code=4)


@pytest.mark.parametrize("kept", [1000, 0], ids=["log", "no log"])
def test_following_shows_what_happens_until_the_message_is_done(manager, run, kept):
    """With a log each event; without one what a look every so often can see. Then it ends by itself."""
    queue = manager.get_queue("q", event_log=kept)
    message_id = queue.push(b"x", metadata=METADATA)
    inspector = Inspector(manager)
    looks = inspector.follow(inspector.trace(message_id[-8:]), every=0.01)
    steps = [
        lambda held: queue.get(),
        lambda held: queue.exchange([(held, Release(0.05, failure=failure(delay=0.05), reason="ValueError: no"))]),
        lambda held: queue.get(wait=5),
        lambda held: held.delete(),
    ]
    held, verbs = None, [["pushed"]]
    for step in steps:
        held = step(held) or held
        verbs.append([event.verb for event in next(looks).events])
    assert [after[len(before) :] for before, after in zip(verbs, verbs[1:], strict=False)] == [
        ["delivered"],
        ["released"],
        ["delivered"],
        ["deleted" if kept else "finished"],
    ]
    assert next(looks, None) is None


@pytest.mark.parametrize("kept", [1000, 0], ids=["log", "no log"])
def test_the_command_follows_a_message_to_its_death(manager, run, kept):
    """It says that it is dead and which command tells more; as JSON, an event on each line. Both end with 0."""
    queue = manager.get_queue("q", event_log=kept)
    message_id = queue.push(b"x")

    def die():
        queue.get(wait=10).bury("no such address")

    for options in ([], ["--json"]):
        thread = threading.Thread(target=die)
        thread.start()
        result = run("trace", message_id, "--follow", "--every", 0.05, *options)
        thread.join()
        if options:
            lines = [json.loads(line) for line in result.stdout.splitlines()]
            assert lines[0]["verb"] == "pushed"
            assert (lines[-1]["verb"], lines[-1]["reason"], lines[-1]["state"]) == ("buried", "no such address", "dead")
            assert {line["message_id"] for line in lines} == {message_id}
        else:
            assert words(result.stdout)[-1] == "dead: no such address"
            assert f"psmq dead show {message_id[-8:]}" in result.stdout.splitlines()[-1]
        queue.redrive([message_id])


def test_what_has_ended_is_not_followed(manager, run):
    """The command says what was, and ends."""
    queue = manager.get_queue("q", event_log=100)
    message_id = queue.push(b"x")
    queue.get().delete()
    assert words(run("trace", message_id, "--follow").stdout)[-1].startswith("done by")


def test_async_programs_follow_too(server_url, namespace):
    """With the same words."""

    async def follow():
        async with AsyncQueueManager(url=server_url, namespace=namespace) as manager:
            queue = await manager.get_queue("q", event_log=100)
            message_id = await queue.push(b"x")
            inspector = AsyncInspector(manager)
            message = await queue.get()
            found = await inspector.trace(message_id)
            looks = inspector.follow(found, every=0.01)
            await message.delete()
            states = [look.state async for look in looks]
            await manager.delete_queue("q")
            return found.state, states

    assert asyncio.run(follow()) == ("leased", ["done"])
