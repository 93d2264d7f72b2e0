"""`isolate`: a batch fails because of some of its items."""

from collections.abc import Sequence

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from horsies.abc import BrokerError, isolate

REFUSED = BrokerError("refused")
AWAY = BrokerError("away", retryable=True)


class Table:
    """Takes batches wholly or not at all; `guilty` items are refused, and at `away_at` the database is away."""

    def __init__(self, guilty: set[int], away_at: int | None = None) -> None:
        self.guilty = guilty
        self.away_at = away_at
        self.taken: list[int] = []

    async def put(self, items: Sequence[int]) -> list[str]:
        if self.guilty.intersection(items):
            raise REFUSED
        if self.away_at in items:
            raise AWAY
        self.taken += items
        return [f"took {item}" for item in items]

    async def leave(self, item: int, error: BrokerError) -> str:
        assert error is REFUSED
        return f"left {item}"


def put(table: Table, items: Sequence[int]) -> list[str]:
    return anyio.run(isolate, items, table.put, table.leave, lambda error: not error.retryable)


@given(guilty=st.sets(st.integers(0, 20)), count=st.integers(0, 20))
def test_all_but_the_guilty_are_done_once_and_answers_keep_their_order(guilty: set[int], count: int) -> None:
    table = Table(guilty)
    answers = put(table, range(count))
    assert answers == [f"{'left' if item in guilty else 'took'} {item}" for item in range(count)]
    assert table.taken == [item for item in range(count) if item not in guilty]


def test_one_statement_does_where_nobody_is_guilty() -> None:
    calls = []

    async def act(items: Sequence[int]) -> Sequence[int]:
        calls.append(list(items))
        return items

    async def alone(item: int, error: BrokerError) -> int:
        raise AssertionError(item)

    assert anyio.run(isolate, [1, 2, 3], act, alone, lambda _: True) == [1, 2, 3]
    assert calls == [[1, 2, 3]]


def test_a_failure_that_concerns_no_item_leaves_with_what_came_before_it_done() -> None:
    table = Table({0}, away_at=3)
    with pytest.raises(BrokerError) as caught:
        put(table, range(4))
    assert caught.value is AWAY
    assert table.taken == [1]
