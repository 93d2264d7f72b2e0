"""What a run has measured: rows of figures, as JSON keeps them, and the questions that tables and ratios ask."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

LOOPS = ("asyncio", "uvloop", "trio")


class MissingError(Exception):
    """A figure is not there; the message says why."""


@dataclass(kw_only=True)
class Row:
    """One case of one subject on one loop: the figures of each round, or why there are none."""

    case: str
    subject: str
    loop: str
    rounds: list[dict[str, float]] = field(default_factory=list)
    error: str | None = None

    def median(self, name: str) -> float | None:
        """The median of the rounds; None where the subject offers no such thing."""
        values = [figures[name] for figures in self.rounds if name in figures]
        return statistics.median(values) if values else None


@dataclass(frozen=True)
class Figures:
    """All rows of a run, and the subjects that are not installed."""

    rows: Sequence[Row]
    missing: Mapping[str, str]

    def all(self, case: str, subjects: Iterable[str], name: str, loops: Sequence[str] = LOOPS) -> list[float]:
        """A figure on each loop of each of `subjects`.

        Raises:
            MissingError: there is none.
        """
        subjects = tuple(subjects)
        values = []
        for row in self.rows:
            if row.error is None and row.case == case and row.subject in subjects and row.loop in loops:
                value = row.median(name)
                if value is not None:
                    values.append(value)
        if not values:
            raise MissingError(self._why(case, subjects))
        return values

    def _why(self, case: str, subjects: Sequence[str]) -> str:
        if all(subject in self.missing for subject in subjects):
            return f"not installed: {', '.join(subjects)}"
        if any(row.error for row in self.rows if row.case == case and row.subject in subjects):
            return f"failed: {case}"
        return "not measured"
