"""Figures as tables: rows of text first, which rich prints and Markdown keeps."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from .figures import LOOPS, Figures, Row
from .ratios import Verdict

REACHED = {True: "yes", False: "no", None: "-"}
CLOSING = ("target", "wanted", "measured", "reached")


def cell(row: Row | None) -> str:
    """The figures of a row in a few characters."""
    if row is None:
        return ""
    if row.error is not None:
        return "failed"
    parts = []
    if (rate := row.median("per_s")) is not None:
        parts.append(f"{rate:,.0f}/s")
    if (p50 := row.median("p50")) is not None and (p99 := row.median("p99")) is not None:
        parts.append(f"{p50:.1f}, {p99:.1f} ms")
    for name, form in (("queries_per_s", "{:.2f}/s"), ("cpu_percent", "{:.2f} %"), ("rss_mb", "{:.0f} MB")):
        if (value := row.median(name)) is not None:
            parts.append(form.format(value))
    return ", ".join(parts) or "-"


def tables(figures: Figures) -> list[list[list[str]]]:
    """One table for each loop: a head, then a line for each case with a column for each subject."""
    made = []
    for loop in LOOPS:
        rows = [row for row in figures.rows if row.loop == loop]
        subjects = list(dict.fromkeys(row.subject for row in rows))
        cells = {(row.case, row.subject): cell(row) for row in rows}
        cases = list(dict.fromkeys(row.case for row in rows))
        if rows:
            head = [f"on {loop}", *subjects]
            made.append([head, *([case, *(cells.get((case, subject), "") for subject in subjects)] for case in cases)])
    return made


def notes(figures: Figures) -> list[str]:
    """What is not there, and why."""
    return [
        *(f"{subject}: {why}" for subject, why in figures.missing.items()),
        *(f"{row.case}, {row.subject} on {row.loop}: {row.error}" for row in figures.rows if row.error),
    ]


def closing(found: Sequence[Verdict]) -> list[list[str]]:
    """The closing table."""
    return [list(CLOSING), *([one.what, one.target, one.value, REACHED[one.reached]] for one in found)]


def show(console: Console, lines: Sequence[Sequence[str]]) -> None:
    """Print a table whose first line is its head."""
    head, *rest = lines
    table = Table()
    for index, name in enumerate(head):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    for line in rest:
        table.add_row(*line)
    console.print(table)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table whose first line is its head."""
    head, *rest = lines
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *rest)) + "\n"
