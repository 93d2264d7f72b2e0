"""Figures as bars, in SVG. The axis is logarithmic: a bar twice as high is many times as much."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
matplotlib.rcParams.update({"svg.hashsalt": "horsies", "svg.fonttype": "none", "font.size": 9})

from matplotlib import pyplot  # noqa: E402 - the backend is chosen before

from .cases import SUBJECTS  # noqa: E402
from .figures import LOOPS, Figures  # noqa: E402

_COLOURS = dict(zip(SUBJECTS, ("#1b6ca8", "#58a55c", "#888888", "#d9822b", "#b04a5a", "#7a5195"), strict=True))
_OPACITY = {"asyncio": 1.0, "uvloop": 0.7, "trio": 0.45}


@dataclass(frozen=True)
class Plot:
    """Args: `groups`: for each group of bars its label, the case and the figure of it."""

    file: str
    title: str
    groups: Sequence[tuple[str, str, str]]


def _rates(labels: Sequence[str], *cases: str) -> list[tuple[str, str, str]]:
    return [(label, case, "per_s") for label, case in zip(labels, cases, strict=True)]


PLOTS = (
    Plot(
        "sending.svg",
        "Tasks sent in a second, by senders in one process",
        _rates(
            ("1", "10", "100", "1,000", "send_many"),
            *(f"send, {count}" for count in ("1 sender", "10 senders", "100 senders", "1,000 senders")),
            "send_many",
        ),
    ),
    Plot(
        "draining.svg",
        "Tasks drained in a second, by what they are and how many run at once",
        _rates(
            ("no-op, 10", "no-op, 100", "no-op, 1,000", "1 ms, 100", "sync, 100"),
            *(f"drain, concurrency {count}" for count in ("10", "100", "1,000")),
            "drain of 1 ms tasks",
            "drain of sync tasks",
        ),
    ),
    Plot(
        "processes.svg",
        "Tasks drained in a second, by worker processes",
        _rates(
            ("1", "2", "4"),
            *(f"drain, {count}" for count in ("1 worker process", "2 worker processes", "4 worker processes")),
        ),
    ),
    Plot(
        "latency.svg",
        "Milliseconds with an idle worker",
        (
            ("pickup p50", "idle pickup", "p50"),
            ("pickup p99", "idle pickup", "p99"),
            ("round trip p50", "round trip", "p50"),
            ("round trip p99", "round trip", "p99"),
        ),
    ),
)


def draw(figures: Figures, folder: Path) -> list[Plot]:
    """Write the plots that `figures` has something for into `folder`."""
    return [plot for plot in PLOTS if _draw(plot, figures, folder / plot.file)]


def _draw(plot: Plot, figures: Figures, file: Path) -> bool:
    medians = {(row.case, row.subject, row.loop): row.median for row in figures.rows}
    bars = {}
    for subject in SUBJECTS:
        for loop in LOOPS:
            heights = [
                medians[case, subject, loop](name) if (case, subject, loop) in medians else None
                for _, case, name in plot.groups
            ]
            if any(heights):
                bars[subject, loop] = heights
    if not bars:
        return False
    figure, axes = pyplot.subplots(figsize=(9, 4), layout="constrained")
    width = 0.85 / len(bars)
    for index, ((subject, loop), heights) in enumerate(bars.items()):
        places = [group + (index - (len(bars) - 1) / 2) * width for group in range(len(heights))]
        axes.bar(
            places,
            [height or 0 for height in heights],
            width,
            label=f"{subject}, {loop}",
            color=_COLOURS[subject],
            alpha=_OPACITY[loop],
        )
    least = min(height for heights in bars.values() for height in heights if height)
    axes.set_yscale("log")
    axes.set_ylim(bottom=10 ** math.floor(math.log10(least)))
    axes.set_title(plot.title, loc="left")
    axes.set_xticks(range(len(plot.groups)), [label for label, _, _ in plot.groups])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.grid(axis="y", linewidth=0.4)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)
    return True
