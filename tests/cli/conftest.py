"""The commands as people run them, on queues of their own."""

from __future__ import annotations

import json
import os
import uuid

import pytest
from click.testing import CliRunner

from psmq import QueueManager
from psmq_tasks.cli import psmq


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    """What the developer has set for psmq is not for tests."""
    for name in os.environ:
        if name.startswith("PSMQ_") and not name.startswith("PSMQ_TEST"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "80")


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


def run_psmq(*words, code=0, **options):
    """The command's result, if it ends with this code and without a traceback."""
    result = CliRunner().invoke(psmq, [*map(str, words)], **options)
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback (most recent call last)" not in result.stderr
    return result


@pytest.fixture
def run(server_url, namespace):
    """Runs psmq on the test's own namespace: run("dead", "list", code=0)."""

    def run(*words, code=0, **options):
        return run_psmq(*words, "-u", server_url, "--namespace", namespace, code=code, **options)

    return run


@pytest.fixture
def read(run):
    """The same with --json, read."""

    def read(*words, code=0, **options):
        return json.loads(run(*words, "--json", code=code, **options).stdout)

    return read
