"""What starting up costs: heavy modules are imported by what needs them, when it needs them."""

from __future__ import annotations

import inspect
import subprocess
import sys
import typing

import pytest

import psmq

HEAVY = ("redis", "rich", "tenacity.asyncio", "cloudpickle", "platformdirs")


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ("import psmq", ()),
        ("from psmq_tasks.cli import psmq; psmq(['--help'], standalone_mode=False)", ()),
        ("from psmq_tasks.cli import worker; worker(['--help'], standalone_mode=False)", ()),
        ("import psmq_tasks", ("tenacity.asyncio", "cloudpickle")),
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(statement, allowed):
    """`import redis` alone takes longer than printing help may."""
    look = f"import sys; print(*(name for name in {HEAVY!r} if name in sys.modules), file=sys.stderr)"
    found = subprocess.run(
        [sys.executable, "-c", f"{statement}; {look}"], capture_output=True, text=True, check=True, timeout=60
    )
    assert set(found.stderr.split()) <= set(allowed)


@pytest.mark.parametrize("name", [name for name in psmq.__all__ if inspect.isclass(getattr(psmq, name))])
def test_tools_can_read_the_types_of_what_is_public(name):
    """What turns data into JSON or checks it (pydantic, cattrs …) asks typing.get_type_hints() of its class."""
    assert isinstance(typing.get_type_hints(getattr(psmq, name)), dict)
