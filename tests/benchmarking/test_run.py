"""The suite runs, from the command line to its files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.cases import Case
from benchmarks.run import Measurement, run

ROOT = Path(__file__).parent.parent.parent
DRAIN = "drain, concurrency 100"


def test_a_quick_run_prints_tables_and_writes_the_rounds(postgres_url: str, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    options = ["--quick", "--rounds", "2", "--only", DRAIN, "--subjects", "horsies,floor", "--json", str(file)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--url", postgres_url, *options], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "drain at 100: horsies / floor" in done.stdout
    rows = json.loads(file.read_text())["rows"]
    assert [(row["case"], row["subject"], row["loop"], len(row["rounds"]), row["error"]) for row in rows] == [
        (DRAIN, subject, loop, 2, None)
        for subject, loops in (("horsies", ("asyncio", "uvloop", "trio")), ("floor", ("asyncio", "uvloop")))
        for loop in loops
    ]


def test_a_subject_that_fails_stops_nobody_else(postgres_url: str) -> None:
    case = Case(name="a drain", measure="drain", tasks={"nobody": 20, "horsies": 20})
    measurements = [Measurement(case, subject, "asyncio") for subject in case.tasks]
    said: list[str] = []
    failed, measured = run(postgres_url, measurements, 2, said.append)
    assert failed.error == "ModuleNotFoundError: No module named 'benchmarks.subjects.nobody'"
    assert failed.rounds == []
    assert [set(figures) for figures in measured.rounds] == [{"per_s"}, {"per_s"}]
    assert len(said) == 3
