from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horsies._worker.intake.prefetch import AHEAD, LOOKED_BACK, WINDOW, Prefetch, begin_batch


def after(pace: Prefetch, *windows: tuple[int, float]) -> int:
    """What may be claimed ahead once so many tasks ended in each of these windows, the second number being its end."""
    ahead = 0
    for ended, at in windows:
        for _ in range(ended):
            pace.count_end()
        ahead = pace.ahead(at)
    return ahead


def test_nothing_is_claimed_ahead_before_anything_has_ended() -> None:
    assert Prefetch(100, 0.0).ahead(1.0) == 0


def test_a_quick_worker_claims_what_it_will_begin_within_a_tenth_of_a_second() -> None:
    assert after(Prefetch(1_000, 0.0), (300, 1.0), (300, 2.0)) == 300 * AHEAD


def test_the_slower_window_counts() -> None:
    assert after(Prefetch(1_000, 0.0), (10, 1.0), (1_000, 2.0)) == 10 * AHEAD
    assert after(Prefetch(1_000, 0.0), (1_000, 1.0), (10, 2.0)) == 10 * AHEAD


def test_one_burst_is_no_pace() -> None:
    assert after(Prefetch(1_000, 0.0), (1_000, 1.0)) == 0


def test_within_a_window_the_answer_stands() -> None:
    pace = Prefetch(1_000, 0.0)
    assert after(pace, (300, 1.0), (300, 2.0), (300, 2.0 + WINDOW / 2)) == 300 * AHEAD


@given(st.lists(st.tuples(st.integers(0, 500), st.floats(0.001, 10.0)), max_size=20), st.integers(0, 50))
def test_never_more_than_allowed_and_none_for_a_worker_that_stands_still(
    spans: list[tuple[int, float]], most: int
) -> None:
    pace, now = Prefetch(most, 0.0), 0.0
    for ended, span in spans:
        now += span
        assert 0 <= after(pace, (ended, now)) <= most
    assert pace.ahead(now + WINDOW) == pace.ahead(now + WINDOW) <= most
    assert pace.ahead(now + 3 * WINDOW) == 0


def test_no_slot_is_counted_on_before_as_many_claims_have_shown_it() -> None:
    pace = Prefetch(100, 0.0)
    for _ in range(LOOKED_BACK):
        assert pace.soon_free(10) == 0
        pace.count_answer(10, 0)
    assert pace.soon_free(10) == 10


def test_the_claim_by_whose_answer_the_smallest_part_had_ended_counts() -> None:
    pace = Prefetch(100, 0.0)
    for left in (0, 10, 0, 0, 0, 0, 0, 0):
        pace.count_answer(40, left)
    assert (pace.soon_free(40), pace.soon_free(4), pace.soon_free(100)) == (30, 3, 40)


def test_one_slow_batch_is_enough_to_count_on_nothing() -> None:
    pace = Prefetch(100, 0.0)
    for _ in range(LOOKED_BACK):
        pace.count_answer(10, 0)
    pace.count_answer(10, 10)
    assert pace.soon_free(10) == 0


def test_an_answer_to_an_idle_worker_says_nothing() -> None:
    pace = Prefetch(100, 0.0)
    for _ in range(LOOKED_BACK):
        pace.count_answer(10, 0)
        pace.count_answer(0, 0)
    assert pace.soon_free(10) == 10


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), max_size=30), st.integers(0, 500))
def test_what_is_counted_on_is_no_more_than_there_is_or_is_allowed(seen: list[tuple[int, int]], busy: int) -> None:
    pace, closed = Prefetch(50, 0.0), Prefetch(0, 0.0)
    for was, left in seen:
        pace.count_answer(was, left)
        closed.count_answer(was, left)
    assert 0 <= pace.soon_free(busy) <= min(busy, 50)
    assert closed.soon_free(busy) == 0


@pytest.mark.parametrize(
    ("concurrency", "batch"), [(1, 1), (10, 10), (31, 31), (32, 16), (33, 17), (100, 50), (200, 100), (1000, 100)]
)
def test_of_many_slots_a_claim_starts_a_part(concurrency: int, batch: int) -> None:
    assert begin_batch(concurrency, 0) == batch


@pytest.mark.parametrize(
    ("concurrency", "soon_free", "batch"), [(10, 10, 10), (40, 7, 27), (100, 100, 100), (150, 150, 100), (60, 60, 60)]
)
def test_and_those_whose_slots_will_be_free_but_no_more_than_all(concurrency: int, soon_free: int, batch: int) -> None:
    assert begin_batch(concurrency, soon_free) == batch
