"""Lends open connections to sessions, the one used last first. Where the server takes no more, sessions take turns.

A connection belongs to a target, which says how its session is set up; it can be set up anew for another one.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from typing import Generic, TypeVar

import anyio
import psycopg

from .prepared import Statements
from .sharing import ROOM, ROOM_PAUSE, Sharing, is_full

T = TypeVar("T", bound=Hashable)

_FULL = "the server takes no more connections"
ASK_AGAIN = 5.0
"""Seconds after a refused connect for which sessions make do with the connections that are open."""


class _Waiter(Generic[T]):
    __slots__ = ("called", "given")

    def __init__(self) -> None:
        self.called = anyio.Event()
        self.given: tuple[Statements, T] | None = None


class Lending(Generic[T]):
    """The connections of all sessions of one broker.

    Args:
        connect: opens a connection for a target.
        adapt: sets one up for another target.
    """

    def __init__(
        self,
        sharing: Sharing,
        connect: Callable[[T], Awaitable[Statements]],
        adapt: Callable[[Statements, T], Awaitable[None]],
    ) -> None:
        self._sharing = sharing
        self._connect = connect
        self._adapt = adapt
        self.idle: defaultdict[T, list[Statements]] = defaultdict(list)
        self._lent: dict[Statements, T] = {}
        self._dropped: set[Statements] = set()
        self._waiting: deque[_Waiter[T]] = deque()
        self._opening = 0
        self._asks_again_at = 0.0
        sharing.add(self)

    async def take(self, target: T, *, patience: float) -> Statements:
        """A connection for `target`, which goes back by `give_back`.

        Args:
            patience: seconds to wait for one, where no further one can be opened.

        Raises:
            psycopg.Error: there is none and none can be opened.
        """
        if idle := self.idle[target]:
            return self._lend(idle.pop(), target)
        began = anyio.current_time()
        pause = ROOM_PAUSE
        while True:
            refusal = await self._open(target)
            if isinstance(refusal, Statements):
                return refusal
            if found := self._pop_idle():
                return await self._adapted(*found, target)
            if refusal is not None and not is_full(refusal):
                raise refusal
            if self._lent or self._opening:
                if found := await self._next_given_back(patience):
                    return await self._adapted(*found, target)
                is_late = anyio.current_time() - began > patience
            else:
                is_late = not self._sharing.make_room(self) and anyio.current_time() - began > ROOM
                await anyio.sleep(pause)  # the server notices a moment later that one is gone
                pause *= 2
            if is_late:
                raise refusal or psycopg.OperationalError(_FULL)

    async def _open(self, target: T) -> Statements | psycopg.OperationalError | None:
        """Another connection; or why there is none, which is None while it is not worth asking."""
        if anyio.current_time() < self._asks_again_at and (self._lent or self._opening or any(self.idle.values())):
            return None
        self._opening += 1
        try:
            return self._lend(await self._connect(target), target)
        except psycopg.OperationalError as error:
            if is_full(error):
                self._asks_again_at = anyio.current_time() + ASK_AGAIN
            return error
        finally:
            self._opening -= 1
            if not (self._lent or self._opening):
                self._call_all()

    def give_back(self, statements: Statements, *, usable: bool) -> None:
        """Leave a connection to the next. One that cannot be used is closed, and with it those of its target.

        Mostly the server has closed them all, and each would fail a statement of its own.
        """
        target = self._lent.pop(statements)
        connection = statements.connection
        if connection.refused_writes:
            self._sharing.drop()
        if usable and statements not in self._dropped and not connection.refused_writes:
            self._pass_on(statements, target)
            return
        self._dropped.discard(statements)
        connection.finish()
        if not usable:
            self._close_idle(target)
        self._asks_again_at = 0.0  # there is room for another one
        self._call_all()

    def trim(self, target: T, most: int) -> None:
        """Keep at most so many idle ones."""
        idle = self.idle[target]
        while len(idle) > most:
            idle.pop(0).connection.finish()

    def drop(self) -> None:
        """See `Part`."""
        for target in self.idle:
            self._close_idle(target)
        self._dropped.update(self._lent)

    def give_up(self) -> bool:
        """See `Part`. The last connection is kept."""
        if len(self._lent) + sum(map(len, self.idle.values())) < 2:
            return False
        if found := self._pop_idle():
            found[0].connection.finish()
        return found is not None

    def _lend(self, statements: Statements, target: T) -> Statements:
        self._lent[statements] = target
        return statements

    def _pass_on(self, statements: Statements, target: T) -> None:
        if self._waiting:
            waiter = self._waiting.popleft()
            waiter.given = self._lend(statements, target), target
            waiter.called.set()
        else:
            self.idle[target].append(statements)

    def _call_all(self) -> None:
        """Let those who wait for a connection see for themselves."""
        while self._waiting:
            self._waiting.popleft().called.set()

    def _close_idle(self, target: T) -> None:
        for statements in self.idle[target]:
            statements.connection.finish()
        self.idle[target].clear()

    def _pop_idle(self) -> tuple[Statements, T] | None:
        """An idle connection, of the target that has most of them, and there the one used longest ago."""
        target = max(self.idle, key=lambda each: len(self.idle[each]), default=None)
        if target is None or not self.idle[target]:
            return None
        return self.idle[target].pop(0), target

    async def _next_given_back(self, patience: float) -> tuple[Statements, T] | None:
        """The next connection that a session gives back; None when it is closed instead, or none comes in time."""
        waiter: _Waiter[T] = _Waiter()
        self._waiting.append(waiter)
        try:
            with anyio.move_on_after(patience):
                await waiter.called.wait()
        except BaseException:
            if waiter.given is not None:
                self.give_back(waiter.given[0], usable=True)
            raise
        finally:
            with suppress(ValueError):
                self._waiting.remove(waiter)
        return waiter.given

    async def _adapted(self, statements: Statements, former: T, target: T) -> Statements:
        self._lent[statements] = target
        if former != target:
            try:
                await self._adapt(statements, target)
            except BaseException:
                self.give_back(statements, usable=False)
                raise
        return statements
