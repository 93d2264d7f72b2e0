"""What `decide` raises, on its way out of a transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from horsies.abc import Decide, News, Step


class _UndecidedError(Exception):
    """What `decide` raised, so that nothing takes it for a failure of the database."""

    def __init__(self, why: Exception) -> None:
        super().__init__(why)
        self.why = why


@contextmanager
def deciding() -> Iterator[None]:
    """Around a transaction in which something is `decided`: what `decide` raises leaves as it is."""
    try:
        yield
    except _UndecidedError as undecided:
        raise undecided.why from None


def decided(decide: Decide, news: Sequence[News]) -> list[Step]:
    """What follows from `news`."""
    try:
        return list(decide(news))
    except Exception as error:  # to be told from what the database raises
        raise _UndecidedError(error) from None
