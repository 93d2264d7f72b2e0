"""Leases, as statements take and give them."""

from __future__ import annotations

from collections.abc import Sequence

from horsies.abc import Lease

from .driver.session import Row


def fences(leases: Sequence[Lease]) -> dict[str, object]:
    return {
        "ids": [lease.task_id for lease in leases],
        "claim_numbers": [lease.claim_number for lease in leases],
    }


def leases_of(rows: Sequence[Row]) -> set[Lease]:
    return {Lease(row[0], row[1]) for row in rows}


def used(leases: Sequence[Lease], taken: set[Lease]) -> list[bool]:
    """Which of `leases` are in `taken`; one that was named twice was used once, by its first mention."""
    answer = []
    for lease in leases:
        answer.append(lease in taken)
        taken.discard(lease)
    return answer
