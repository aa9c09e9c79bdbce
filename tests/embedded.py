"""Fixtures for tests that start embedded servers and kill them: a test leaves no process and no file behind."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from support import processes, wait_until

from psmq import server


@pytest.fixture(autouse=True)
def runtime(monkeypatch):
    """A folder for sockets of this test's own, so that what it leaves behind can be seen."""
    folder = Path(tempfile.mkdtemp(prefix="psmq-test-", dir="/tmp"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    monkeypatch.setenv("PSMQ_SERVER_LINGER", "30")
    for name in ("PSMQ_SERVER_BINARY", "PSMQ_ALLOW_SHARED_FS", "PSMQ_DB_DIR"):
        monkeypatch.delenv(name, raising=False)
    yield folder
    wait_until(lambda: not processes(str(folder)))
    shutil.rmtree(folder)


@pytest.fixture
def db_dir(tmp_path, runtime):
    folder = tmp_path / "data"
    yield folder
    server.stop(folder)
    wait_until(lambda: not processes(str(tmp_path)) and not processes(str(runtime)))
