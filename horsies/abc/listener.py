"""Notices: who is told of what."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol


class Topic(StrEnum):
    """What one can listen to."""

    WORK = "work"
    """For workers. Notices are a `Notice` followed by the name of a queue or the id of a task."""
    FINISHED = "finished"
    """Notices are ids of tasks, and of workflows, that reached a terminal state."""


class Notice(StrEnum):
    """How a notice of `Topic.WORK` begins."""

    READY = "ready:"
    """A queue got tasks that are due."""
    DELAYED = "delayed:"
    """A queue got tasks that are due later."""
    CANCEL = "cancel:"
    """A running task is to be cancelled."""


class Listener(Protocol):
    """An established subscription. Notices are hints: they can be lost, repeated or too many."""

    async def receive(self) -> list[str]:
        """Wait for notices, at least one. An empty name means "something changed": look for yourself."""
        ...
