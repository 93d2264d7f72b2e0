"""Health of a worker process over HTTP, for probes: `GET /livez` and `GET /readyz`.

The server lives on the worker's own event loop, so that an answer proves that the loop turns. It is no web server: one
request a connection, answered from memory, bounded in size, time and number, and nothing that a client sends or fails
to send ends more than its own connection.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass

import anyio
import anyio.abc

from horsies import HorsiesError, Worker

logger = logging.getLogger("horsies.health")

LONGEST_REQUEST = 8192
"""Bytes of a request's head."""
PATIENCE = 5.0
"""Seconds for one connection, from its first byte to its last."""
MOST_CONNECTIONS = 64
"""Connections at once; further ones are closed at once."""
ACCEPT_PAUSE = 1.0
"""Seconds before the next connection is accepted after one could not be, for want of file descriptors say."""

_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


@dataclass(frozen=True, slots=True)
class Health:
    """What probes are told: whether the process is to be left alone, and whether it takes tasks."""

    live: bool
    ready: bool
    body: dict[str, object]


def health_of(worker: Worker | None, *, stopped: bool) -> Health:
    """The health of a process whose worker is `worker`; None while the runtime is still being opened."""
    if worker is None:
        return Health(not stopped, False, {"worker_id": None, "state": "stopped" if stopped else "starting"})
    if stopped:
        state = "stopped"
    elif worker.is_draining:
        state = "draining"
    else:
        state = "ready" if worker.is_ready and not worker.held else "not ready"
    counts = asdict(worker.statistics())
    worker_id = counts.pop("worker_id")
    body = {"worker_id": worker_id, "state": state, "counts": counts}
    return Health(not stopped, state == "ready", body | ({"held": worker.held} if worker.held else {}))


def response(head: bytes, health: Callable[[], Health]) -> bytes:
    """The answer to a request, of which `head` is everything up to the empty line."""
    method, target, version, *more = [*head.partition(b"\r\n")[0].split(b" "), b"", b""]
    if not version.startswith(b"HTTP/1.") or more != [b"", b""]:
        return _answer(400, {"error": "this is no HTTP/1 request"})
    path = target.partition(b"?")[0]
    if path not in (b"/livez", b"/readyz"):
        return _answer(404, {"error": "there are /livez and /readyz"})
    if method not in (b"GET", b"HEAD"):
        return _answer(405, {"error": "use GET or HEAD"}, "Allow: GET, HEAD")
    now = health()
    fine = now.live if path == b"/livez" else now.ready
    return _answer(200 if fine else 503, now.body, with_body=method == b"GET")


def _answer(status: int, body: dict[str, object], *headers: str, with_body: bool = True) -> bytes:
    content = json.dumps(body).encode() + b"\n"
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
        "Cache-Control: no-store",
        "Connection: close",
        *headers,
        "\r\n",
    )
    return "\r\n".join(head).encode() + (content if with_body else b"")


@asynccontextmanager
async def serving(host: str, port: int, health: Callable[[], Health]) -> AsyncGenerator[None]:
    """Answer probes at `host` and `port` for as long as the block lasts.

    Raises:
        HorsiesError: HRS-206: nobody can listen there.
    """
    try:
        listeners = await anyio.create_tcp_listener(local_host=host, local_port=port)
    except (OSError, OverflowError, UnicodeError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise HorsiesError(
            "HRS-206",
            f"cannot listen for health probes at {host}, port {port}: {cause}",
            [
                "--health-port takes a free port (with --processes N, the first of N free ones in a row)",
                "--health-host takes an address of this machine",
            ],
        ) from None
    async with listeners, anyio.create_task_group() as group:
        server = _Server(health, group)
        for listener in listeners.listeners:
            group.start_soon(server.listen, listener)
        try:
            yield
        finally:
            group.cancel_scope.cancel()


class _Server:
    def __init__(self, health: Callable[[], Health], group: anyio.abc.TaskGroup) -> None:
        self._health = health
        self._group = group
        self._connections = 0

    async def listen(self, listener: anyio.abc.Listener[anyio.abc.SocketStream]) -> None:
        while True:
            try:
                await listener.serve(self.serve, self._group)
            except (OSError, anyio.BrokenResourceError) as error:
                logger.warning("cannot accept a health probe, trying again: %s", error.__cause__ or error)
                await anyio.sleep(ACCEPT_PAUSE)

    async def serve(self, stream: anyio.abc.SocketStream) -> None:
        """Answer one connection and close it."""
        self._connections += 1
        try:
            async with stream:
                if self._connections <= MOST_CONNECTIONS:
                    with anyio.move_on_after(PATIENCE):
                        await stream.send(response(await _head(stream), self._health))
        except (OSError, anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            return  # the client has gone
        finally:
            self._connections -= 1


async def _head(stream: anyio.abc.SocketStream) -> bytes:
    """What the client sends before the empty line; of one that sends too much, nothing."""
    received = b""
    while b"\r\n\r\n" not in received:
        if len(received) >= LONGEST_REQUEST:
            return b""
        received += await stream.receive(LONGEST_REQUEST)
    return received
