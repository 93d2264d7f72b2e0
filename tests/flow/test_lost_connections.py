"""The server ends connections for reasons of its own: the work goes on over new ones."""

from __future__ import annotations

import anyio
import psycopg
import pytest

from horsies import AppConfig, Horsies, Ok, RecoveryConfig, ResilienceConfig, Runtime

pytestmark = pytest.mark.anyio


async def test_a_session_that_the_server_ends_for_being_idle_is_replaced(postgres_url: str, schema: str) -> None:
    """57P05 is no code that was ever on a list of those that pass; FATAL says enough."""
    app = Horsies(
        AppConfig.for_database_url(
            f"{postgres_url}&options=-c%20idle_session_timeout%3D100",
            schema=schema,
            resilience=ResilienceConfig(retry_initial=0.02, retry_max=0.1),
            recovery=RecoveryConfig(heartbeat_interval=0.5, dead_after=5.0),
        )
    )

    @app.task
    async def double(n: int) -> int:
        return 2 * n

    async with Runtime(app) as rt:
        worker = rt.start_worker()
        for n in range(4):
            answer = await double.handle(rt).send(n)
            while answer.is_err():
                assert answer.unwrap_err().retryable, answer
                answer = await double.handle(rt).retry_send(answer.unwrap_err())
            assert await answer.unwrap().get(timeout=20) == Ok(2 * n)
            await anyio.sleep(0.3)  # longer than a session may be idle
        assert worker.is_ready


async def test_a_role_whose_password_no_longer_fits_is_tried_again(
    postgres_url: str, schema: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The server refuses every new connection of the role, and ends the old ones. Later it takes them again."""
    role = f"role_{schema}"
    with psycopg.connect(postgres_url, autocommit=True) as owner:
        owner.execute(f"CREATE ROLE {role} SUPERUSER LOGIN".encode())
        url = postgres_url.replace("postgres:@", f"{role}:@")
        assert url != postgres_url
        app = Horsies(
            AppConfig.for_database_url(
                url, schema=schema, resilience=ResilienceConfig(retry_initial=0.02, retry_max=0.1, poll_interval=0.2)
            )
        )

        @app.task
        async def double(n: int) -> int:
            return 2 * n

        async with Runtime(app) as rt:
            worker = rt.start_worker()
            assert await (await double.handle(rt).send(1)).unwrap().get(timeout=20) == Ok(2)
            owner.execute(f"ALTER ROLE {role} NOLOGIN".encode())
            owner.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", (role,))
            answer = await double.handle(rt).send(2)
            assert answer.unwrap_err().retryable
            with anyio.fail_after(20):
                while "is not permitted to log in; trying again" not in " ".join(caplog.text.split()):
                    await anyio.sleep(0.02)
            owner.execute(f"ALTER ROLE {role} LOGIN".encode())
            with anyio.fail_after(20):
                while answer.is_err():
                    answer = await double.handle(rt).retry_send(answer.unwrap_err())
            assert await answer.unwrap().get(timeout=20) == Ok(4)
            assert worker.is_ready
