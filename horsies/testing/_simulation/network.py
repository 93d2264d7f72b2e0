"""A network between horsies and the broker: calls take time, get lost, and are recorded.

It comes in as a plugin, behind the URL scheme `simulation`, and stands before whatever broker the application under
test is given. It knows no method by name, so a broker's protocols can grow without it.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import fields, is_dataclass
from functools import partial
from random import Random
from typing import Any, ParamSpec, TypeVar, cast

import anyio

from horsies import AppConfig, BrokerError, Horsies, Runtime, hookimpl
from horsies.abc import Broker, BrokerFactory, Clock

P = ParamSpec("P")
T = TypeVar("T")

SCHEME = "simulation"


class Network:
    """What lies between horsies and the broker.

    Args:
        record: called with the name of each call, and its details.
        chance: decides how long calls take, and which are lost.
        latency: seconds that a call takes at most.
        lost_requests, lost_answers: the share of calls that fail before and after they are carried out, by name.
    """

    def __init__(
        self,
        record: Callable[..., None],
        chance: Random,
        *,
        latency: float,
        lost_requests: Mapping[str, float],
        lost_answers: Mapping[str, float],
    ) -> None:
        self._record = record
        self._chance = chance
        self._latency = latency
        self._lost_requests = lost_requests
        self._lost_answers = lost_answers
        self.unreachable_for: list[str | None] = []

    async def call(
        self, who: str, name: str, method: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Carry a call out, and record it at the instant at which it was done."""
        await self._travel()
        if self._is_unreachable(who) or self._happens(self._lost_requests.get(name)):
            self._record(name, who, plain(args), "request lost")
            raise _lost(name)
        answer = await method(*args, **kwargs)
        is_lost = self._happens(self._lost_answers.get(name))
        self._record(name, who, plain(args), "answer lost" if is_lost else plain(answer))
        await self._travel()
        if is_lost:
            raise _lost(name)
        return answer

    async def _travel(self) -> None:
        if self._latency:
            await anyio.sleep(self._chance.uniform(0.0, self._latency / 2))

    def _happens(self, share: float | None) -> bool:
        return share is not None and self._chance.random() < share

    def _is_unreachable(self, who: str) -> bool:
        return None in self.unreachable_for or who.partition(":")[0] in self.unreachable_for


class SimulationPlugin:
    """Offers the broker of `inner` at the other end of `network`."""

    def __init__(self, network: Network, inner: Horsies) -> None:
        self._network = network
        self._inner = inner

    @hookimpl
    def horsies_brokers(self) -> Mapping[str, BrokerFactory]:
        return {SCHEME: self}

    @asynccontextmanager
    async def open(self, config: AppConfig, *, clock: Clock) -> AsyncIterator[Broker]:
        factory = Runtime(self._inner).broker_factory()
        async with factory.open(self._inner.config, clock=clock) as broker:
            yield cast("Broker", Remote(self._network, broker))

    def schema_sql(self, config: AppConfig) -> str:
        return Runtime(self._inner).broker_factory().schema_sql(self._inner.config)


class Remote:
    """A broker, or one of its roles, at the other end of the network; `who` uses it."""

    def __init__(self, network: Network, target: object, who: str = "") -> None:
        self._network = network
        self._target = target
        self._who = who

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if inspect.iscoroutinefunction(value):
            return partial(self._network.call, self._who, name, value)
        if callable(value):
            return partial(self._scope, value)
        return Remote(self._network, value)

    @asynccontextmanager
    async def _scope(
        self, opening: Callable[..., AbstractAsyncContextManager[object]], *args: object, **kwargs: object
    ) -> AsyncIterator[Remote]:
        # Workers and listeners are opened with an argument, which says whose they are.
        async with opening(*args, **kwargs) as role:
            yield Remote(self._network, role, str(args[0]) if args else "")


def plain(value: object) -> object:
    """`value` in plain tuples, without encoded bytes."""
    if isinstance(value, (list, tuple)):
        return tuple(map(plain, value))
    if is_dataclass(value):
        contents = (getattr(value, field.name) for field in fields(value))
        return tuple(plain(content) for content in contents if not isinstance(content, bytes))
    return value


def _lost(name: str) -> BrokerError:
    return BrokerError(f"{name}: the connection was lost (simulated)", retryable=True)
