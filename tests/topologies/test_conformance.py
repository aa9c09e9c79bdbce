"""The queue's own tests, once more on each kind of server: what is promised does not depend on where it is kept."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import pytest
from secured_server import Secured
from support import ROOT
from topology import Cluster, Fleet, Guarded

#: the README in order, every function over FCALL, interrupted calls, and the model
ROOMS = ("tests/fundamentals", "tests/lua", "tests/queue/test_interrupts.py", "tests/queue/test_model.py")
#: counts the answers on a new connection: with a password, or behind Sentinels, there are more
COUNTED = ("--deselect", f"{ROOMS[2]}::test_the_first_of_many_is_not_left_behind_by_a_cancellation")
#: FUNCTION LIST is answered by one node, in another form
LISTED = ("--deselect", f"{ROOMS[1]}/test_psmq_library.py::test_reads_write_nothing_and_what_drains_runs_at_maxmemory")


def conforms(url, *options, **environment):
    """Run them there; what fails is shown."""
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", *ROOMS, *options]
    with tempfile.TemporaryDirectory() as folder:  # what the model found elsewhere is not tried again here
        environment = {**os.environ, "PSMQ_TEST_URL": url, "HYPOTHESIS_STORAGE_DIRECTORY": folder, **environment}
        done = subprocess.run(
            words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=220, check=False
        )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "passed" in done.stdout


@pytest.mark.timeout(240)
def test_a_server_behind_tls_and_a_password(tmp_path):
    """TCP, TLS with verification, a user of one's own."""
    with Fleet() as fleet:
        secured = Secured(fleet, tmp_path)
        secured.server.ask("ACL", "SETUSER", "tester", "on", ">secret", "~*", "&*", "+@all")
        # Each connection reads all CAs that the system trusts, which takes 20 ms: here they are one.
        conforms(
            secured.url("tester", "secret"),
            *COUNTED,
            SSL_CERT_FILE=str(secured.ca),
            SSL_CERT_DIR=str(tmp_path / "none"),
        )


@pytest.mark.timeout(240)
def test_a_primary_behind_sentinels():
    """One primary, one replica, three Sentinels."""
    with Guarded() as guarded:
        conforms(guarded.url, *COUNTED)


@pytest.mark.timeout(240)
def test_a_cluster():
    """Queues spread over three primaries."""
    with Cluster() as cluster:
        conforms(cluster.url, *LISTED)
