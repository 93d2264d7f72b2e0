"""Task ids: UUID version 7, so that they sort by time and the primary key grows at one end.

A task that comes from a schedule has a version 8, made in the same way of its slot and the schedule's name, so that
whoever makes it makes the same. So has a task that is run for a node of a workflow: it begins as the workflow's id
does, and says which node and which run of it.
"""

from __future__ import annotations

import hashlib
import re
from datetime import datetime, timedelta
from functools import lru_cache
from uuid import UUID

import uuid_utils

from .._core.instants import EPOCH

_MARKS = 0xF << 76 | 0b11 << 62
_VERSION_8 = 0x8 << 76 | 0b10 << 62
"""Version and variant, where RFC 9562 has them."""

MOST_NODES = 2**16
MOST_RUNS = 2**8

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")


def new_task_id() -> str:
    """A new id: a UUID version 7 as lower-case text."""
    return str(uuid_utils.uuid7())


def slot_task_id(schedule: str, slot: datetime) -> str:
    """The id of the task that a schedule sends for a slot: milliseconds since 1970, then 74 bits of a SHA-256."""
    micros = (slot - EPOCH) // timedelta(microseconds=1)
    digest = int.from_bytes(hashlib.sha256(f"{micros} {schedule}".encode()).digest()[:16])
    return str(UUID(int=(micros // 1000 % 2**48) << 80 | digest % 2**80 & ~_MARKS | _VERSION_8))


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


def is_task_id(value: object) -> bool:
    """Whether `value` is a UUID in the one form horsies writes: lower case, with hyphens."""
    return isinstance(value, str) and _ID.match(value) is not None
