"""What was opened by one process, and the forks of that process, which have neither its threads nor its event loop."""

from __future__ import annotations

import os

from .._core.errors import HorsiesError


def refuse_in_fork(opened_by: int | None) -> None:
    """Let nothing be used that another process has opened.

    Args:
        opened_by: the id of the process; None if nothing is open.

    Raises:
        HorsiesError: HRS-211 in a process that was forked since.
    """
    if opened_by is not None and opened_by != os.getpid():
        raise HorsiesError(
            "HRS-211",
            f"process {opened_by} has opened this Runtime, and this process is a fork of it",
            ["open a Runtime in each process, after the fork (with gunicorn: without --preload, or in post_fork)"],
        )
