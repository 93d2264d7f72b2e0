"""Finds the items that make a batch fail, by halving it until each stands alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from .errors import BrokerError

T = TypeVar("T")
R = TypeVar("R")


async def isolate(
    items: Sequence[T],
    act: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
    alone: Callable[[T, BrokerError], Awaitable[R]],
    concerns_items: Callable[[BrokerError], bool],
) -> list[R]:
    """Act on all items together, so that one that fails does not keep the others from being done.

    Args:
        act: acts on a batch, wholly or not at all; what it returns is joined, in the order of the items.
        alone: what to do about one item that fails even by itself, and what stands for its answer.
        concerns_items: whether a failure may be that of single items.

    Raises:
        BrokerError: a failure that concerns no single item. What came before it in the order of the items is done.
    """
    if not items:
        return []
    try:
        return [*await act(items)]
    except BrokerError as error:
        if not concerns_items(error):
            raise
        if len(items) == 1:
            return [await alone(items[0], error)]
    middle = len(items) // 2
    first = await isolate(items[:middle], act, alone, concerns_items)
    return first + await isolate(items[middle:], act, alone, concerns_items)
