"""What the connections of one broker have to do with each other.

They lead to one place, so a server that only reads concerns all of them. And they are counted together, by the role's
CONNECTION LIMIT, by the server or by a pooler: where one is refused, another part gives up one that is idle.
"""

from __future__ import annotations

from typing import Protocol

import psycopg

ROOM = 1.0
"""Seconds for which a connect is repeated after another part gave one up: the server notices it a moment later."""
ROOM_PAUSE = 0.05
_FULL = (
    "too many connections",
    "too many clients",
    "connection slots are reserved",
    "no more connections allowed",
    "max_client_conn",
    "client_connections",
)
"""A refused connection comes without an SQLSTATE. In another language, or by another pooler, it is not recognised; then
sessions still share what is open."""


def is_full(error: psycopg.Error | str) -> bool:
    """Whether a connect failed because there are as many connections as there may be."""
    said = str(error)
    return any(words in said for words in _FULL)


class Part(Protocol):
    """A part of a broker that holds connections."""

    def drop(self) -> None:
        """Close those that are idle, and close those that are in use once they come back."""

    def give_up(self) -> bool:
        """Close one that can be spared; whether there was one."""


class Sharing:
    """The parts of a broker that hold connections, in the order in which they give one up."""

    def __init__(self) -> None:
        self._parts: list[Part] = []

    def add(self, part: Part) -> None:
        self._parts.append(part)

    def drop(self) -> None:
        """Close every connection: the server only reads, and new ones may lead to the one that writes."""
        for part in self._parts:
            part.drop()

    def make_room(self, asker: Part) -> bool:
        """Let another part than `asker` give up a connection; whether one did."""
        return any(part.give_up() for part in self._parts if part is not asker)
