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


@pytest.fixture
def figure(request):
    """Adds a row to the table: figure(what, result, target)."""

    def add(what, result, target):
        rows = getattr(request.config, "psmq_figures", None)
        if rows is None:
            rows = request.config.psmq_figures = []
        rows.append((what, result, target))
        print(what, "|", result, "|", target)

    return add


def pytest_terminal_summary(terminalreporter, config):
    """The table of the long runs, as Markdown."""
    rows = getattr(config, "psmq_figures", None)
    if rows:
        terminalreporter.section("figures")
        terminalreporter.write_line("| what happens | measured | target |")
        terminalreporter.write_line("|---|---|---|")
        for row in rows:
            terminalreporter.write_line(f"| {' | '.join(row)} |")
