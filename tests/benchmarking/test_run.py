"""The suite runs, from the command line to its files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.cases import CASES, Case
from benchmarks.run import Measurement, run

ROOT = Path(__file__).parent.parent.parent
DRAIN = "drain, concurrency 100"


def test_a_quick_run_prints_tables_and_writes_the_rounds(postgres_url: str, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    options = ["--quick", "--rounds", "1", "--only", DRAIN, "--subjects", "horsies,floor", "--json", str(file)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--url", postgres_url, *options], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "drain at 100: horsies / floor" in done.stdout
    rows = json.loads(file.read_text())["rows"]
    assert [(row["case"], row["subject"], row["loop"], len(row["rounds"]), row["error"]) for row in rows] == [
        (DRAIN, subject, loop, 1, None)
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


def test_every_measure_but_that_of_idleness_gives_its_figures(postgres_url: str) -> None:
    # An idle worker is looked at for most of a minute.
    measures = {case.measure: case.quick() for case in CASES if case.measure != "idle"}
    rows = run(postgres_url, [Measurement(case, "horsies", "trio") for case in measures.values()], 1, lambda _: None)
    assert {row.case: row.error for row in rows if row.error} == {}
    rate, latency = {"per_s"}, {"p50", "p99"}
    assert {name: set(row.rounds[0]) for name, row in zip(measures, rows, strict=True)} == {
        "send": rate,
        "send_many": rate,
        "drain": rate,
        "drain_together": rate,
        "mixed": rate | latency,
        "pickup": latency,
        "round_trip": latency,
        "flows.chains": rate,
        "flows.fan": rate,
        "flows.hops": latency,
        "flows.starts": latency,
    }
