"""Arenas, which leave nothing behind."""

from __future__ import annotations

import pytest
from chaos.arena import Arena


@pytest.fixture
def arena():
    """One with a server of its own and the default timeout."""
    found = Arena()
    yield found
    found.close()


@pytest.fixture
def make_arena():
    """Makes them: make_arena(timeout=…, seed=…)."""
    made = []

    def make(**how):
        made.append(Arena(**how))
        return made[-1]

    yield make
    for one in made:
        one.close()


def pytest_terminal_summary(terminalreporter, config):
    """The table of the long runs, as Markdown."""
    rows = getattr(config, "psmq_figures", None)
    if rows:
        terminalreporter.section("figures")
        terminalreporter.write_line("| what happens | measured | target |")
        terminalreporter.write_line("|---|---|---|")
        for row in rows:
            terminalreporter.write_line(f"| {' | '.join(row)} |")
