"""Where the nodes of a graph are drawn: in layers, so that each stands beneath all that it waits for.

A node stands in the layer after the lowest of its needs; within a layer nodes stand near the middle of what they are
joined with, which keeps most lines from crossing (the barycentre heuristic of K. Sugiyama et al., 1981).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SWEEPS = 4


@dataclass(frozen=True, slots=True)
class Layout:
    """The indexes of the nodes, layer by layer, each from left to right."""

    layers: tuple[tuple[int, ...], ...]


def arranged(needs: Sequence[Sequence[int]]) -> Layout:
    """The layers of a graph without cycles.

    Args:
        needs: for each node the indexes of those it waits for.
    """
    depths = _depths(needs)
    layers: list[list[int]] = [[] for _ in range(max(depths, default=-1) + 1)]
    for index, depth in enumerate(depths):
        layers[depth].append(index)
    dependents: list[list[int]] = [[] for _ in needs]
    for index, some in enumerate(needs):
        for need in some:
            dependents[need].append(index)
    for _ in range(SWEEPS):
        for joined, order in ((needs, layers), (dependents, layers[::-1])):
            _settle(order, joined)
    return Layout(tuple(map(tuple, layers)))


def _depths(needs: Sequence[Sequence[int]]) -> list[int]:
    depths = [-1] * len(needs)
    for root in range(len(needs)):
        waiting = [root]
        while waiting:
            index = waiting[-1]
            unknown = [need for need in needs[index] if depths[need] < 0]
            if unknown and depths[index] < 0:
                waiting += unknown
                continue
            depths[index] = 1 + max((depths[need] for need in needs[index]), default=-1)
            waiting.pop()
    return depths


def _settle(layers: Sequence[list[int]], joined: Sequence[Sequence[int]]) -> None:
    """Sort each layer by where those stand, in layers that were sorted before, that its nodes are joined with."""
    places: dict[int, float] = {}
    for layer in layers:
        own = _spread(layer)
        layer.sort(key=lambda index: (_middle(joined[index], places, own[index]), own[index]))  # at once
        places |= _spread(layer)


def _spread(layer: Sequence[int]) -> dict[int, float]:
    """Where the nodes of a layer stand, from 0 to 1."""
    return {index: place / max(1, len(layer) - 1) for place, index in enumerate(layer)}


def _middle(others: Sequence[int], places: Mapping[int, float], own: float) -> float:
    known = [places[other] for other in others if other in places]
    return sum(known) / len(known) if known else own
