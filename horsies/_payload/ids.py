"""Task ids: UUID version 7, so that they sort by time and the primary key grows at one end.

A task that comes from a schedule has a version 8, made in the same way of its slot and the schedule's name, so that
whoever makes it makes the same.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from uuid import UUID

import uuid_utils

from .._core.instants import micros_of

_MARKS = 0xF << 76 | 0b11 << 62
_VERSION_8 = 0x8 << 76 | 0b10 << 62
"""Version and variant, where RFC 9562 has them."""


def new_task_id() -> str:
    """A new id: a UUID version 7 as lower-case text."""
    return str(uuid_utils.uuid7())


def slot_task_id(schedule: str, slot: datetime) -> str:
    """The id of the task that a schedule sends for a slot: milliseconds since 1970, then 74 bits of a SHA-256."""
    micros = micros_of(slot)
    digest = int.from_bytes(hashlib.sha256(f"{micros} {schedule}".encode()).digest()[:16])
    return str(UUID(int=(micros // 1000 % 2**48) << 80 | digest % 2**80 & ~_MARKS | _VERSION_8))
