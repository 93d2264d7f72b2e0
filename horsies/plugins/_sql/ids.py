"""Ids that a broker is given. Another form than horsies' own was never given out, and is not looked for."""

from __future__ import annotations

from collections.abc import Iterable

from horsies.abc import BrokerError, is_task_id


def require_ids(action: str, ids: Iterable[str]) -> None:
    """Raises: BrokerError, one of `ids` is none."""
    if not all(map(is_task_id, ids)):
        raise BrokerError(f"{action}: an id is not a UUID in lower-case canonical form")
