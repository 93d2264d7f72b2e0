"""Task ids: UUID version 7, so that they sort by time and the primary key grows at one end."""

from __future__ import annotations

import re

import uuid_utils

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")


def new_task_id() -> str:
    """A new id: a UUID version 7 as lower-case text."""
    return str(uuid_utils.uuid7())


def is_task_id(value: object) -> bool:
    """Whether `value` is a UUID in the one form horsies writes: lower case, with hyphens."""
    return isinstance(value, str) and _ID.match(value) is not None
