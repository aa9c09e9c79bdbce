"""The queue against a plain model of it: any sequence of commands, repeats and jumps of the clock.

After every step every id, place, count, receipt and counter must be equal, and what peek shows is what get gives.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from psmq import Bury, Delete, NewMessage, QueueManager, Release, errors
from psmq.connection import Channel
from psmq.dialogue import Send
from psmq.queue import Queue

START = 1_900_000_000_000
STATES = ("ready", "delayed", "leased", "dead")
LIMIT, WINDOW, TIMEOUT, MOST_UNCOUNTED = 2, 10_000, 5_000, 20


@dataclass
class Held:
    """A message as the model knows it. ``at``: place in line, due time, end of the lease or time of death, in ms."""

    id: str
    priority: int
    state: str
    at: int
    expires: int | None
    own_limit: int | None
    later_limit: int | None = None
    count: int = 0
    first: int = 0
    receipt: str = "-"
    uncounted: int = 0
    place: int = 0


class Model:
    def __init__(self, on_expiry, retention=None):
        self.on_expiry, self.limit, self.paused = on_expiry, LIMIT, False
        self.retention = retention
        self.time, self.seen, self.offset, self.last_id = START, 0, 0, 0
        self.held, self.windows = {}, {}
        self.counters = dict.fromkeys(
            (
                "sent",
                "received",
                "deleted",
                "popped",
                "released",
                "uncounted",
                "buried",
                "redriven",
                "expired",
                "purged",
                "imported",
                "departed",
                "arrived",
                "outlived",
            ),
            0,
        )

    @property
    def now(self):
        return self.time + self.offset + max(0, self.seen - self.time)

    def note_time(self):
        self.offset, self.seen = self.now - self.time, self.time

    def of(self, state):
        return sorted((m for m in self.held.values() if m.state == state), key=self.order)

    @staticmethod
    def order(m):
        return (-m.priority if m.state == "ready" else 0, m.at, m.id)

    def limit_of(self, m):
        return m.later_limit or m.own_limit or self.limit

    def drop(self, m, counter):
        del self.held[m.id]
        self.counters[counter] += 1

    def bury(self, m, at, receipt="-"):
        m.state, m.at, m.receipt = "dead", at, receipt
        self.counters["buried"] += 1

    def expire(self, m):
        if self.on_expiry == "bury":
            self.bury(m, m.expires)
        else:
            self.drop(m, "expired")

    def is_expired(self, m):
        return m.expires is not None and m.expires <= self.now

    def is_outlived(self, at):
        return self.retention is not None and at <= self.now - self.retention

    def promote(self):
        for m in [m for m in self.held.values() if m.state in ("ready", "delayed") and self.is_expired(m)]:
            self.expire(m)
        for m in [m for m in self.held.values() if m.at <= self.now]:
            if m.state == "delayed":
                m.state = "ready"
            elif m.state == "leased":
                m.uncounted = 0
                if m.count >= self.limit_of(m):
                    self.bury(m, m.at, m.receipt)
                elif self.is_expired(m):
                    self.expire(m)
                else:
                    m.state, m.place = "ready", m.at
        for m in [m for m in self.of("dead") if self.is_outlived(m.at)]:
            self.drop(m, "outlived")

    def take(self, limit):
        taken = []
        for _ in range(4):
            rows = self.of("ready")[: limit - len(taken)]
            if not rows or len(taken) == limit:
                return taken, False
            wanted = limit - len(taken)
            for m in rows:
                if self.is_expired(m):
                    self.expire(m)
                else:
                    m.state, m.place = "taken", m.at
                    taken.append(m)
            if len(rows) < wanted:
                return taken, False
        return taken, len(taken) < limit

    def next(self, limit):
        """What one get gives, with everything that happens on the way; the client asks again while there is more."""
        more = not self.paused
        taken = []
        while more and not taken:
            self.promote()
            taken, more = self.take(limit)
        for m in taken:
            m.count += 1
            m.first = m.first or self.now
            self.counters["received"] += 1
        return taken

    def release(self, m, delay, count, limit):
        uncounted = not count and m.uncounted < MOST_UNCOUNTED
        self.counters["released"] += 1
        m.receipt = "-"
        if uncounted:
            self.counters["uncounted"] += 1
            m.uncounted, m.count = m.uncounted + 1, max(0, m.count - 1)
            m.first = m.first if m.count else 0
        else:
            m.uncounted, m.later_limit = 0, limit or m.later_limit
            if m.count >= self.limit_of(m):
                self.bury(m, self.now)
                return "dead"
        if delay:
            m.state, m.at = "delayed", self.now + delay
        else:
            m.place = m.place if uncounted else self.now
            m.state, m.at = "ready", m.place
        return "done"

    def settle(self, items):
        seen, words = set(), []
        for message_id, receipt, what in items:
            m = self.held.get(message_id)
            final = isinstance(what, Delete)
            if not m or m.receipt != receipt or message_id in seen or (m.state == "dead" and not final):
                words.append("stale")
                continue
            seen.add(message_id)
            word = "done"
            if final:
                self.drop(m, "deleted")
            elif isinstance(what, Bury):
                self.bury(m, self.now)
            else:
                word = self.release(m, int(what.delay * 1000), what.count, what.max_retrievals)
            words.append(word)
        return words

    def view(self):
        """(state, score, id, count) of every message as reads show it, though nobody has moved it yet."""
        rows = []
        for m in self.held.values():
            state, at = m.state, m.at
            lost = state == "leased" and at <= self.now and m.count >= self.limit_of(m)
            over = at <= self.now and state in ("delayed", "leased")
            if lost:
                state = "dead"
            elif self.is_expired(m) and (over or state in ("ready", "delayed")):
                if self.on_expiry == "drop":
                    continue
                state, at = "dead", m.expires
            elif over:
                state = "ready"
            if state == "dead" and self.is_outlived(at):
                continue
            rows.append((state, at - m.priority * 2**42 if state == "ready" else at, m.id, m.count))
        return sorted(rows)


options = st.fixed_dictionaries(
    {
        "priority": st.sampled_from((0, 0, 0, 1, -1, 100, -100)),
        "delay": st.sampled_from((None, None, 0, 1, 4)),
        "ttl": st.sampled_from((None, None, 2, 8)),
        "max_retrievals": st.sampled_from((None, None, 1, 2)),
    }
)
delays = st.sampled_from((0, 0, 1, 3))
releases = st.builds(Release, delays, count=st.booleans(), max_retrievals=st.sampled_from((None, None, 1, 5)))
settlements = st.one_of(st.just(Delete()), st.just(Bury("because")), releases)
picks = st.integers(0, 10**6)


class QueueMachine(RuleBasedStateMachine):
    manager: QueueManager

    @initialize(
        on_expiry=st.sampled_from(("drop", "bury")),
        retention=st.sampled_from((None, None, 6_000)),
        some=st.lists(options, max_size=4),
    )
    def make(self, on_expiry, retention, some):
        self.model = Model(on_expiry, retention)
        self.reader = self.manager.get_queue(
            f"model-{uuid.uuid4().hex[:12]}", clock="test", max_retrievals=LIMIT, on_expiry=on_expiry,
            visibility_timeout=TIMEOUT / 1000, deduplication_window=WINDOW / 1000,
            dead_retention=retention and retention / 1000,
        )  # fmt: skip
        self.channel = Channel(self.manager._endpoint, 10)
        self.queue = Queue(self.reader._address, self.reader.config, self.channel)
        self.queue._clock = self.reader._clock = lambda: str(self.model.time)
        self.receipts = []  # every one ever given
        self.last = None
        send = self.channel._send

        def sending(step, meanwhile=None):
            answers = send(step, meanwhile)
            if b"psmq_v1_extend" not in step.payload:
                self.last = step.payload, answers[-1]
            return answers

        self.channel._send = sending
        messages = [NewMessage(b"x", **each) for each in some]
        if messages:  # none: nothing is sent, and the server has not seen this time
            self.pushed(self.queue.push_many(messages), messages)

    def teardown(self):
        self.manager.delete_queue(self.reader.name)
        self.channel.close()

    def got(self, messages, expected):
        assert [(m.message_id, m.retrieval_count, m.record.first_ms) for m in messages] == [
            (m.id, m.count, m.first) for m in expected
        ]

    def leased(self, messages, expected, timeout):
        self.got(messages, expected)
        for message, m in zip(messages, expected, strict=True):
            m.state, m.at, m.receipt = "leased", self.model.now + int(timeout * 1000), message.receipt
            self.receipts.append((m.id, message.receipt))

    def pushed(self, ids, messages):
        model = self.model
        model.note_time()
        for message_id, message in zip(ids, messages, strict=True):
            name = message.deduplication_id
            known, ends = model.windows.get(name, ("", 0))
            if name and ends > model.now:
                assert message_id == known
                continue
            micros = max(model.time * 1000, model.last_id + 1)
            assert message_id > max(model.held, default="")
            delay = int((message.delay or 0) * 1000)
            model.last_id = micros
            model.held[message_id] = Held(
                message_id, message.priority, "delayed" if delay else "ready", model.now + delay,
                model.now + message.ttl * 1000 if message.ttl else None, message.max_retrievals,
            )  # fmt: skip
            model.counters["sent"] += 1
            if name:
                model.windows[name] = message_id, model.now + WINDOW

    @rule(options=options, name=st.sampled_from((None, None, "a", "b")))
    def push(self, options, name):
        self.pushed(
            [self.queue.push(b"x", deduplication_id=name, **options)],
            [NewMessage(b"x", deduplication_id=name, **options)],
        )

    @rule(options=options, names=st.lists(st.sampled_from((None, None, "a", "b")), min_size=1, max_size=4))
    def push_many(self, options, names):
        messages = [NewMessage(b"x", deduplication_id=name, **options) for name in names]
        self.pushed(self.queue.push_many(messages), messages)

    @rule(limit=st.integers(1, 4), timeout=st.sampled_from((None, None, 1, 30)))
    def get_many(self, limit, timeout):
        self.model.note_time()
        expected = self.model.next(limit)
        self.leased(self.queue.get_many(limit, visibility_timeout=timeout), expected, timeout or TIMEOUT / 1000)

    @rule()
    def get_what_peek_shows(self):
        peeked = self.reader.peek()
        self.model.note_time()
        expected = self.model.next(1)
        message = self.queue.get()
        self.leased([message] if message else [], expected, TIMEOUT / 1000)
        if not self.model.paused:
            assert (peeked and peeked.message_id) == (message and message.message_id)

    @rule()
    def pop(self):
        self.model.note_time()
        expected = self.model.next(1)
        message = self.queue.pop()
        self.got([message] if message else [], expected)
        for m in expected:
            self.model.drop(m, "popped")

    @precondition(lambda self: self.receipts)
    @rule(back=st.integers(0, 3), what=settlements)
    def settle(self, back, what):
        message_id, receipt = self.receipts[-1 - back % len(self.receipts)]
        self.model.note_time()
        words = self.model.settle([(message_id, receipt, what)])
        assert self.queue.exchange([((message_id, receipt), what)])[0] == words

    @precondition(lambda self: self.receipts)
    @rule(data=st.lists(st.tuples(picks, settlements), min_size=1, max_size=4), limit=st.integers(0, 2))
    def exchange(self, data, limit):
        items = [(*self.receipts[-1 - pick % min(len(self.receipts), 12)], what) for pick, what in data]
        self.model.note_time()
        words = self.model.settle(items)
        expected = self.model.next(limit) if limit else []
        answered, messages = self.queue.exchange([((id_, receipt), what) for id_, receipt, what in items], limit)
        assert answered == words
        self.leased(messages, expected, TIMEOUT / 1000)

    @precondition(lambda self: self.receipts)
    @rule(pick=picks, timeout=st.sampled_from((0.5, 5, 60)))
    def extend(self, pick, timeout):
        message_id, receipt = self.receipts[-1 - pick % min(len(self.receipts), 12)]
        m = self.model.held.get(message_id)
        self.model.note_time()
        if m and m.receipt == receipt and m.state != "dead":
            self.queue.extend((message_id, receipt), timeout)
            m.state, m.at = "leased", self.model.now + int(timeout * 1000)
        else:
            with pytest.raises(errors.ReceiptExpired):
                self.queue.extend((message_id, receipt), timeout)

    @rule(picked=st.lists(picks, min_size=1, max_size=3), keep=st.booleans(), any_state=st.booleans())
    def redrive(self, picked, keep, any_state):
        model = self.model
        pool = [id_ for state, _, id_, _ in model.view() if any_state or state == "dead"]
        ids = list(dict.fromkeys(pool[pick % len(pool)] for pick in picked)) if pool else ["no such id"]
        model.note_time()
        if not all(id_ in model.held and model.held[id_].state == "dead" for id_ in ids):
            model.promote()
        if not all(id_ in model.held and model.held[id_].state == "dead" for id_ in ids):
            with pytest.raises(errors.MessageNotFound):
                self.queue.redrive(ids, keep_count=keep)
            self.last = None  # a refusal is not remembered
            return
        assert self.queue.redrive(ids, keep_count=keep) == len(ids)
        for m in (model.held[id_] for id_ in ids):
            m.state, m.at, m.receipt, m.expires, m.uncounted = "ready", model.now, "-", None, 0
            m.count, m.first, m.later_limit = (m.count, m.first, m.count + 1) if keep else (0, 0, None)
            model.counters["redriven"] += 1

    @rule(
        what=st.sampled_from(("purge", "purge one", "pause", "resume", "configure")),
        states=st.sets(st.sampled_from(STATES), min_size=1, max_size=2).map(sorted),
        number=picks,
        really=st.integers(0, 3),
    )
    def administer(self, what, states, number, really):
        model = self.model
        if what in ("pause", "resume"):
            model.paused = what == "pause" and not really  # paused most of the time there would be little to see
            (self.reader.pause if model.paused else self.reader.resume)()
        elif what == "configure":
            model.limit = number % 4 + 1
            assert self.reader.configure(max_retrievals=model.limit).max_retrievals == model.limit
        elif what == "purge one" or really:
            model.note_time()
            dead = [id_ for state, _, id_, _ in model.view() if state == "dead"]
            wanted = dead[number % len(dead)] if dead else "no such id"
            model.promote()
            assert self.queue.purge(ids=[wanted]) == len(dead[:1])
            if dead:
                model.drop(model.held[wanted], "purged")
        else:
            model.note_time()
            model.promote()
            gone = [m for m in model.held.values() if m.state in states]
            assert self.queue.purge(states=states) == len(gone)
            for m in gone:
                model.drop(m, "purged")

    @rule(beyond=st.sampled_from((0, 0, 0, 1, -1)), pick=st.sampled_from((0, 0, 1, 2)))
    def time_passes_until_something_is_due(self, beyond, pick):
        future = sorted(
            at
            for m in self.model.held.values()
            for at in ([] if m.state in ("ready", "dead") else [m.at]) + [m.expires or 0]
            if at > self.model.now
        )
        if future:
            self.model.time += future[min(pick, len(future) - 1)] - self.model.now + beyond

    @rule(milliseconds=st.sampled_from((1, 999, 1000, 2000, 5000, 5001, 60_000, -1, -3000, -100_000)))
    def time_passes(self, milliseconds):
        self.model.time += milliseconds

    @precondition(lambda self: self.last)
    @rule()
    def the_last_command_is_sent_again(self):
        payload, answer = self.last
        (again,) = self.channel._send(Send(payload, 1, 0, self.queue._address.base))
        if b"psmq_v1_exchange" in payload:
            # data and wait are of now; only what is still the getter's own is given again
            receipt = answer[4].decode()
            still = [at for at in range(5, len(answer), 5) if self.has(answer[at].decode(), receipt)]
            assert again[0] == answer[0]
            assert again[5::5] == [answer[at] for at in still]
            self.last = payload, answer
        else:
            assert again == answer

    def has(self, message_id, receipt):
        return message_id in self.model.held and self.model.held[message_id].receipt == receipt

    @invariant()
    def all_is_equal(self):
        model, reader = self.model, self.reader
        info, view = reader.info(), model.view()
        seen = [
            (state, m.record.score, m.message_id, m.retrieval_count)
            for state in STATES
            for m in reader.messages(state, limit=1000, data=False)
        ]
        assert sorted(seen) == view
        for state in STATES:  # in their order
            assert [row for row in seen if row[0] == state] == [row for row in view if row[0] == state]
            assert getattr(info, state) == sum(row[0] == state for row in view)
        assert [letter.message.message_id for letter in reader.dead_letters(limit=1000)] == [
            row[2] for row in view if row[0] == "dead"
        ]
        assert info.counters == model.counters
        assert info.paused == model.paused
        peeked = reader.peek()
        ready = [row[2] for row in view if row[0] == "ready"]
        assert (peeked and peeked.message_id) == (ready[0] if ready else None)
        entries = self.raw.hgetall(f"{reader._address.base}:state")
        receipts = {id_.decode(): entry.split(b" ")[0].decode() for id_, entry in entries.items()}
        assert {id_: "-" for id_ in model.held} | receipts == {m.id: m.receipt for m in model.held.values()}
        gone = model.counters
        stats = reader.stats(480)
        assert [stats.total(what) for what in ("pushed", "delivered", "done", "buried", "expired")] == [
            gone["sent"], gone["received"], gone["deleted"] + gone["popped"], gone["buried"], gone["expired"]
        ]  # fmt: skip
        assert stats.wait.count == gone["received"]
        assert stats.total("failed") >= gone["released"] - gone["uncounted"]
        left = ("deleted", "popped", "expired", "purged", "outlived")
        assert gone["sent"] == len(model.held) + sum(gone[counter] for counter in left)


def test_the_queue_does_what_a_plain_model_does(manager, raw_server):
    """Whatever is done in whatever order, at whatever time."""
    machine = type("Machine", (QueueMachine,), {"manager": manager, "raw": raw_server})
    run_state_machine_as_test(machine, settings=settings(max_examples=250, stateful_step_count=40))
