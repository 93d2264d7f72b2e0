"""The ids of the tasks that are run for the nodes of a workflow.

Such an id begins as the workflow's id does, and says which node and which run of it. It is a UUID version 8, and
whoever makes it makes the same.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

MOST_NODES = 2**16
MOST_RUNS = 2**8


def node_task_id(workflow_id: str, node: int, run: int) -> str:
    """The id of the task of a node: the workflow's milliseconds, 16 bits of node, 8 of run, 50 of a SHA-256.

    Raises:
        ValueError: there are no so many nodes, or runs.
    """
    if not (0 <= node < MOST_NODES and 1 <= run < MOST_RUNS):
        raise ValueError(f"a workflow has at most {MOST_NODES:,} nodes, and each at most {MOST_RUNS - 1} runs")
    begin, top, rest = _frame_of(workflow_id)
    # By its digits: there is one for each node that is put in, and a UUID would take five times as long.
    return f"{begin}-8{node >> 4:03x}-{0x8000 | (node & 0xF) << 10 | run << 2 | top:04x}-{rest}"


@lru_cache(maxsize=256)
def _frame_of(workflow_id: str) -> tuple[str, int, str]:
    """What the ids of all its tasks have: how they begin, the first two bits of the digest, and how they end."""
    digest = int.from_bytes(hashlib.sha256(workflow_id.encode()).digest()[:8]) % 2**50
    return workflow_id[:13], digest >> 48, f"{digest % 2**48:012x}"


def node_of(task_id: str) -> tuple[int, int]:
    """The node and the run that `node_task_id` made `task_id` for."""
    low = int(task_id[19:23], 16)
    return int(task_id[15:18], 16) << 4 | low >> 10 & 0xF, low >> 2 & 0xFF
