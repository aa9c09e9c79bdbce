"""A desk for each test: nothing of it is left afterwards."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from desk import Desk


@pytest.fixture
def desk():
    """An empty one; its processes and files are gone when the test is over."""
    home = Path(tempfile.mkdtemp(prefix="psmq-desk-", dir="/tmp"))
    found = Desk(home)
    try:
        yield found
    finally:
        found.clear()
        shutil.rmtree(home)
