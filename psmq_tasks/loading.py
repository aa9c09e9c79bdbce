"""From what a user types (``shop.tasks``, ``shop.tasks:app``, ``hello.py``) to the apps that a worker serves."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psmq.errors import InvalidOption
from psmq_tasks.app import TaskApp, default_app
from psmq_tasks.naming import module_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

__all__ = ["load_apps"]


def load_apps(targets: Sequence[str], *, url: str | None = None) -> list[TaskApp]:
    """Import the targets and return their apps, the working directory first on the path.

    Without targets: the default app, which runs calls that carry their code. ``url`` replaces the apps' own server.
    Whatever the import raises passes through; InvalidOption when there is no app.
    """
    here = str(Path.cwd())
    if sys.path[:1] != [here]:
        sys.path.insert(0, here)
    apps: list[TaskApp] = []
    for target in targets:
        apps += [app for app in _apps_in(target) if app not in apps]
    apps = apps or [default_app]
    if url is not None:
        for app in apps:
            app.connect_to(url=url)
    return apps


def _apps_in(target: str) -> list[TaskApp]:
    place, _, attribute = target.partition(":")
    module = _import(place)
    if attribute:
        found: Any = module
        for name in attribute.split("."):
            if not hasattr(found, name):
                raise InvalidOption("APP", f"{place} has no {attribute!r}")
            found = getattr(found, name)
        if not isinstance(found, TaskApp):
            raise InvalidOption("APP", f"{target} is a {type(found).__name__}, not a TaskApp")
        return [found]
    apps = [value for value in vars(module).values() if isinstance(value, TaskApp)]
    apps = list(dict.fromkeys(apps))
    mine = {module.__name__, *(getattr(value, "__name__", "") for value in vars(module).values())}
    if default_app not in apps and any(name.partition(":")[0] in mine for name in default_app.tasks):
        apps.append(default_app)
    if not apps:
        raise InvalidOption("APP", f"{place} has no TaskApp and no @task: name the module that defines them")
    return apps


def _import(place: str) -> ModuleType:
    if not place.endswith(".py"):
        return _import_module(place)
    path = Path(place)
    if not path.is_file():
        raise InvalidOption("APP", f"{place}: there is no such file")
    # As others import it, and as tasks of the script itself are called (hello.py sends hello:greet).
    name, folder = module_of(place)
    if name in sys.stdlib_module_names:
        raise InvalidOption("APP", f"{place}: Python has a module {name} of its own: rename the file")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    module = importlib.import_module(name)
    found = module.__file__
    if found is None or not path.samefile(found):
        raise InvalidOption("APP", f"{place}: {name} is {found or 'something else'} here: rename one of them")
    return module


def _import_module(place: str) -> ModuleType:
    if os.sep in place or not all(place.split(".")):
        file = Path(f"{place}.py")
        advice = f"did you mean {file}?" if file.is_file() else "name it like shop.tasks or shop/tasks.py"
        raise InvalidOption("APP", f"{place!r} is neither a module nor a file: {advice}")
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{place}.".startswith(f"{error.name}."):
            raise  # it is there; what it imports is not
        raise InvalidOption("APP", f"{place}: {error} in {Path.cwd()} or on the path") from None
