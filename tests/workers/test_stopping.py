"""How workers end: what runs finishes, what was not started goes back, and the exit code says which."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time

from support import ROOT, children, wait_until

from .conftest import RUN


def test_the_first_term_lets_running_tasks_finish_and_hands_the_rest_back(stage):
    """No new gets, running tasks end within the grace, unstarted ones go back at once and uncounted; exit 0."""
    tasks = stage.tasks(
        """
        @app.task
        def slow(i): note('start', i); time.sleep(1.5); note('end', i)
        """
    )
    worker = stage.worker("-p", 1, "-t", 2)
    tasks.slow.delay_many(tasks.slow.call(i) for i in range(10))
    wait_until(lambda: len(stage.lines()) == 2)
    worker.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    assert worker.wait(15) == 0
    assert time.monotonic() - asked < 5
    assert len(stage.lines()) == 4, "both finished, no other was started"
    info = stage.queue.info()
    assert (info.ready, info.leased, info.counters["deleted"]) == (8, 0, 2)
    assert {message.retrieval_count for message in stage.queue.messages("ready")} == {0}


def test_an_idle_worker_stops_at_once_though_it_waits_on_the_server(stage):
    """The waiting slot is interrupted; a message pushed right then is not lost in its hands."""
    tasks = stage.tasks("@app.task\ndef one(): note('ran')")
    worker = stage.worker("-p", 2)
    worker.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    tasks.one.delay()
    assert worker.wait(10) == 0
    assert time.monotonic() - asked < 2
    info = stage.queue.info()
    assert info.leased == 0
    assert info.ready + info.counters["deleted"] == 1


def test_when_the_grace_ends_the_rest_is_given_back_uncounted(stage):
    """Tasks that outlive the grace are ended with their process and run again elsewhere; exit 1 says so."""
    tasks = stage.tasks("@app.task\ndef slow(): note('start', current_message().attempt); time.sleep(30)")
    worker = stage.worker("-p", 1, "--shutdown-timeout", 0.5)
    tasks.slow.delay()
    wait_until(stage.lines)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(10) == 1
    (message,) = stage.queue.messages("ready")
    assert message.retrieval_count == 0


def test_a_second_signal_stops_at_once(stage):
    """TERM twice (or QUIT): nothing is waited for."""
    tasks = stage.tasks("@app.task\ndef slow(): note('start'); time.sleep(30)")
    for signals in ((signal.SIGTERM, signal.SIGINT), (signal.SIGQUIT,)):
        worker = stage.worker("-p", 1)
        before = len(stage.lines())
        handle = tasks.slow.delay()
        wait_until(lambda before=before: len(stage.lines()) > before)
        for number in signals:  # of two kinds: one kind twice, before it is handled, is one signal
            worker.send_signal(number)
        assert worker.wait(5) == 1
        assert stage.queue.info().ready == 1
        assert not handle.done()
        stage.queue.purge()


def test_ctrl_c_in_a_terminal_reaches_the_whole_group_and_stops_it_gracefully(stage):
    """Children ignore the signal that the terminal sends them too; the supervisor decides."""
    tasks = stage.tasks("@app.task\ndef slow(): note('start'); time.sleep(1); note('end')")
    worker = stage.worker("-p", 2)
    tasks.slow.delay()
    wait_until(stage.lines)
    for pid in [worker.pid, *children(worker.pid)]:
        os.kill(pid, signal.SIGINT)
    assert worker.wait(10) == 0
    assert stage.lines() == ["start", "end"]


def hang_up(worker):
    """As a terminal and its shell do when it is closed: to the whole group, and perhaps more than once."""
    for _ in range(2):
        for pid in [worker.pid, *children(worker.pid)]:
            os.kill(pid, signal.SIGHUP)
        time.sleep(0.3)


def test_a_terminal_that_hangs_up_stops_a_worker_gracefully(stage):
    """HUP is like TERM, and never a second signal, as it comes beside others; nothing is counted twice or lost."""
    tasks = stage.tasks("@app.task\ndef slow(): note('start'); time.sleep(1.5); note('end')")
    worker = stage.worker("-p", 2)
    tasks.slow.delay()
    wait_until(stage.lines)
    hang_up(worker)
    tasks.slow.delay()
    assert worker.wait(10) == 0
    assert stage.lines() == ["start", "end"]
    assert [message.retrieval_count for message in stage.queue.messages("ready")] == [0]
    assert stage.queue.info().leased == 0


def test_a_hangup_beside_term_makes_no_second_signal_of_it(stage):
    """As some service managers send them; which of the two is handled first is not theirs to say."""
    tasks = stage.tasks("@app.task\ndef slow(): note('start'); time.sleep(1); note('end')")
    worker = stage.worker("-p", 1)
    tasks.slow.delay()
    wait_until(stage.lines)
    for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGHUP, signal.SIGCONT):
        worker.send_signal(number)
    assert worker.wait(10) == 0
    assert stage.lines() == ["start", "end"]


def test_a_task_ends_whose_worker_s_terminal_is_closed(stage):
    """A real one: the worker leads its session, and nobody reads any more what it writes."""
    tasks = stage.tasks("@app.task\ndef slow(): note('start'); time.sleep(1.5); note('end')")
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n" + RUN, stage.module, "-p2"],
        stdin=theirs, stdout=theirs, stderr=theirs, cwd=stage.folder, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PSMQ_SECRET": stage.secret},
    ) as worker:  # fmt: skip
        os.close(theirs)
        shown = ""
        while "stop " not in shown:
            shown += os.read(ours, 65536).decode()
        tasks.slow.delay()
        wait_until(stage.lines)
        os.close(ours)
        worker.wait(10)
    assert stage.lines() == ["start", "end"]
    info = stage.queue.info()
    assert (info.ready, info.leased, info.counters["deleted"]) == (0, 0, 1)


def test_a_worker_under_nohup_ignores_it(stage):
    """And so do its processes, and what its tasks start."""
    tasks = stage.tasks(
        """
        import multiprocessing
        @app.task
        def ask():
            with multiprocessing.get_context('fork').Pool(1) as pool:
                return [signal.getsignal(signal.SIGHUP) == signal.SIG_IGN, pool.apply(ignored)]
        def ignored(): return signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        """
    )
    worker = stage.worker("-p", 2, run="import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); " + RUN)
    before = wait_until(lambda: len(found := children(worker.pid)) == 2 and found)
    hang_up(worker)
    assert tasks.ask.delay().result(timeout=10) == [True, True]
    assert children(worker.pid) == before
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(10) == 0


def test_what_a_task_forks_obeys_a_hangup(stage):
    """It is no worker: HUP ends it, as it ends others."""
    tasks = stage.tasks(
        """
        import multiprocessing
        @app.task
        def hung_up():
            process = multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,))
            process.start()
            os.kill(process.pid, signal.SIGHUP)
            process.join(5)
            return process.exitcode
        """
    )
    stage.worker("-p", 1)
    assert tasks.hung_up.delay().result(timeout=10) == -signal.SIGHUP


def test_burst_ends_when_nothing_is_ready_and_leaves_what_is_delayed(stage):
    """--burst: everything ready runs, delayed messages stay and are counted in the last line; exit 0."""
    tasks = stage.tasks("@app.task\ndef one(i): note(i)")
    tasks.one.delay_many(tasks.one.call(i) for i in range(500))
    tasks.one.using(delay=600).delay("later")
    worker = stage.worker("--burst", "-p", 2, wait=False)
    assert worker.wait(30) == 0
    assert stage.counts() == {str(i): 1 for i in range(500)}
    info = stage.queue.info()
    assert (info.ready, info.leased, info.delayed) == (0, 0, 1)
    assert "1 delayed" in stage.output().strip().splitlines()[-1]


def test_a_module_that_does_not_import_ends_the_worker_with_2(stage):
    """The traceback's last line comes first; no respawn loop."""
    (stage.folder / "broken.py").write_text("import nothing_of_this_name\n")
    worker = stage.worker("-p", 2, app="broken", wait=False)
    assert worker.wait(20) == 2
    lines = stage.output().splitlines()
    assert "No module named 'nothing_of_this_name'" in lines[0]


def test_a_missing_server_ends_a_burst_with_3(stage):
    """It names the server; no traceback."""
    stage.tasks("@app.task\ndef one(): pass")
    worker = stage.worker("--burst", "-u", "unix:///nowhere/at/all.sock", wait=False)
    assert worker.wait(40) == 3
    assert "/nowhere/at/all.sock" in stage.output()
    assert "Traceback" not in stage.output()


# --- what it says


def said(stage):
    """The lines of the log, without times, but for what cannot be told beforehand."""
    return [
        line.split(maxsplit=3)[3] for line in stage.output().splitlines() if re.match(r"\d{4}-\d\d-\d\d \d\d:", line)
    ]


def test_a_stop_says_what_runs_and_how_long_it_is_waited_for(stage):
    """One line at the first signal, the longest first, and none when all have ended; idle, it is one word."""
    tasks = stage.tasks(
        """
        @app.task
        def nap(seconds): note('start'); time.sleep(seconds)
        @app.task
        async def doze(seconds): note('start'); await asyncio.sleep(seconds)
        """
    )
    worker = stage.worker("-p", 1)
    tasks.nap.delay(3)
    wait_until(lambda: len(stage.lines()) == 1)
    time.sleep(1.2)
    tasks.doze.delay(1.5)
    wait_until(lambda: len(stage.lines()) == 2)
    assert said(stage) == []
    worker.send_signal(signal.SIGTERM)
    wait_until(lambda: said(stage), 2)
    assert worker.poll() is None
    assert worker.wait(10) == 0
    nap, doze = f"{stage.module}:nap", f"{stage.module}:doze"
    (line,) = said(stage)
    ends = r"for up to 25 s; Ctrl\+C again stops at once"
    assert re.fullmatch(rf"stopping: 2 tasks run \({nap}, [12] s; {doze}, 0\.\d s\), {ends}", line)
    idle = stage.worker("-p", 2)
    idle.send_signal(signal.SIGINT)
    assert idle.wait(10) == 0
    assert said(stage) == ["stopping"]


def test_a_stop_names_three_of_many(stage):
    """The rest is counted."""
    tasks = stage.tasks("@app.task\ndef nap(i): note('start'); time.sleep(1)")
    worker = stage.worker("-p", 1, "-t", 8, "--shutdown-timeout", 7.5)
    tasks.nap.delay_many(tasks.nap.call(i) for i in range(5))
    wait_until(lambda: len(stage.lines()) == 5)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(10) == 0
    (line,) = said(stage)
    assert re.fullmatch(r"stopping: 5 tasks run \((\S+:nap, \S+ s; ){3}2 more\), for up to 7\.5 s; Ctrl.*", line)


def test_whoever_is_not_waited_for_is_told_of_and_no_process_seems_killed_by_others(stage):
    """The second signal, QUIT and the end of the grace: what goes back, and no word of a signal 9 that was ours."""
    tasks = stage.tasks("@app.task\ndef nap(): note('start'); time.sleep(30)")
    for signals, options, lines in (
        ((signal.SIGTERM, signal.SIGINT), (), ["stopping: 2 tasks run", "stopped at once: 2 tasks go back and will run again"]),
        ((signal.SIGQUIT,), (), ["stopped at once: 2 tasks go back and will run again"]),
        (
            (signal.SIGTERM,),
            ("--shutdown-timeout", 0.5),
            ["stopping: 2 tasks run", "stopped after 0.5 s: 2 tasks go back and will run again"],
        ),
    ):  # fmt: skip
        worker = stage.worker("-p", 2, *options)
        before = len(stage.lines())
        tasks.nap.delay_many([tasks.nap.call()] * 2)
        wait_until(lambda before=before: len(stage.lines()) == before + 2)
        for number in signals:
            shown = len(said(stage))
            worker.send_signal(number)
            wait_until(lambda shown=shown: len(said(stage)) > shown)
        assert worker.wait(10) == 1
        assert [line.partition(" (")[0] for line in said(stage)] == lines
        stage.queue.purge()


def test_a_second_signal_to_an_idle_worker_has_nothing_to_give_back(stage):
    """Which is what it says, if it comes to it."""
    stage.tasks("@app.task\ndef one(): pass")
    worker = stage.worker("-p", 2)
    worker.send_signal(signal.SIGQUIT)
    assert worker.wait(10) == 0
    assert said(stage) == ["stopped at once"]


def test_a_process_that_is_ended_for_its_time_limit_was_ended_by_its_worker(stage):
    """Not by an unknown signal 9; one that others kill was."""
    tasks = stage.tasks(
        """
        @app.task(time_limit=0.5, stop=stop_after_attempt(1))
        def nap(): time.sleep(30)
        """
    )
    stage.worker("-p", 1)
    tasks.nap.delay().exception(timeout=20)
    wait_until(lambda: any("messages it held" in line for line in said(stage)))
    (line,) = (line for line in said(stage) if "messages it held" in line)
    assert re.fullmatch(r"process \d+ was ended by its worker; messages it held: 1", line)
