"""What ends a pause between two tries, and what does not; in simulated time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random

import anyio
import pytest
import trio
import trio.testing

from horsies import BrokerError, ResilienceConfig
from horsies._send.contact import Backoff, Contact

LOST = BrokerError("gone", retryable=True)
REFUSED = BrokerError("no privilege", code="42501")
MAX = 8.0


def play(body: Callable[[Contact], Awaitable[float]]) -> float:
    contact = Contact(ResilienceConfig(retry_initial=1.0, retry_max=MAX), Random(1))
    return trio.run(body, contact, clock=trio.testing.MockClock(autojump_threshold=0))


async def answer_often(contact: Contact, every: float) -> None:
    while True:
        await anyio.sleep(every)
        contact.answered()


def test_the_first_answer_to_another_loop_ends_the_pause() -> None:
    async def body(contact: Contact) -> float:
        async with anyio.create_task_group() as group:
            group.start_soon(answer_often, contact, 0.01)
            await contact.backoff().pause(600.0, LOST)
            group.cancel_scope.cancel()
        return anyio.current_time()

    assert play(body) == pytest.approx(0.01)


def test_an_answer_before_the_failure_does_not() -> None:
    async def body(contact: Contact) -> float:
        contact.answered()
        await contact.backoff().pause(5.0, LOST)
        return anyio.current_time()

    assert play(body) == pytest.approx(5.0)


def test_what_the_database_refuses_waits_whoever_else_is_answered() -> None:
    async def body(contact: Contact) -> float:
        async with anyio.create_task_group() as group:
            group.start_soon(answer_often, contact, 0.01)
            await contact.backoff().pause(5.0, REFUSED)
            group.cancel_scope.cancel()
        return anyio.current_time()

    assert play(body) == pytest.approx(5.0)


@pytest.mark.parametrize("takes", [0.0, 0.5])
def test_what_fails_beside_others_that_succeed_is_tried_less_and_less_often(takes: float) -> None:
    tries: list[float] = []

    async def fail(contact: Contact, backoff: Backoff) -> None:
        while True:
            await anyio.sleep(takes)
            tries.append(anyio.current_time())
            await backoff.pause(backoff.next_pause(), LOST)

    async def body(contact: Contact) -> float:
        with anyio.move_on_after(100):
            async with anyio.create_task_group() as group:
                group.start_soon(answer_often, contact, 0.001)
                await fail(contact, contact.backoff())
        return anyio.current_time()

    play(body)
    assert len(tries) < 25
    assert tries[-1] - tries[-2] >= MAX * 0.75


def test_a_try_that_began_before_the_first_answer_is_repeated_soon() -> None:
    """It failed just after the others saw the database again, and they may have nothing more to ask."""

    async def body(contact: Contact) -> float:
        backoff = contact.backoff()
        for _ in range(5):
            await backoff.pause(backoff.next_pause(), LOST)
        contact.answered()
        before = anyio.current_time()
        await backoff.pause(backoff.next_pause(), LOST)
        return anyio.current_time() - before

    assert play(body) <= 1.25


def test_a_first_failure_after_an_outage_that_others_saw_end_is_no_reason_to_pause() -> None:
    """It is of that outage: a connection that was idle, or a try that took long. Nobody may ask anything more."""

    async def body(contact: Contact) -> float:
        late = contact.backoff()
        late.answered()
        async with anyio.create_task_group() as group:
            group.start_soon(contact.backoff().pause, 600.0, LOST)
            await anyio.wait_all_tasks_blocked()
            contact.answered()
        await late.pause(600.0, LOST)
        before = anyio.current_time()
        await late.pause(5.0, LOST)
        assert anyio.current_time() - before == pytest.approx(5.0)
        return before

    assert play(body) == pytest.approx(0.0)
