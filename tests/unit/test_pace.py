from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horsies._worker.pace import AHEAD, WINDOW, Pace, begin_batch


def after(pace: Pace, *windows: tuple[int, float]) -> int:
    """What may be claimed ahead once so many tasks ended in each of these windows, the second number being its end."""
    ahead = 0
    for ended, at in windows:
        for _ in range(ended):
            pace.count_end()
        ahead = pace.ahead(at)
    return ahead


def test_nothing_is_claimed_ahead_before_anything_has_ended() -> None:
    assert Pace(100, 0.0).ahead(1.0) == 0


def test_a_quick_worker_claims_what_it_will_begin_within_a_tenth_of_a_second() -> None:
    assert after(Pace(1_000, 0.0), (300, 1.0), (300, 2.0)) == 300 * AHEAD


def test_the_slower_window_counts() -> None:
    assert after(Pace(1_000, 0.0), (10, 1.0), (1_000, 2.0)) == 10 * AHEAD
    assert after(Pace(1_000, 0.0), (1_000, 1.0), (10, 2.0)) == 10 * AHEAD


def test_one_burst_is_no_pace() -> None:
    assert after(Pace(1_000, 0.0), (1_000, 1.0)) == 0


def test_within_a_window_the_answer_stands() -> None:
    pace = Pace(1_000, 0.0)
    assert after(pace, (300, 1.0), (300, 2.0), (300, 2.0 + WINDOW / 2)) == 300 * AHEAD


@given(st.lists(st.tuples(st.integers(0, 500), st.floats(0.001, 10.0)), max_size=20), st.integers(0, 50))
def test_never_more_than_allowed_and_none_for_a_worker_that_stands_still(
    spans: list[tuple[int, float]], most: int
) -> None:
    pace, now = Pace(most, 0.0), 0.0
    for ended, span in spans:
        now += span
        assert 0 <= after(pace, (ended, now)) <= most
    assert pace.ahead(now + WINDOW) == pace.ahead(now + WINDOW) <= most
    assert pace.ahead(now + 3 * WINDOW) == 0


@pytest.mark.parametrize(
    ("concurrency", "batch"), [(1, 1), (10, 10), (31, 31), (32, 16), (33, 17), (100, 50), (200, 100), (1000, 100)]
)
def test_of_many_slots_a_claim_starts_a_part(concurrency: int, batch: int) -> None:
    assert begin_batch(concurrency) == batch
