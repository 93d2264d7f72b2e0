"""Health probes: what they are told, what nonsense they survive, and a real worker's readiness."""

from __future__ import annotations

import errno
import json
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import anyio.abc
import pytest

from horsies import HorsiesError
from horsies.cli import health as module
from horsies.cli.health import Health, health_of, response, serving

from .shell import both_loops, once
from .yard import Yard, eventually, free_ports

READY = Health(True, True, {"state": "ready"})
DRAINING = Health(True, False, {"state": "draining"})
STOPPED = Health(False, False, {"state": "stopped"})


def answered(head: bytes, health: Health = READY) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the response to `head`."""
    raw, _, body = response(head, lambda: health).partition(b"\r\n\r\n")
    status, *lines = raw.decode().split("\r\n")
    assert status.startswith("HTTP/1.1 ")
    return int(status.split(" ")[1]), dict(line.split(": ", 1) for line in lines), body


class TestResponse:
    @pytest.mark.parametrize(
        ("health", "livez", "readyz"), [(READY, 200, 200), (DRAINING, 200, 503), (STOPPED, 503, 503)]
    )
    def test_says_how_it_is(self, health: Health, livez: int, readyz: int) -> None:
        for path, expected in ((b"livez", livez), (b"readyz", readyz)):
            status, headers, body = answered(b"GET /" + path + b" HTTP/1.1\r\nHost: x\r\n\r\n", health)
            assert status == expected
            assert json.loads(body) == health.body
            assert headers["Content-Length"] == str(len(body))
            assert headers["Content-Type"] == "application/json"
            assert headers["Connection"] == "close"

    def test_head_is_get_without_the_body(self) -> None:
        status, headers, body = answered(b"HEAD /readyz?verbose HTTP/1.0\r\n\r\n")
        assert (status, body) == (200, b"")
        assert headers == answered(b"GET /readyz HTTP/1.1\r\n\r\n")[1]

    @pytest.mark.parametrize("path", [b"/", b"/livezz", b"/livez/", b"*", b"http://x/livez"])
    def test_there_is_nothing_else(self, path: bytes) -> None:
        assert answered(b"GET " + path + b" HTTP/1.1\r\n\r\n")[0] == 404

    @pytest.mark.parametrize("method", [b"POST", b"get", b"", b"DELETE"])
    def test_probes_only_ask(self, method: bytes) -> None:
        status, headers, _ = answered(method + b" /livez HTTP/1.1\r\n\r\n")
        assert (status, headers["Allow"]) == (405, "GET, HEAD")

    @pytest.mark.parametrize("target", [b"/", b"/livez", b"/readyz"])
    def test_head_never_has_a_body(self, target: bytes) -> None:
        assert answered(b"HEAD " + target + b" HTTP/1.1\r\n\r\n", DRAINING)[2] == b""

    def test_health_that_cannot_be_told_is_an_answer(self, caplog: pytest.LogCaptureFixture) -> None:
        def failing() -> Health:
            raise LookupError("gone")

        assert response(b"GET /livez HTTP/1.1\r\n\r\n", failing).startswith(b"HTTP/1.1 500 ")
        assert answered(b"GET /livez HTTP/1.1\r\n\r\n", Health(True, True, {"state": object()}))[0] == 500
        assert "cannot be told" in caplog.text

    @pytest.mark.parametrize(
        "head",
        [
            b"",
            b"\r\n\r\n",
            b"GET",
            b"GET /livez",
            b"GET /livez HTTP/2",
            b"GET /livez HTTP/1.1 x",
            b"\xff\x00 \xfe \xfd",
        ],
    )
    def test_nonsense_is_refused(self, head: bytes) -> None:
        assert answered(head)[0] == 400


def test_a_process_without_a_worker_yet_lives_and_is_not_ready() -> None:
    assert health_of(None, stopped=False) == Health(True, False, {"worker_id": None, "state": "starting"})
    assert health_of(None, stopped=True) == Health(False, False, {"worker_id": None, "state": "stopped"})


@asynccontextmanager
async def server() -> AsyncIterator[Callable[[], Any]]:
    """A server of probes; what it gives connects to it."""
    port = free_ports(1)

    async def connect() -> anyio.abc.SocketStream:
        return await anyio.connect_tcp("127.0.0.1", port)

    with anyio.fail_after(20):
        async with serving("127.0.0.1", port, lambda: READY):
            yield connect


async def everything(stream: anyio.abc.SocketStream) -> bytes:
    received = b""
    try:
        async for chunk in stream:
            received += chunk
    except anyio.BrokenResourceError:  # closed with bytes of ours unread
        pass
    return received


async def probe(connect: Callable[[], Any], request: bytes = b"GET /livez HTTP/1.1\r\n\r\n") -> bytes:
    async with await connect() as stream:
        if request:
            await stream.send(request)
        return await everything(stream)


@pytest.mark.anyio
class TestServer:
    async def test_answers_however_the_request_is_cut(self) -> None:
        async with server() as connect, await connect() as stream:
            for part in (b"G", b"ET /livez HT", b"TP/1.1\r\nHost: x\r\n\r", b"\n"):
                await stream.send(part)
                await anyio.wait_all_tasks_blocked()
            assert (await everything(stream)).startswith(b"HTTP/1.1 200 OK\r\n")

    async def test_a_request_without_end_is_refused(self) -> None:
        async with server() as connect:
            assert b"200" not in await probe(connect, b"GET /livez HTTP/1.1\r\n" + b"X: y\r\n" * 100_000)
            assert b"200 OK" in await probe(connect)

    async def test_a_slow_client_is_let_go(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "PATIENCE", 0.2)
        async with server() as connect, await connect() as stream:
            await stream.send(b"GET /livez")
            assert await everything(stream) == b""

    async def test_clients_that_leave_harm_nobody(self) -> None:
        async with server() as connect:
            for request in (b"", b"GET", b"GET /livez HTTP/1.1\r\n\r\n"):
                async with await connect() as stream:
                    if request:
                        await stream.send(request)
            assert b"200 OK" in await probe(connect)

    async def test_silent_clients_take_a_bounded_number_of_places_and_not_for_ever(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "MOST_CONNECTIONS", 3)
        monkeypatch.setattr(module, "PATIENCE", 1.0)
        async with server() as connect:
            async with await connect(), await connect(), await connect() as silent:
                assert await probe(connect, b"") == b""  # closed without a word
                assert await everything(silent) == b""
            assert b"200 OK" in await probe(connect)

    async def test_idle_connections_keep_no_probe_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "PATIENCE", 1_000.0)
        async with server() as connect, AsyncExitStack() as idle:
            for number in range(3 * module.MOST_CONNECTIONS):
                stream = await idle.enter_async_context(await connect())
                if number % 2:
                    await stream.send(b"GET /live")
            for _ in range(3):
                assert b"200 OK" in await probe(connect)

    async def test_a_listener_out_of_descriptors_closes_the_oldest(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "PATIENCE", 1_000.0)

        class Exhausted:
            async def serve(self, handler: object, group: object) -> None:
                raise OSError(errno.EMFILE, "Too many open files")

        ours, theirs = socket.socketpair()
        stream = await anyio.abc.SocketStream.from_socket(ours)
        probing = module._Server(lambda: READY, None)  # type: ignore[arg-type]  # its listener starts no tasks
        with anyio.fail_after(20):
            async with await anyio.abc.SocketStream.from_socket(theirs) as client, anyio.create_task_group() as group:
                group.start_soon(probing.serve, stream)
                await anyio.wait_all_tasks_blocked()
                group.start_soon(probing.listen, Exhausted())
                assert await everything(client) == b""
                group.cancel_scope.cancel()

    async def test_a_client_that_keeps_what_it_has_asked_open_keeps_no_probe_out(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "MOST_CONNECTIONS", 3)
        monkeypatch.setattr(module, "LINGER", 1_000.0)
        async with server() as connect, AsyncExitStack() as kept:
            for _ in range(6):
                stream = await kept.enter_async_context(await connect())
                await stream.send(b"GET /livez HTTP/1.1\r\n\r\n")
                assert b"200 OK" in await everything(stream)

    async def test_the_answer_arrives_although_more_was_sent(self) -> None:
        pipelined = b"GET /livez HTTP/1.1\r\n\r\n" * 3_000
        endless = b"GET /livez HTTP/1.1\r\n" + b"X: y\r\n" * 20_000
        with_a_body = b"POST /livez HTTP/1.1\r\nContent-Length: 99999\r\n\r\n" + b"x" * 99_999
        async with server() as connect:
            for request, status in ((pipelined, b"200"), (endless, b"400"), (with_a_body, b"405")):
                answer = await probe(connect, request)
                assert answer.startswith(b"HTTP/1.1 " + status)
                assert answer.count(b"HTTP/1.1") == 1

    async def test_a_client_that_has_closed_its_half_is_answered(self) -> None:
        async with server() as connect, await connect() as stream:
            await stream.send(b"GET /livez HTTP/1.1\r\n\r\n")
            await stream.send_eof()
            assert b"200 OK" in await everything(stream)

    async def test_a_port_in_use_is_one_error(self) -> None:
        port = free_ports(1)
        async with serving("127.0.0.1", port, lambda: READY):
            with pytest.raises(HorsiesError, match=f"port {port}: Address already in use") as caught:
                async with serving("127.0.0.1", port, lambda: READY):
                    pytest.fail("two listen at one port")
        assert caught.value.code == "HRS-206"

    @pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1", "a" * 300, "not an address"])
    async def test_a_host_that_is_not_here_is_one_error(self, host: str) -> None:
        with pytest.raises(HorsiesError, match="HRS-206"):
            async with serving(host, free_ports(1), lambda: READY):
                pytest.fail("nobody can listen there")


def asked(port: int, path: str) -> tuple[int, dict[str, Any]] | None:
    """Status and body; None while nobody listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)
    except OSError:
        return None


def state(port: int) -> str | None:
    answer = asked(port, "readyz")
    return None if answer is None else answer[1]["state"]


@once
@both_loops
def test_a_worker_is_ready_until_it_drains(yard: Yard, backend: str) -> None:
    port = free_ports(1)
    yard.send("held", (1,))
    with yard.worker("--health-port", str(port), "--backend", backend, "--name", "mule") as started:
        [pid] = started.holders(1)
        eventually(lambda: state(port) == "ready", "ready")
        status, body = asked(port, "readyz") or (0, {})
        assert status == 200
        assert body["worker_id"].startswith(f"mule:{pid}:")
        assert body["counts"]["running"] == body["counts"]["claimed"] == 1
        started.process.send_signal(signal.SIGTERM)
        eventually(lambda: state(port) == "draining", "draining")
        assert (asked(port, "readyz") or (0,))[0] == 503
        assert (asked(port, "livez") or (0,))[0] == 200
        yard.release()
        assert started.end() == 0
    assert asked(port, "livez") is None


@once
@both_loops
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_waits_for_its_database_lives_and_leaves_when_told(
    yard: Yard, backend: str, number: signal.Signals
) -> None:
    port = free_ports(1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        yard.shell.env["HORSIES_DATABASE_URL"] = f"postgresql://127.0.0.1:{silent.getsockname()[1]}/x"
        with yard.worker("--health-port", str(port), "--backend", backend) as started:
            eventually(lambda: state(port) == "starting", "starting")
            assert (asked(port, "livez") or (0,))[0] == 200
            assert (asked(port, "readyz") or (0,))[0] == 503
            started.process.send_signal(number)
            assert started.end() == 0
    assert started.log == ""


@once
def test_each_process_has_a_port_of_its_own(yard: Yard) -> None:
    port = free_ports(2)
    with yard.worker("--processes", "2", "--health-port", str(port), "-v") as started:
        for number in (0, 1):
            eventually(lambda: state(port + number) == "ready", f"{number} ready")  # noqa: B023  # called in this round
        ids = [(asked(port + number, "livez") or (0, {}))[1]["worker_id"].split(":")[1] for number in (0, 1)]
        assert {int(pid) for pid in ids} == set(started.pids())
        started.process.send_signal(signal.SIGTERM)
        assert started.end() == 0


@once
@both_loops
def test_a_port_in_use_is_wrong_usage(yard: Yard, backend: str) -> None:
    port = free_ports(1)
    with yard.worker("--health-port", str(port)) as started:
        eventually(lambda: state(port) == "ready", "ready")
        done = yard.shell.run("worker", "yard:app", "--health-port", str(port), "--backend", backend)
        assert (done.returncode, done.stdout) == (2, "")
        assert "HRS-206" in done.stderr
        assert f"port {port}: Address already in use" in done.stderr
        assert "Traceback" not in done.stderr
        started.process.send_signal(signal.SIGTERM)
        assert started.end() == 0
