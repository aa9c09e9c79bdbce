"""Names: sender and worker must come to the same one."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest
from support import ROOT

from psmq.errors import InvalidOption
from psmq_tasks import naming


def plain():
    pass


def run(tmp_path, *command):
    done = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


PROGRAM = """
    import psmq_tasks.naming as naming
    def greet(): pass
    print(naming.canonical_name(greet), naming.importable(greet), naming.worker_target(naming.canonical_name(greet)))
"""


def test_a_script_is_called_by_its_stem(tmp_path):
    """``python hello.py`` sends ``hello:greet``, which ``psmq-worker hello.py`` registers."""
    (tmp_path / "hello.py").write_text(textwrap.dedent(PROGRAM))
    assert run(tmp_path, "hello.py") == "hello:greet False hello.py"


def test_a_module_run_with_m_is_called_as_it_is_imported(tmp_path):
    """``python -m pkg.mod`` sends ``pkg.mod:greet``."""
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "mod.py").write_text(textwrap.dedent(PROGRAM))
    assert run(tmp_path, "-m", "pkg.mod") == "pkg.mod:greet False pkg.mod"


def test_a_program_without_a_file_is_called_main(tmp_path):
    """A prompt or ``python -c`` has no importable name: its tasks go by value."""
    assert run(tmp_path, "-c", textwrap.dedent(PROGRAM)) == "__main__:greet False __main__"


def test_a_spawned_child_calls_the_main_module_as_its_parent_does(tmp_path):
    """multiprocessing's spawn imports the script as ``__mp_main__``."""
    program = """
        import multiprocessing, psmq_tasks.naming as naming
        def greet(): pass
        def show(): print(naming.canonical_name(greet), naming.importable(greet))
        if __name__ == "__main__":
            child = multiprocessing.get_context("spawn").Process(target=show)
            child.start(); child.join()
    """
    (tmp_path / "hello.py").write_text(textwrap.dedent(program))
    assert run(tmp_path, "hello.py") == "hello:greet False"


def test_module_level_functions_are_importable_and_others_are_not():
    """Lambdas and functions in functions exist only where they were made."""

    def inner():
        pass

    assert naming.importable(plain)
    assert not naming.importable(inner)
    assert not naming.importable(lambda: None)
    assert not naming.stable(naming.canonical_name(inner))
    assert naming.stable(naming.canonical_name(plain))


def test_what_has_no_name_needs_one():
    """``functools.partial`` objects do not say what they are called."""
    from functools import partial

    with pytest.raises(InvalidOption, match="name is needed"):
        naming.canonical_name(partial(plain))


@pytest.mark.parametrize("name", ["", None, 5, "a\nb", "a\0b", "x" * 501, "\ud800"])
def test_a_senseless_name_is_refused(name):
    """Names go into metadata, logs and tables."""
    with pytest.raises(InvalidOption, match="name"):
        naming.check_name(name)


def test_the_same_function_again_is_the_same_code_and_another_is_not():
    """Reloading replaces a task, a second function of its name does not."""
    namespace = dict(vars(sys.modules[__name__]))
    source = "def plain(): pass\ndef other(): pass\n"
    exec(compile(source, __file__, "exec"), namespace)
    assert naming.same_code(plain, namespace["plain"])
    assert not naming.same_code(plain, namespace["other"])
    exec(compile(source, "elsewhere.py", "exec"), namespace)
    assert not naming.same_code(plain, namespace["plain"])


def test_places_name_file_and_line():
    """For error texts."""
    assert naming.place_of(plain).endswith(f"test_naming.py:{plain.__code__.co_firstlineno}")
    assert naming.place_of(len) == "<builtins>"


def test_a_file_is_called_as_others_import_it(tmp_path):
    """With the packages that it is in, as far as their folders can be packages."""
    for folder in ("my-site", "my-site/shop", "my-site/shop/mail"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").touch()
    root = str(tmp_path / "my-site")
    assert naming.module_of(f"{root}/shop/mail/tasks.py") == ("shop.mail.tasks", root)
    assert naming.module_of(f"{root}/shop/mail/__init__.py") == ("shop.mail", root)
    assert naming.module_of(f"{root}/hello.py") == ("hello", root)
    assert naming.module_of(f"{tmp_path}/hello.py") == ("hello", str(tmp_path))
