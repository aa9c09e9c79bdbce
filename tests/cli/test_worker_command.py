"""psmq-worker: what is typed, what it says, how it ends. What workers do is in tests/workers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap

import pytest
from click.testing import CliRunner
from support import ROOT, children, wait_until

from psmq import server
from psmq_tasks.cli import worker
from psmq_tasks.cli.worker_command import usable_cpus

WORKER = "import sys; from psmq_tasks.cli import worker; sys.exit(worker(prog_name='psmq-worker'))"

APP = """
from tenacity import stop_after_attempt, wait_fixed
from psmq_tasks import Reject, TaskApp
app = TaskApp({name!r}, url={url!r}, secret={secret!r})

@app.task
def good(): print("printed by the task", flush=True)

@app.task(stop=stop_after_attempt(2), wait=wait_fixed(0.01))
def bad(): raise ValueError("no such address")

@app.task(stop=stop_after_attempt(2), wait=wait_fixed(600))
def later(): raise ConnectionError("busy")
"""


class Desk:
    """A folder with an app, and workers started in it."""

    def __init__(self, folder, url, manager):
        self.folder = folder
        self.name = f"q{os.urandom(6).hex()}"
        self.url = url
        self.manager = manager
        self.secret = "k" * 40
        self.started = []
        self.write("shop", APP.format(name=self.name, url=url, secret=self.secret))

    def write(self, module, source):
        (self.folder / f"{module}.py").write_text(textwrap.dedent(source))

    def start(self, *words, **environment):
        number = len(self.started)
        with (self.folder / f"out{number}").open("w") as out, (self.folder / f"err{number}").open("w") as err:
            process = subprocess.Popen(
                [sys.executable, "-W", "error", "-c", WORKER, *map(str, words)],
                stdout=out, stderr=err, cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), "PSMQ_SECRET": self.secret, **environment},
            )  # fmt: skip
        self.started.append(process)
        return process

    def out(self, number=-1):
        return (self.folder / f"out{number % len(self.started)}").read_text()

    def err(self, number=-1):
        return (self.folder / f"err{number % len(self.started)}").read_text()

    def ends(self, *words, code=0, **environment):
        """Its stderr, if it ends by itself with this code."""
        process = self.start(*words, **environment)
        assert process.wait(40) == code, self.err()
        return self.err()

    def send(self, *calls, module="shop"):
        code = f"import {module}; [getattr({module}, name).delay() for name in {calls!r}]"
        subprocess.run([sys.executable, "-c", code], cwd=self.folder, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip


@pytest.fixture
def desk(tmp_path, own_server):
    from psmq import QueueManager

    with QueueManager(url=own_server) as manager:
        desk = Desk(tmp_path, own_server, manager)
        yield desk
        for process in desk.started:
            if process.poll() is None:
                process.kill()
            process.wait()


# --- what is typed


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["-p", "0"], "from 1 to"),
        (["-p", "two"], "whole number"),
        (["-t", "-1"], "from 1 to"),
        (["--async-concurrency", "0"], "from 1 to"),
        (["--shutdown-timeout", "nan"], "seconds from 0 to"),
        (["--shutdown-timeout", "-1"], "seconds from 0 to"),
        (["-q", "a b"], "is no queue name"),
        (["-u", "http://x"], "redis://"),
        (["-u", "memory:"], "inside one program"),
        (["--log-level", "loud"], "debug"),
        (["--what"], "psmq-worker --help"),
    ],
)
def test_wrong_options_are_one_line_and_2(words, hint):
    """Before anything is imported or started."""
    result = CliRunner().invoke(worker, words)
    assert result.exit_code == 2
    assert hint in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_each_option_and_its_variable_are_in_the_help():
    """With the default, in 80 columns."""
    text = CliRunner(env={"COLUMNS": "80"}).invoke(worker, ["--help"]).stdout
    assert max(map(len, text.splitlines())) <= 80
    words = " ".join(text.split())
    for option, variable in (
        ("-u, --url", "PSMQ_URL"),
        ("-q, --queue", "PSMQ_WORKER_QUEUE"),
        ("-p, --processes", "PSMQ_WORKER_PROCESSES"),
        ("-t, --threads", "PSMQ_WORKER_THREADS"),
        ("--async-concurrency", "PSMQ_WORKER_ASYNC_CONCURRENCY"),
        ("--shutdown-timeout", "PSMQ_WORKER_SHUTDOWN_TIMEOUT"),
        ("-b, --burst", "PSMQ_WORKER_BURST"),
        ("--log-level", "PSMQ_WORKER_LOG_LEVEL"),
    ):
        assert option in words
        assert f"env var: {variable}" in words
    assert usable_cpus() == len(os.sched_getaffinity(0))


# --- what does not start


def test_an_app_that_does_not_import_is_2_with_the_last_line_first(desk):
    """Then the traceback, from the user's own code on, without the log's dress; no second try."""
    desk.write("broken", "def load():\n    import nothing_of_this_name\nload()\n")
    lines = desk.ends("broken", "-p", 4, code=2).splitlines()
    assert lines[0] == "Error: ModuleNotFoundError: No module named 'nothing_of_this_name'"
    assert lines[1:3] == ["", "Traceback (most recent call last):"]
    assert "broken.py" in lines[3]
    assert "psmq_tasks" not in "".join(lines)
    desk.write("unfinished", "def load(:\n")
    assert desk.ends("unfinished.py", code=2).startswith("Error: SyntaxError: ")


@pytest.mark.parametrize(
    ("target", "hint"),
    [
        ("nothing_here", "No module named 'nothing_here'"),
        ("nothing.py", "there is no such file"),
        ("shop:nothing", "shop has no 'nothing'"),
        ("shop:good", "is a Task, not a TaskApp"),
        ("json", "has no TaskApp and no @task"),
        (".", "is neither a module nor a file: name it like shop.tasks or shop/tasks.py"),
        ("./shop", "is neither a module nor a file: did you mean shop.py?"),
    ],
)
def test_a_target_that_is_none_is_one_line_and_2(desk, target, hint):
    """A typing error needs no traceback."""
    shown = desk.ends(target, code=2)
    assert hint in shown
    assert len(shown.splitlines()) == 1


def test_a_file_in_a_package_is_that_packages_module(desk):
    """Its tasks are called as who imports it calls them, and it may import what lies beside it."""
    (desk.folder / "store").mkdir()
    desk.write("store/__init__", "")
    desk.write("store/prices", "VAT = 20\n")
    made = f"app = TaskApp({desk.name!r}, url={desk.url!r}, secret={desk.secret!r})"
    work = "@app.task\ndef tax(price): print('tax', price * VAT // 100, flush=True)\n"
    desk.write("store/tasks", f"from psmq_tasks import TaskApp\nfrom .prices import VAT\n{made}\n{work}")
    send = [sys.executable, "-c", "from store.tasks import tax; tax.delay(300)"]
    subprocess.run(send, cwd=desk.folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, timeout=60)
    assert "cannot be run" not in desk.ends("store/tasks.py", "--burst")
    assert "tax 60" in desk.out()


@pytest.mark.parametrize("name", ["wave", "turtle"])
def test_a_file_called_as_a_module_of_python_is_refused(desk, name):
    """Python would take its own in its place, or other modules would take the file."""
    desk.write(name, "from psmq_tasks import task\n@task\ndef work(): pass\n")
    shown = desk.ends(f"{name}.py", code=2)
    assert f"{name}.py: Python has a module {name} of its own: rename the file" in shown


def test_an_app_on_an_in_memory_server_cannot_be_served(desk):
    """Nobody else could reach it."""
    desk.write("alone", "from psmq_tasks import TaskApp\napp = TaskApp('alone', url='memory:')\n")
    assert "inside one program" in desk.ends("alone", code=2)


def test_a_burst_without_a_server_is_3(desk, tmp_path):
    """It says at once what it waits for, and in the end that it did so in vain: a line each."""
    shown = desk.ends("shop", "--burst", "-u", f"unix://{tmp_path}/none.sock", code=3)
    first, last = shown.splitlines()
    assert re.search(r"none\.sock.*; waiting for the server, for \d+ s more", first)
    assert "none.sock" in last


def test_a_worker_waits_for_its_server_and_says_so_once(desk, tmp_path):
    """Started before the server, as machines do: one line when it is missing, one when it answers."""
    folder = tmp_path / "late"
    folder.mkdir()
    socket = folder / "s"
    process = desk.start("shop", "-p", 1, "-u", f"unix://{socket}")
    wait_until(lambda: "waiting for the server" in desk.err(), 20)
    words = [str(server.find_binary()), "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(folder)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as valkey:
        wait_until(lambda: "stop" in desk.err(), 20)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        valkey.kill()
    assert desk.err().count("waiting for the server") == 1
    assert desk.err().count("the server answers") == 1


def test_waiting_for_a_server_can_be_interrupted(desk, tmp_path):
    """Ctrl+C ends it like any other time."""
    process = desk.start("shop", "-u", f"unix://{tmp_path}/none.sock")
    wait_until(lambda: "waiting for the server" in desk.err(), 20)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0


# --- what runs


def test_the_banner_says_what_runs_where_and_how_to_stop(desk):
    """On stderr, with the log; what tasks print has stdout to itself."""
    process = desk.start("shop.py", "-p", 1, "-t", 3, "-q", f"{desk.name},extra", "-q", "third")
    wait_until(lambda: "stop" in desk.err(), 20)
    for text in (
        "psmq-worker 0.",
        f"process {process.pid}",
        desk.url,
        f"{desk.name}, extra, third",
        "shop:bad, shop:good, shop:later",
        "1 process x 3 threads",
        "Ctrl+C",
    ):
        assert text in desk.err()
    desk.send("good")
    wait_until(desk.out)
    assert desk.out() == "printed by the task\n"
    assert len(children(process.pid)) == 1
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    words = [line.split(maxsplit=2)[2] for line in desk.err().splitlines() if line.startswith("20")]
    sent = f"warning no task of shop.py is sent to queues 'extra', 'third'; theirs: {desk.name}"
    assert words == [sent, "info    stopping"]


def test_a_queue_that_no_task_is_sent_to_is_served_with_a_warning(desk):
    """It may be misspelled, or meant for using(queue=…); below the banner, once, and not for calls with their code."""
    desk.write("more", f"""
        from psmq_tasks import TaskApp
        app = TaskApp("mail", url={desk.url!r}, secret={desk.secret!r})

        @app.task(queue="slow-mail")
        def deliver(): pass

        @app.task
        def post(): print("posted", flush=True)
    """)  # fmt: skip
    lines = desk.ends("more.py", "-b", "-p", 2, "-q", "nosuch").splitlines()
    expected = "no task of more.py is sent to queue 'nosuch'; theirs: mail, slow-mail"
    assert [number for number, line in enumerate(lines) if line.endswith(f" warning {expected}")] == [6], lines
    code = "import more; more.post.using(queue='nosuch').delay()"
    subprocess.run(
        [sys.executable, "-c", code], cwd=desk.folder, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert expected in desk.ends("more", "-b", "-p", 1, "-q", "nosuch").replace("of more ", "of more.py ")
    assert desk.out() == "posted\n"
    both = desk.ends("more", "shop:app", "-b", "-p", 1, "-q", f"{desk.name},mail,slow,slower,slow-mail")
    assert f"no task of more, shop:app is sent to queues 'slow', 'slower'; theirs: mail, slow-mail, {desk.name}" in both
    for words in (["more", "-q", "slow-mail,mail"], ["more"], ["-q", "nosuch"]):
        assert "warning" not in desk.ends(*words, "-b", "-p", 1, "-u", desk.url)


def test_nothing_of_the_log_comes_before_the_banner(desk):
    """Work that waits is begun when the banner is shown, and subscribers are called then."""
    desk.write("noisy", f"""
        import logging
        from psmq_tasks import TaskApp
        app = TaskApp({desk.name!r}, url={desk.url!r}, secret={desk.secret!r})

        @app.task
        def other(): pass

        @app.events.subscribe("worker_start")
        def begins(app, worker): logging.getLogger("noisy").warning("process %d begins", worker)
    """)  # fmt: skip
    for processes in (1, 2, 1):
        desk.send("good", "bad")  # the worker knows neither
        process = desk.start("noisy", "-p", processes)
        wait_until(lambda all_=processes: desk.err().count("begins") == all_ and "handed back" in desk.err(), 20)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert desk.err().startswith("psmq-worker 0."), desk.err()


def test_a_password_is_never_shown(desk):
    """Not in the banner."""
    socket = desk.url.removeprefix("unix://")
    process = desk.start("shop", "-p", 1, "-u", f"unix://:s3cret@{socket}")
    wait_until(lambda: desk.err() != "", 20)
    process.kill()
    assert "s3cret" not in desk.err()


def test_options_come_from_the_environment_too(desk):
    """PSMQ_WORKER_…; queues separated by commas or blanks."""
    desk.ends(
        "shop", PSMQ_WORKER_BURST="1", PSMQ_WORKER_QUEUE="a,b c", PSMQ_WORKER_PROCESSES="1", PSMQ_WORKER_THREADS="2"
    )
    assert "a, b, c" in desk.err()
    assert "1 process x 2 threads" in desk.err()


def test_the_app_s_own_server_wins_over_the_environment_but_not_over_what_is_typed(desk, tmp_path):
    """Senders use the app's: a worker that took PSMQ_URL instead would wait on another server for ever."""
    other = f"unix://{tmp_path}/other.sock"
    assert desk.url in desk.ends("shop", "--burst", "-p", 1, PSMQ_URL=other)
    assert "other.sock" in desk.ends("shop", "--burst", "-p", 1, "-u", other, code=3)


def test_without_an_app_it_serves_calls_that_carry_their_code(desk):
    """On the queue "default", or those that are named."""
    shown = desk.ends("--burst", "-p", 1, "-u", desk.url)
    assert re.search(r"queues +default$", shown, re.MULTILINE)
    assert "calls that carry their code" in shown
    assert re.search(r"queues +urgent$", desk.ends("-b", "-p", 1, "-u", desk.url, "-q", "urgent"), re.MULTILINE)


def test_the_log_tells_what_failed_and_what_comes_next(desk):
    """One line each: when, how bad, which task, the end of its id, which attempt, why, what then."""
    desk.manager.get_queue(desk.name)
    desk.send("bad", "later", "good")
    lines = desk.ends("shop", "--burst", "-p", 1, "-t", 1, "--log-level", "debug").splitlines()
    log = [line for line in lines if line[:2] == "20"]
    (letter,) = desk.manager.find_queue(desk.name).dead_letters()
    tail = letter.message.message_id[-8:]
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    expected = (
        (
            rf"{stamp} warning shop:bad {tail} failed at attempt 1: ValueError: no such address "
            r"\(wait_.+; stop_after_attempt\(2\): 1 of 2\); again in 0.01 s"
        ),
        (
            rf"{stamp} error   shop:bad {tail} failed for good at attempt 2: ValueError: no such address "
            rf"\(psmq dead show {tail}\)"
        ),
        rf"{stamp} debug   shop:good \w{{8}} done in \S+ ms",
        rf"{stamp} info    nothing is left to do; 1 delayed message or retry waits for its time",
    )
    for one in expected:
        assert any(re.fullmatch(one, line) for line in log), (one, log)
    assert re.fullmatch(expected[-1], lines[-1])


def test_the_log_has_the_traceback_of_what_failed_for_good(desk):
    """Below its line, indented, from the task's own code on; a retry has one line, and its traceback at level debug."""
    source = f"""
        from tenacity import stop_after_attempt, wait_fixed
        from psmq_tasks import TaskApp
        app = TaskApp({desk.name!r}, url={desk.url!r}, secret={desk.secret!r})

        @app.task(stop=stop_after_attempt(2), wait=wait_fixed(0.01))
        def order(): return deeper()

        @app.task(stop=stop_after_attempt(1))
        async def forge(): raise ValueError("\\n2030-01-01 00:00:00 info    all is well\\x1b[2J")

        def deeper(): return {{}}["tea"]
    """
    desk.write("tea", source)
    for level, shown in (("info", 1), ("debug", 2)):
        desk.send("order", module="tea")
        lines = desk.ends("tea", "--burst", "-p", 1, "--log-level", level).splitlines()
        assert lines.count("  KeyError: 'tea'") == shown
        (number,) = (i for i, line in enumerate(lines) if "failed for good" in line)
        tail = lines[number].split()[4]
        assert lines[number].endswith(f"KeyError: 'tea' (psmq dead show {tail})")
        trace = lines[number + 1 : lines.index("  KeyError: 'tea'", number) + 1]
        assert trace[0] == "  Traceback (most recent call last):"
        assert [line.split()[-1] for line in trace if "tea.py" in line] == ["order", "deeper"]
        assert "psmq_tasks" not in "".join(trace)
        assert desk.manager.find_queue(desk.name).purge(states=["dead"]) == 1
    desk.send("forge", module="tea")
    lines = desk.ends("tea", "--burst", "-p", 1).splitlines()
    assert "  2030-01-01 00:00:00 info    all is well\\x1b[2J" in lines, "no line of the log, and nothing steers"


def test_a_burst_with_nothing_left_says_only_that(desk):
    """The last line names what stays, if anything does."""
    assert desk.ends("shop", "-b", "-p", 1).splitlines()[-1].endswith("nothing is left to do")
