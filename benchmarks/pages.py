"""The page of figures in the documentation, which a run writes as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .figures import Figures
from .ratios import Verdict
from .report import closing, markdown, notes, tables

if TYPE_CHECKING:
    from .plots import Plot

PAGE = "figures.md"
RAW = "figures.json"


def page(
    figures: Figures, found: Sequence[Verdict], about: Mapping[str, str], command: str, drawn: Sequence[Plot]
) -> str:
    """The page's Markdown."""
    parts = [
        "# Figures",
        f"Written by `{command}`, not by hand: the tables, the plots, and the rounds in {{download}}`{RAW}`.",
        "\n".join(f"- {name}: {value}" for name, value in about.items()),
        "## What horsies is held to",
        markdown(closing(found)),
        "## Medians",
        "Two figures in milliseconds are the median and the 99th percentile.",
        *(markdown(lines) for lines in tables(figures)),
        *(f"![{plot.title}]({plot.file})" for plot in drawn),
    ]
    if missing := notes(figures):
        parts += ["Not measured:", "\n".join(f"- {note}" for note in missing)]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def write_page(folder: Path, *, text: str, raw: str) -> None:
    """Renew the page in `folder`, and beside it the figures of every round."""
    (folder / PAGE).write_text(text)
    (folder / RAW).write_text(raw)
