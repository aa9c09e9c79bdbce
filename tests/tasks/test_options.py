"""Options check themselves where they are written."""

from __future__ import annotations

import pickle
from datetime import timedelta

import pytest
import tenacity as t

from psmq.errors import InvalidOption, InvalidQueueName
from psmq_tasks.errors import MissingCode
from psmq_tasks.options import TaskOptions, _restore


def test_the_defaults_are_those_that_are_documented():
    """Five attempts, a result for an hour, no limits."""
    options = TaskOptions()
    assert (options.max_retrievals, options.result_ttl, options.priority) == (5, 3600.0, 0)
    assert (options.soft_time_limit, options.time_limit, options.delay, options.ttl) == (None, None, None, None)
    assert (options.codec, options.unsigned) == ("pickle", False)


def test_durations_are_seconds_or_timedeltas():
    """One unit inside."""
    options = TaskOptions.of({"time_limit": timedelta(minutes=1), "ttl": 5, "delay": 0, "result_ttl": 0})
    assert (options.time_limit, options.ttl, options.delay, options.result_ttl) == (60.0, 5.0, 0.0, 0.0)


@pytest.mark.parametrize("name", ["soft_time_limit", "time_limit", "ttl", "delay", "result_ttl"])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "5", True, timedelta(days=9999)])
def test_a_senseless_duration_is_refused_by_name(name, value):
    """Negative, NaN, endless, a word, a bool, an age."""
    with pytest.raises(InvalidOption) as caught:
        TaskOptions.of({name: value})
    assert caught.value.option == name


@pytest.mark.parametrize(
    "given",
    [
        {"priority": 101},
        {"priority": 1.5},
        {"time_limit": 0},
        {"codec": "yaml"},
        {"unsigned": "no"},
        {"show_arguments": 1},
        {"soft_time_limit": 5, "time_limit": 5},
        {"stop": 5},
    ],
)
def test_a_value_out_of_range_is_refused_by_name(given):
    """At the decorator, not in the worker."""
    with pytest.raises(InvalidOption) as caught:
        TaskOptions.of(given)
    assert caught.value.option in given


@pytest.mark.parametrize("queue", ["", "a b", "{x}", "a\0", "x" * 161])
def test_a_queue_that_cannot_be_is_refused(queue):
    """By psmq's own rule for names."""
    with pytest.raises(InvalidQueueName):
        TaskOptions.of({"queue": queue})


def test_an_unknown_option_says_which_was_meant():
    """And which there are."""
    with pytest.raises(InvalidOption, match="did you mean 'time_limit'.*priority") as caught:
        TaskOptions.of({"timelimit": 5})
    assert caught.value.option == "timelimit"
    with pytest.raises(InvalidOption, match=r"no option of using\(\)"):
        TaskOptions().using({"stop": t.stop_never})
    with pytest.raises(InvalidOption, match="is no option of a task: They are"):
        TaskOptions.of({"colour": "red"})


def test_the_servers_limit_follows_from_stop():
    """What no worker lives to count, the server does."""
    assert TaskOptions.of({"stop": t.stop_after_attempt(9) | t.stop_after_attempt(3)}).max_retrievals == 3
    assert TaskOptions.of({"stop": t.stop_after_delay(60)}).max_retrievals is None


def test_settings_build_on_a_base():
    """An app's defaults, changed by its task; stop, wait and retry one by one."""
    base = TaskOptions.of({"stop": t.stop_after_attempt(2), "priority": 5})
    options = TaskOptions.of({"wait": t.wait_fixed(1), "queue": "mail"}, base)
    assert (options.max_retrievals, options.priority, options.queue) == (2, 5, "mail")
    assert options.policy.wait.wait_fixed == 1


def test_changed_limits_travel_as_headers():
    """The worker goes by its own task, but for what this call changed."""
    own = TaskOptions.of({"time_limit": 10, "soft_time_limit": 5})
    changes = {"time_limit": None, "soft_time_limit": 2, "priority": 5}
    headers = own.using(changes).headers(changes)
    assert headers == {"soft": "2.0", "hard": ""}
    assert own.limits(headers) == (2.0, None)
    assert own.limits({}) == (5.0, 10.0)
    assert own.limits({"hard": "20.5"}) == (5.0, 20.5)


def test_options_pickle_as_what_differs_from_the_defaults():
    """They ride on every call by value; what this psmq does not know is handed back to one that does."""
    options = TaskOptions.of({"time_limit": 5, "stop": t.stop_after_attempt(3)})
    assert pickle.loads(pickle.dumps(options)).time_limit == 5.0
    assert pickle.loads(pickle.dumps(options)).max_retrievals == 3
    assert len(pickle.dumps(TaskOptions(), 5)) < 60
    with pytest.raises(MissingCode, match="colour"):
        _restore({"colour": "red"})
