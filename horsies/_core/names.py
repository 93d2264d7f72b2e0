"""What names, priorities and ids may be."""

from __future__ import annotations

import re

PRIORITY_FIRST, PRIORITY_LAST, PRIORITY_DEFAULT = 1, 100, 50
NAME_BYTES = 255
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")


def is_unicode(text: str) -> bool:
    """Whether `text` can be written as UTF-8: it has no lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_name(value: object) -> bool:
    """Whether `value` can name a queue, a task or a key: 1..255 bytes of UTF-8 without NUL."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        return 1 <= len(value.encode()) <= NAME_BYTES
    except UnicodeEncodeError:
        return False


def is_priority(value: object) -> bool:
    return type(value) is int and PRIORITY_FIRST <= value <= PRIORITY_LAST


def is_task_id(value: object) -> bool:
    """Whether `value` is a UUID in the one form horsies writes: lower case, with hyphens."""
    return isinstance(value, str) and _ID.match(value) is not None
