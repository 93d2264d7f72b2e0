"""How many tasks a worker claims at once, and how many before it has slots for them.

What a claim starts begins at once, so it takes no more than there are slots for, and of many slots a part: then some
tasks run here while the database takes others. It counts on slots that will be free by the time of its answer, as they
were the last times.

A worker that claims only what it has slots for waits for the database between each batch and the next. So it claims
ahead what it will begin within a tenth of a second, going by what it got through just now: hundreds of quick tasks, and
no slow one, which another worker might begin at once.
"""

from __future__ import annotations

from collections import deque

AHEAD = 0.1
"""Seconds within which a task claimed ahead should begin."""
WINDOW = 0.05
"""Seconds over which ends are counted; the slower one of the last two windows says how fast the worker is."""
LOOKED_BACK = 8
"""Claims by which it is told how many slots will be free by the time of an answer; the one with the fewest counts."""
BEGIN_BATCH = 100
"""The most tasks to start by one claim: more take longer in the database than the worker has others to run."""
FEW_SLOTS = 32
"""With fewer slots a claim may take all of them: what a statement costs by itself counts for more than what waits."""


def begin_batch(concurrency: int, soon_free: int) -> int:
    """How many tasks one claim may start where `soon_free` of those that there are will have ended by its answer."""
    part = concurrency if concurrency < FEW_SLOTS else (concurrency + 1) // 2
    return min(part + soon_free, concurrency, BEGIN_BATCH)


class Prefetch:
    """Counts the ends of tasks, and those that came while a claim was under way.

    Args:
        most: the largest number of tasks to claim ahead, or for slots that are not free yet; 0: none, ever.
        now: seconds, on the clock that all other times here are from.
    """

    def __init__(self, most: int, now: float) -> None:
        self._most = most
        self._since = now
        self._ended = 0
        self._rate = 0.0
        self._ahead = 0
        self._answers = deque([(1, 0)] * LOOKED_BACK, LOOKED_BACK)

    def count_answer(self, busy: int, left: int) -> None:
        """Of `busy` tasks all but `left` have ended within the time that a claim takes."""
        if busy:
            self._answers.append((busy, max(0, busy - left)))

    def soon_free(self, busy: int) -> int:
        """How many of `busy` slots will be free by the time that a claim is answered which is sent now.

        No larger part of them than each of the last times, and not more than there ever were then.
        """
        most = max(ended for _, ended in self._answers)
        return min(self._most, most, *(busy * ended // was for was, ended in self._answers))

    def count_end(self) -> None:
        self._ended += 1

    def ahead(self, now: float) -> int:
        """How many tasks may be claimed beyond the free slots."""
        span = now - self._since
        if span >= WINDOW:
            before, self._rate = self._rate, self._ended / span
            self._ahead = min(self._most, int(min(before, self._rate) * AHEAD))
            self._since, self._ended = now, 0
        return self._ahead
