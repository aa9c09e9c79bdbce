"""Sync and async differ by class and by nothing else."""

from __future__ import annotations

import inspect

import pytest

import psmq

PAIRS = [
    (psmq.Queue, psmq.AsyncQueue),
    (psmq.QueueManager, psmq.AsyncQueueManager),
    (psmq.Message, psmq.AsyncMessage),
]
#: a worker's connection: workers have threads
APART = {"consumer"}


def members(cls):
    return {
        name: member
        for name, member in inspect.getmembers(cls)
        if not name.startswith("_") and (callable(member) or isinstance(member, property)) and name not in APART
    }


def parameters(member):
    member = member.fget if isinstance(member, property) else member
    return [(one.name, one.kind, one.default) for one in inspect.signature(member).parameters.values()]


@pytest.mark.parametrize(("sync", "other"), PAIRS, ids=lambda cls: cls.__name__)
def test_they_have_equal_names_parameters_and_docstrings(sync, other):
    """Who knows one knows the other."""
    ours, theirs = members(sync), members(other)
    assert ours.keys() == theirs.keys()
    for name, member in ours.items():
        assert parameters(member) == parameters(theirs[name]), name
        assert inspect.getdoc(member) == inspect.getdoc(theirs[name]), name
        assert inspect.getdoc(member), name


@pytest.mark.parametrize(("sync", "other"), PAIRS, ids=lambda cls: cls.__name__)
def test_both_are_made_with_the_same_arguments(sync, other):
    """Also the constructor."""
    assert parameters(sync.__init__)[1:] == parameters(other.__init__)[1:]
