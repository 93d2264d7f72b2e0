"""Sends that are suppressed: `HORSIES_SUPPRESS_SENDS=1`, which `horsies check` sets. Who writes rows asks, by batch."""

from __future__ import annotations

import os

from .._core.codes import TaskSendErrorCode
from .._core.errors import BrokerError

SUPPRESSED = "HORSIES_SUPPRESS_SENDS=1 is set"


def are_suppressed() -> bool:
    """Whether nothing is to be sent now. Where it is not set this costs some 2 us, an exception inside."""
    return os.environ.get("HORSIES_SUPPRESS_SENDS") == "1"


class SuppressedError(BrokerError):
    """The answer to a row that is not to be sent."""

    def __init__(self) -> None:
        super().__init__(SUPPRESSED)


def code_of(failure: BrokerError) -> TaskSendErrorCode:
    """What the sender of a row is told that was answered so."""
    suppressed = isinstance(failure, SuppressedError)
    return TaskSendErrorCode.SEND_SUPPRESSED if suppressed else TaskSendErrorCode.ENQUEUE_FAILED
