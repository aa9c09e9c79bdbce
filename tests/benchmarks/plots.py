"""Pictures of what was measured."""

from __future__ import annotations

import click


def pyplot():
    """matplotlib's, which is no dependency of ours."""
    try:
        import matplotlib as mpl
    except ImportError:
        raise click.ClickException("--plot needs matplotlib: pip install matplotlib") from None
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def draw(shown: dict, path: str) -> None:
    """Throughput, and the spread of latency, by system."""
    plt = pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    names = list(shown)
    left.barh(names, [f.median("jobs") for f in shown.values()], color=["C1" if n == "psmq" else "C0" for n in names])
    left.set_xlabel("no-op jobs per second")
    left.invert_yaxis()
    right.barh(names, [f.median("p99") for f in shown.values()], color="lightgrey", label="p99")
    right.barh(names, [f.median("p50") for f in shown.values()], color="C0", label="p50")
    right.set_xscale("log")
    right.set_xlabel("ms from push to job on an idle worker")
    right.invert_yaxis()
    right.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
