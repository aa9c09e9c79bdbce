"""rules.py: what can be written, what it means, and that each change is said once."""

from __future__ import annotations

import pytest

from psmq.errors import InvalidOption
from psmq.rules import Rule, Sample, Watch, firing, read_rules_file, rules_of


def sample(queue):
    return Sample(queue.info(), queue.stats(1))


def says(text, queue):
    (alert,) = [Rule.parse(text).look(sample(queue))]
    return alert.firing


@pytest.mark.parametrize(
    ("text", "metric", "limit", "queue"),
    [
        ("oldest_age > 60", "oldest_age", 60, "*"),
        ("oldest_age>5m", "oldest_age", 300, "*"),
        ("mail-*: ready > 10000", "ready", 10000, "mail-*"),
        ("mail:dead_rate > 0.5/min", "dead_rate", 0.5, "mail"),
        ("  no   workers ", "workers", 0, "*"),
        ("unserved", "unserved", 0, "*"),
        ("paused for 2h", "paused", 7200, "*"),
        ("run_p95 > 1.5", "run_p95", 1.5, "*"),
    ],
)
def test_a_rule_is_read_as_it_is_spoken(text, metric, limit, queue):
    """Blanks do not matter; times take units."""
    rule = Rule.parse(text)
    assert (rule.metric, rule.limit, rule.queue) == (metric, limit, queue)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "write oldest_age > 60"),
        ("ready >= 5", "write oldest_age > 60"),
        ("redy > 5", "redy is not among oldest_age, ready"),
        ("dead_rate > 5", "write dead_rate > 5/min"),
        ("ready > 5/min", "write ready > 5"),
        ("ready > 5m", "ready is a number, not a time"),
        ("paused", "paused for 5m"),
        ("no queue: here: ready > 5", "cannot be read"),
        (None, "cannot be read"),
        ("ready > nan", "cannot be read"),
        ("ready > -1", "cannot be read"),
    ],
)
def test_a_rule_that_cannot_be_read_says_what_can(text, hint):
    """One line that names the fix."""
    with pytest.raises(InvalidOption, match=".") as caught:
        Rule.parse(text)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ages_and_pauses_are_measured(clock, test_queue):
    """From the moment a message was ready, or the queue paused; what is paused is not late."""
    test_queue.push(b"x")
    clock.tick(61)
    assert says("oldest_age > 60", test_queue)
    assert not says("oldest_age > 62", test_queue)
    test_queue.pause()
    clock.tick(10)
    assert not says("oldest_age > 60", test_queue)
    assert says("paused for 9", test_queue)
    assert not says("paused for 11", test_queue)
    test_queue.resume()
    assert not says("paused for 0", test_queue)


def test_counts_and_rates_are_measured(clock, test_queue):
    """Dead letters of the last minute or two, in a minute; a rate falls when nothing happens any more."""
    test_queue.push_many([b"x"] * 20)
    for message in test_queue.get_many(10):
        test_queue.bury(message, "why")
    assert says("dead > 9", test_queue)
    assert says("ready > 9", test_queue)
    assert not says("ready > 10", test_queue)
    assert says("dead_rate > 4/min", test_queue)
    clock.tick(180)
    assert not says("dead_rate > 0/min", test_queue)
    assert says("dead > 9", test_queue)


def test_workers_are_those_that_asked_within_the_last_minute(clock, test_queue):
    """no workers is about any queue, unserved about those in which something waits."""
    assert says("no workers", test_queue)
    assert not says("unserved", test_queue)
    test_queue.push(b"x")
    assert says("unserved", test_queue)
    test_queue.release(test_queue.get(), count=False)
    assert not says("no workers", test_queue)
    assert not says("unserved", test_queue)
    clock.tick(70)
    assert says("unserved", test_queue)


def test_each_change_is_said_once(test_queue):
    """Broken, and fine again; a queue that is gone is forgotten."""
    watch = Watch(rules_of(["ready > 0; ready > 100"]))
    said = [watch.changes([sample(test_queue)])]
    test_queue.push(b"x")
    said += [watch.changes([sample(test_queue)]) for _ in range(2)]
    test_queue.pop()
    said += [watch.changes([sample(test_queue)]) for _ in range(2)]
    assert [[(alert.rule, alert.firing) for alert in one] for one in said] == [
        [],
        [("ready > 0", True)],
        [],
        [("ready > 0", False)],
        [],
    ]
    test_queue.push(b"x")
    assert watch.changes([sample(test_queue)])
    assert watch.changes([]) == []
    assert watch.changes([sample(test_queue)])


def test_a_pattern_chooses_queues(test_queue):
    """As a shell does it."""
    test_queue.push(b"x")
    name = test_queue.name
    for pattern, fits in ((name, True), (name[:3] + "*", True), ("x" + name, False), ("*", True)):
        assert bool(firing(rules_of([f"{pattern}: ready > 0"]), [sample(test_queue)])) == fits


def test_rules_come_from_a_file_too(tmp_path):
    """TOML with rules and a command; each mistake in one line with the file's name."""
    path = tmp_path / "rules.toml"
    path.write_text('rules = ["ready > 5", "a*: no workers"]\ncommand = "cat"\n')
    found = read_rules_file(path)
    assert ([rule.text for rule in found.rules], found.command) == (["ready > 5", "a*: no workers"], "cat")
    for text in ("rules = [", 'rules = "ready > 5"', "rule = []", "rules = [5]", "command = 5", 'rules = ["x"]'):
        path.write_text(text)
        with pytest.raises(InvalidOption, match="rule") as caught:
            read_rules_file(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(InvalidOption, match="No such file"):
        read_rules_file(tmp_path / "none")
