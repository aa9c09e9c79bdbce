"""How long dead letters are kept: set, shown and counted."""

from __future__ import annotations

from mishaps import kill
from support import wait_until


def test_a_retention_is_set_and_shown(manager, run, read):
    """psmq configure; None, which is for ever, is the default."""
    manager.get_queue("q")
    assert read("configure", "q")["config"]["dead_retention"] is None
    assert read("configure", "q", "dead_retention=30d")["config"]["dead_retention"] == 30 * 86_400
    assert "dead_retention" in run("configure", "q").stdout
    assert read("configure", "q", "dead_retention=none")["config"]["dead_retention"] is None


def test_doctor_names_the_next_command_and_the_books_are_right(manager, read, run):
    """What dead letters have in common comes first; what was dropped is accounted for."""
    queue = manager.get_queue("q", dead_retention=0.001)
    kill(queue, 3)
    wait_until(lambda: queue.get() or queue.info().counters["outlived"] == 3)
    queue.configure(dead_retention=3600)
    kill(queue, 2)
    findings = read("doctor", code=1)["findings"]
    (found,) = [one for one in findings if one["subject"] == "queue q"]
    assert "each kept for 3600.0 s" in found["message"] or "each kept for 3600 s" in found["message"]
    assert found["fix"] == "psmq dead list --group-by error --queue q"
    assert run(*found["fix"].split()[1:]).stdout
    (audited,) = read("doctor", "--audit", "q")["findings"]
    assert audited["level"] == "fine"
