"""Measure horsies beside its peers and beside the floor that SQL sets: `python -m benchmarks`, or `make bench`.

Every figure is the median of its rounds. Without a URL it runs on an embedded Postgres with its usual durability; the
role at a URL must be allowed to create databases. Exits 1 when a measurement failed.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from rich.console import Console

from .cases import CASES, SUBJECTS
from .database import server
from .figures import Figures
from .pages import page, write_page
from .ratios import verdicts
from .report import closing, notes, show, tables
from .run import as_json, circumstances, import_subjects, plan, run

DOCS = Path(__file__).parent.parent / "docs" / "performance"


def main() -> None:
    given = parse()
    console = Console(width=max(Console().width, 150))
    cases = [case.quick() if given.quick else case for case in CASES if given.only in case.name]
    subjects, missing = import_subjects()
    measurements = [
        one for one in plan(cases, subjects) if not given.subjects or one.subject in given.subjects.split(",")
    ]
    # A URL may hold a password.
    options = [option.replace(given.url, "URL") if given.url else option for option in sys.argv[1:]]
    command = shlex.join(["python", "-m", "benchmarks", *options])
    with server(given.url) as url:
        about = {**circumstances(url), "rounds": str(given.rounds)}
        console.print(", ".join(f"{name} {value}" for name, value in about.items()), highlight=False)
        with console.status("") as status:
            figures = Figures(run(url, measurements, given.rounds, status.update), missing)
    found = verdicts(figures)
    for lines in (*tables(figures), closing(found)):
        show(console, lines)
    for note in notes(figures):
        console.print(note, highlight=False, markup=False)
    raw = as_json(figures, about, command)
    if given.json is not None:
        given.json.write_text(raw)
    if given.plots is not None or given.docs:
        # Here, because matplotlib is needed for nothing else.
        from .plots import draw

        folder = DOCS if given.docs else given.plots
        folder.mkdir(parents=True, exist_ok=True)
        drawn = draw(figures, folder)
        if given.docs:
            write_page(folder, text=page(figures, found, about, command, drawn), raw=raw)
    sys.exit(any(row.error for row in figures.rows))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="", help="a Postgres server; default: an embedded one")
    parser.add_argument("--rounds", type=int, default=3, help="of which each figure is the median")
    parser.add_argument("--only", default="", help="the cases whose name holds this")
    parser.add_argument("--subjects", default="", help=f"of {','.join(SUBJECTS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="a twentieth of everything: to see that it runs")
    parser.add_argument("--json", type=Path, help="write the figures of every round to this file")
    parser.add_argument("--plots", type=Path, help="draw into this folder; needs matplotlib")
    parser.add_argument("--docs", action="store_true", help="renew docs/performance: figures, plots and page")
    return parser.parse_args()


if __name__ == "__main__":
    main()
