"""How much memory this process holds."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

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
