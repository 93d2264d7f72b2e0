"""How much memory this process holds, and a watch over it."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from pathlib import Path

import anyio

LOOK = 5.0
"""Seconds between looks, and before the first: a worker that starts above its limit does some work all the same."""
MIB = 1024 * 1024
_STATM = Path("/proc/self/statm")


def resident() -> float:
    """MiB of this process in main memory; where only that can be known, the most it has ever been."""
    try:
        pages = int(_STATM.read_text().split()[1])
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / MIB if sys.platform == "darwin" else peak / 1024
    return pages * resource.getpagesize() / MIB


async def watch(limit: int, retire: Callable[[str], None]) -> None:
    """Call `retire` with the reason once the process holds more than `limit` MiB."""
    held = 0.0
    while held <= limit:
        await anyio.sleep(LOOK)
        held = resident()
    retire(f"the process holds {held:.0f} MiB of memory, more than the {limit} MiB of its max_memory")
