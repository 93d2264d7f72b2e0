"""What waits for what: cycles in it."""

from __future__ import annotations

from collections.abc import Sequence


def cycles_in(needs: Sequence[Sequence[int]]) -> list[list[int]]:
    """Cycles of nodes that wait for each other, so that no node is in two, and none is left once these are taken out.

    Args:
        needs: for each node the indexes of those it waits for, itself among them perhaps.

    Returns:
        Each cycle as the indexes on its way, where each node waits for the next, and the last one for the first.
    """
    cycles: list[list[int]] = []
    left = _without_ends(needs, set(range(len(needs))))
    while left:
        cycles.append(_cycle_through(needs, left))
        left = _without_ends(needs, left - set(cycles[-1]))
    return cycles


def _without_ends(needs: Sequence[Sequence[int]], left: set[int]) -> set[int]:
    """The nodes of `left` that wait, by whatever way, for a cycle in it."""
    waiting = {index: {need for need in needs[index] if need in left} for index in left}
    needed_by: dict[int, list[int]] = {index: [] for index in left}
    for index, some in waiting.items():
        for need in some:
            needed_by[need].append(index)
    free = [index for index, some in waiting.items() if not some]
    while free:
        done = free.pop()
        del waiting[done]
        for index in needed_by[done]:
            waiting[index].discard(done)
            if not waiting[index]:
                free.append(index)
    return set(waiting)


def _cycle_through(needs: Sequence[Sequence[int]], left: set[int]) -> list[int]:
    """A cycle in `left`, where each node waits for another one of it; it begins with its lowest index."""
    way: dict[int, int] = {}
    index = min(left)
    while index not in way:
        way[index] = len(way)
        index = min(need for need in needs[index] if need in left)
    cycle = list(way)[way[index] :]
    lowest = cycle.index(min(cycle))
    return cycle[lowest:] + cycle[:lowest]
