"""From figures to tables and ratios."""

from __future__ import annotations

import pytest

from benchmarks.cases import CASES, SUBJECTS
from benchmarks.database import database_url
from benchmarks.figures import Figures, MissingError, Row
from benchmarks.measures import percentiles
from benchmarks.pages import page
from benchmarks.ratios import TARGETS, Verdict, verdicts
from benchmarks.report import cell, closing, markdown, notes, tables

DRAIN = "drain, concurrency 100"


def rates(case: str, subject: str, loop: str, *values: float) -> Row:
    return Row(case=case, subject=subject, loop=loop, rounds=[{"per_s": value} for value in values])


def verdict(what: str, *rows: Row, missing: dict[str, str] | None = None) -> Verdict:
    [found] = [one for one in verdicts(Figures(rows, missing or {})) if one.what == what]
    return found


def test_a_figure_is_the_median_of_its_rounds() -> None:
    assert rates(DRAIN, "horsies", "trio", 10, 1_000, 30).median("per_s") == 30
    assert rates(DRAIN, "horsies", "trio").median("per_s") is None


def test_a_ratio_compares_the_better_loops_and_leaves_trio_to_its_own_line() -> None:
    rows = [
        rates(DRAIN, "horsies", "asyncio", 1_000),
        rates(DRAIN, "horsies", "uvloop", 1_400),
        rates(DRAIN, "horsies", "trio", 9_000),
        rates(DRAIN, "pgqueuer", "asyncio", 1_000),
        rates(DRAIN, "pgqueuer", "uvloop", 900),
    ]
    what = "drain at 100: horsies / pgqueuer"
    assert verdict(what, *rows) == Verdict(what, ">= 1.4 x", "1.40 x", True)
    assert verdict("drain at 100: horsies on Trio / pgqueuer", *rows).value == "9.00 x"


def test_a_cost_may_be_at_most_its_bound() -> None:
    what = "1 sender: bare INSERT and NOTIFY / horsies"
    case = "send, 1 sender"
    assert verdict(what, rates(case, "floor", "asyncio", 160), rates(case, "horsies", "asyncio", 100)).reached is True
    assert verdict(what, rates(case, "floor", "asyncio", 161), rates(case, "horsies", "asyncio", 100)).reached is False


def test_the_round_trip_is_held_to_the_pickup_of_its_own_loop() -> None:
    what = "round trip p50 / pickup p50, horsies' worst loop"
    rows = [
        Row(case=case, subject="horsies", loop=loop, rounds=[{"p50": p50, "p99": 9.0}])
        for case, loop, p50 in (
            ("round trip", "asyncio", 3.0),
            ("round trip", "trio", 5.0),
            ("idle pickup", "asyncio", 2.0),
            ("idle pickup", "trio", 2.0),
        )
    ]
    assert verdict(what, *rows) == Verdict(what, "<= 2 x", "2.50 x", False)


def test_a_ratio_that_cannot_be_told_says_why() -> None:
    what = "drain at 100: horsies / pgqueuer"
    ours = rates(DRAIN, "horsies", "asyncio", 1_000)
    failed = Row(case=DRAIN, subject="pgqueuer", loop="asyncio", error="it fell")
    absent = verdict(what, ours, missing={"pgqueuer": "not installed (No module named 'pgqueuer')"})
    assert (absent.value, absent.reached) == ("not installed: pgqueuer", None)
    assert verdict(what, ours, failed).value == f"failed: {DRAIN}"
    half = Row(
        case=DRAIN, subject="pgqueuer", loop="asyncio", rounds=[{"per_s": 1.0}], error="it fell in the second round"
    )
    assert verdict(what, ours, half).reached is None
    assert verdict(what, ours).value == "not measured"


def test_every_target_is_fed_by_a_case() -> None:
    wanted = set()

    class Asked(Figures):
        def all(self, case: str, subjects: object, name: str, loops: object = ()) -> list[float]:
            wanted.add((case, *subjects))
            return [1.0]

    for target in TARGETS:
        assert target.value(Asked([], {})) == 1.0
    cases = {case.name: case for case in CASES}
    for case, *subjects in wanted:
        assert set(subjects) <= set(cases[case].tasks), case


def test_names_of_cases_are_told_apart() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))
    assert {subject for case in CASES for subject in case.tasks} == set(SUBJECTS)


def test_figures_are_shown_with_their_units() -> None:
    row = Row(case="c", subject="s", loop="trio")
    assert cell(None) == ""
    assert cell(row) == "-"
    row.rounds = [{"per_s": 1234.5, "p50": 1.0, "p99": 2.25}]
    assert cell(row) == "1,234/s, 1.0, 2.2 ms"
    row.rounds = [{"queries_per_s": 0.4, "cpu_percent": 0.1, "rss_mb": 55.4}]
    assert cell(row) == "0.40/s, 0.10 %, 55 MB"
    row.error = "it fell"
    assert cell(row) == "failed"


def test_there_is_a_table_for_each_loop() -> None:
    rows = [rates("a", "horsies", "asyncio", 1), rates("b", "floor", "asyncio", 2), rates("a", "horsies", "trio", 3)]
    assert tables(Figures(rows, {})) == [
        [["on asyncio", "horsies", "floor"], ["a", "1/s", ""], ["b", "", "2/s"]],
        [["on trio", "horsies"], ["a", "3/s"]],
    ]


def test_what_is_missing_is_said() -> None:
    failed = Row(case="a", subject="oban", loop="asyncio", error="it fell")
    figures = Figures([failed], {"pgqueuer": "not installed"})
    assert notes(figures) == ["pgqueuer: not installed", "a, oban on asyncio: it fell"]
    with pytest.raises(MissingError, match="not measured"):
        figures.all("b", ["horsies"], "per_s")


def test_the_page_says_how_it_was_made() -> None:
    figures = Figures([rates(DRAIN, "horsies", "trio", 5)], {})
    text = page(figures, verdicts(figures), {"Python": "3.13"}, "python -m benchmarks --docs", [])
    assert "`python -m benchmarks --docs`" in text
    assert "- Python: 3.13" in text
    assert markdown(closing(verdicts(figures))) in text
    assert f"| {DRAIN} | 5/s |" in text


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://me:pw@here:5433/app?sslmode=require", "postgresql://me:pw@here:5433/other?sslmode=require"),
        ("postgresql://postgres:@/postgres?host=/tmp/x", "postgresql://postgres:@/other?host=/tmp/x"),
        ("postgres://here", "postgres://here/other"),
        ("postgresql:///app?host=/tmp", "postgresql:///other?host=/tmp"),
    ],
)
def test_a_url_keeps_everything_but_its_database(url: str, expected: str) -> None:
    assert database_url(url, "other") == expected


def test_percentiles_are_in_milliseconds() -> None:
    assert percentiles([n / 1000 for n in range(101)]) == pytest.approx({"p50": 50.0, "p99": 99.0})
