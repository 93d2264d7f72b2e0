"""What waits for what: cycles in it."""

from __future__ import annotations

from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter


def cycles_in(needs: Sequence[Sequence[int]]) -> list[list[int]]:
    """Cycles of nodes that wait for each other, so that no node is in two, and none is left once these are taken out.

    Args:
        needs: for each node the indexes of those it waits for, itself among them perhaps.

    Returns:
        Each cycle as the indexes on its way, from its lowest one on, where each node waits for the next, and the last
        one for the first.
    """
    cycles: list[list[int]] = []
    left = dict(enumerate(needs))
    while True:
        try:
            TopologicalSorter(left).prepare()
        except CycleError as error:
            way: list[int] = error.args[1][:0:-1]  # against its order, and without the first node again at its end
            lowest = way.index(min(way))
            cycles.append(way[lowest:] + way[:lowest])
            gone = set(way)
            left = {index: [n for n in some if n not in gone] for index, some in left.items() if index not in gone}
        else:
            return cycles
