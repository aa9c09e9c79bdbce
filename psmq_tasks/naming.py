"""What a task is called, where its code is written, and whether a worker can be expected to have that code.

The program that sends and the worker that runs must come to the same name, although the one knows the file as
``__main__`` and the other imports it.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Final

from psmq.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "canonical_name",
    "importable",
    "main_name",
    "module_of",
    "place_of",
    "same_code",
    "source_of",
    "stable",
    "worker_target",
]

#: ``__mp_main__`` is what multiprocessing's spawn calls the main module in its children
_MAIN: Final = ("__main__", "__mp_main__")
#: names are kept in metadata, headers and logs
MAX_NAME: Final = 500


def main_name() -> str:
    """The name under which others import the running program: ``pkg.mod`` for -m, ``hello`` for hello.py."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name:
        return str(spec.name)
    file = getattr(main, "__file__", None)
    return module_of(file)[0] if file else "__main__"


def module_of(file: str) -> tuple[str, str]:
    """The name under which this file is imported, with the packages that it is in, and the folder that holds these."""
    # os.path: pathlib takes 8 ms to import
    folder, name = os.path.split(os.path.splitext(os.path.abspath(file))[0])  # noqa: PTH100, PTH122
    names = [] if name == "__init__" else [name]
    while os.path.isfile(os.path.join(folder, "__init__.py")):  # noqa: PTH113, PTH118
        parent, package = os.path.split(folder)
        if not package.isidentifier():
            break
        folder = parent
        names.insert(0, package)
    return ".".join(names) or name, folder


def canonical_name(function: Callable[..., Any]) -> str:
    """``module:qualname``, with ``__main__`` under its importable name."""
    qualname = getattr(function, "__qualname__", None)
    module = getattr(function, "__module__", None)
    if not isinstance(qualname, str) or not isinstance(module, str):
        raise InvalidOption("name", f"is needed: {function!r} has none of its own")
    return f"{main_name() if module in _MAIN else module}:{qualname}"


def check_name(name: object) -> str:
    """A name given by hand, or InvalidOption."""
    if not isinstance(name, str) or not name or len(name) > MAX_NAME or not name.isprintable():
        raise InvalidOption("name", f"must be 1 to {MAX_NAME} printable characters, not {name!r:.100}")
    return name


def stable(name: str) -> bool:
    """False for lambdas and functions in functions: the name may stand for many pieces of code."""
    return "<" not in name


def importable(function: Callable[..., Any]) -> bool:
    """Whether a worker that imports the function's module meets it there; otherwise it travels by value."""
    module = getattr(function, "__module__", None)
    return module in sys.modules and module not in _MAIN and stable(getattr(function, "__qualname__", "<"))


def source_of(function: Callable[..., Any]) -> str:
    """The file that defines it. All cells of a notebook and lines of a prompt count as one."""
    module = getattr(function, "__module__", None)
    if module in _MAIN and not getattr(sys.modules["__main__"], "__file__", None):
        return "<interactive>"
    code = getattr(function, "__code__", None)
    file = code.co_filename if code is not None else getattr(sys.modules.get(module or ""), "__file__", None)
    return os.path.realpath(file) if file else f"<{module}>"


def place_of(function: Callable[..., Any]) -> str:
    """``mail.py:12``, for error texts."""
    code = getattr(function, "__code__", None)
    return source_of(function) if code is None else f"{code.co_filename}:{code.co_firstlineno}"


def worker_target(task: str) -> str:
    """What to give psmq-worker to have it load this task's module, as far as this process can tell."""
    module = task.partition(":")[0]
    file: str | None = getattr(sys.modules["__main__"], "__file__", None)
    if file and module == main_name() and getattr(sys.modules["__main__"], "__spec__", None) is None:
        return os.path.relpath(file)
    return module


def same_code(known: Callable[..., Any], new: Callable[..., Any]) -> bool:
    """Whether the second is the first one again (reloaded, a cell run anew), so that it takes its place."""
    source = source_of(new)
    if source_of(known) != source:
        return False
    return source == "<interactive>" or getattr(known, "__qualname__", "") == getattr(new, "__qualname__", "")
