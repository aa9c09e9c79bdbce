"""The errors themselves: they travel, and they say what to do."""

from __future__ import annotations

import copy
import inspect
import pickle
from datetime import timedelta

import pytest

from psmq.errors import InvalidOption, PsmqError
from psmq_tasks import errors

EXAMPLES = [
    errors.DuplicateTask("m:f", "a.py:1", "b.py:2"),
    errors.InvalidArguments("m:f", "missing a required argument: 'body'", "(to, body)", "mail.py:3"),
    errors.UnserializableArgument("argument 'lock'", "_thread.lock", "cannot pickle"),
    errors.SecretMissing("redis://h"),
    errors.OutsideTask(),
    errors.IdNotFound("abc", "dead letter", "queue 'mail'"),
    errors.IdAmbiguous("abc", ("1abc", "2abc")),
    errors.MalformedPayload("words"),
    errors.UnsignedPayload(),
    errors.ForgedPayload(),
    errors.NewerPayload(7, 1),
    errors.ForeignPython("cpython-399", "cpython-311"),
    errors.MissingCode("No module named 'x'"),
    errors.UnknownTask("m:f"),
    errors.ResultTimeout("id", "q", 1.5, "nothing serves queue 'q'"),
    errors.ResultNotKept("m:f"),
    errors.WorkerLost("killed by signal 9"),
    errors.TimeLimitExceeded(5.0, hard=True),
    errors.TaskExpired("words"),
    errors.TaskBuried("words"),
    errors.TaskFailed("ValueError", "bad", "Traceback …"),
    errors.Retry(after=timedelta(seconds=5), reason="busy"),
    errors.Reject("no such user"),
    errors.SoftTimeLimitExceeded(),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_pickles_and_copies_with_its_fields_and_words(error):
    """Errors cross processes in results: nothing of them is lost on the way."""
    for twin in (pickle.loads(pickle.dumps(error, 5)), copy.copy(error)):
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert vars(twin) == vars(error)
        assert twin.args == error.args


def test_every_error_has_an_example_here_and_a_line_in_the_tree():
    """The tree drawn in the docstring is the truth, and the test above leaves nobody out."""
    classes = {
        cls
        for cls in vars(errors).values()
        if inspect.isclass(cls) and issubclass(cls, Exception) and "psmq_tasks" in cls.__module__
    }
    bases = {errors.TasksError, errors.PayloadError, errors.ControlFlow}
    assert {type(error) for error in EXAMPLES} == classes - bases
    for cls in classes:
        assert cls.__name__ in errors.__doc__


def test_control_flow_is_not_swallowed_by_catching_psmq_errors():
    """``except PsmqError`` around a push inside a task must not eat its Retry."""
    for error in (errors.Retry(), errors.Reject(), errors.SoftTimeLimitExceeded()):
        assert not isinstance(error, PsmqError)


def test_a_missing_secret_says_how_to_make_one():
    """The text contains a line that can be pasted into a shell."""
    assert 'export PSMQ_SECRET=$(python -c "import secrets; print(secrets.token_hex(32))")' in str(EXAMPLES[3])


def test_a_retry_after_a_senseless_time_is_refused_where_it_is_raised():
    """Negative and NaN waits are mistakes, not "now"."""
    assert errors.Retry(after=2).after == 2.0
    assert errors.Retry(after=timedelta(minutes=1)).after == 60.0
    assert errors.Retry().after is None
    for after in (-1, float("nan"), timedelta(seconds=-1)):
        with pytest.raises(InvalidOption, match="after"):
            errors.Retry(after=after)


def test_only_what_another_worker_could_run_is_handed_back():
    """Forgeries are not offered to the next worker; a newer or foreign message is."""
    handed_back = {type(error) for error in EXAMPLES if getattr(error, "hand_back", False)}
    assert handed_back == {errors.NewerPayload, errors.ForeignPython, errors.MissingCode, errors.UnknownTask}
