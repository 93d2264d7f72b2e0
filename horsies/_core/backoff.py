"""Pauses between tries while the database is away."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from .config import ResilienceConfig


def pauses(config: ResilienceConfig, random: Random) -> Iterator[float]:
    """Seconds to wait before each further try: doubling, capped, spread by 25 % so that workers do not march."""
    pause = config.retry_initial
    while True:
        yield min(pause * random.uniform(0.75, 1.25), config.retry_max)
        pause = min(pause * 2, config.retry_max)
