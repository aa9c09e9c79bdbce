"""Copies of the packages with some of their text replaced: a next release, or one with a fault."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from support import ROOT

if TYPE_CHECKING:
    from pathlib import Path


def copy_packages(folder: Path, *replacements: tuple[str, str, str]) -> Path:
    """``replacements``: (file, text, other text); the text must be there exactly once."""
    for package in ("psmq", "psmq_tasks"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text, other in replacements:
        path = folder / name
        source = path.read_text()
        assert source.count(text) == 1, f"{name} has changed: {source.count(text)} times {text!r}"
        path.write_text(source.replace(text, other))
    return folder


def environment(folder: Path) -> dict[str, str]:
    """In which Python imports the copies."""
    return {"PYTHONPATH": os.pathsep.join(map(str, (folder, ROOT / "tests")))}
