"""Several hosts, or several addresses of one host: each gets a share of the time, and the writable one is wanted.

A host that drops packets never refuses, so that waiting for it as long as allowed would leave nothing for the others.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Callable
from time import monotonic
from typing import Any, TypeVar

import psycopg

T = TypeVar("T")

LEAST = 2
"""Seconds that each host gets at least; libpq takes a `connect_timeout` of 1 for 2."""

_ELSEWHERE = "service", "PGSERVICE"
"""What names hosts in a file that is not read here."""


def listed(parameters: dict[str, Any]) -> int:
    """The number of hosts that `parameters` or the environment name."""
    names = (str(parameters.get(key) or os.environ.get(variable) or "") for key, variable in _HOST_KEYS)
    return max(name.count(",") + 1 for name in names)


_HOST_KEYS = ("host", "PGHOST"), ("hostaddr", "PGHOSTADDR")


def connected(connect: Callable[..., T], parameters: dict[str, Any], patience: float) -> T:
    """Call `connect` with `parameters`, within about `patience` seconds for all hosts and addresses together.

    In a first round each gets `LEAST` seconds, which is plenty for one that is there. If one did not answer, the time
    that is left is shared in a second round.

    Raises:
        psycopg.Error: none of them takes the connection.
    """
    parameters, count = _resolved(parameters)
    if count == 1:
        return connect(**parameters)
    began = monotonic()
    stated = parameters.pop("connect_timeout")
    try:
        return connect(**parameters, connect_timeout=LEAST)
    except psycopg.OperationalError:
        took = monotonic() - began
        share = min(stated, int((patience - took) / count))
        if took < LEAST or share <= LEAST:
            raise
    return connect(**parameters, connect_timeout=share)


def _resolved(parameters: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """`parameters` with every address of their hosts, and the number of these."""
    if parameters.get(_ELSEWHERE[0]) or os.environ.get(_ELSEWHERE[1]):
        return dict(parameters), 1
    hosts, addresses, ports = (
        str(parameters.get(key) or os.environ.get(variable) or "").split(",")
        for key, variable in (*_HOST_KEYS, ("port", "PGPORT"))
    )
    count = max(len(hosts), len(addresses))
    given = [values * count if len(values) == 1 else values for values in (hosts, addresses, ports)]
    if any(len(values) != count for values in given):
        return dict(parameters), 1  # libpq says which number does not match
    places = list(dict.fromkeys(place for each in zip(*given, strict=True) for place in _addresses(*each)))
    if len(places) == 1:
        return dict(parameters), 1
    found = dict(parameters) | {
        key: ",".join(place[index] for place in places) for index, key in enumerate(("host", "hostaddr", "port"))
    }
    # One host with an address of each family is one server, which may be read from even if it only reads.
    families = Counter(":" in address for _, address, _ in places)
    if count > 1 or max(families.values()) > 1:
        found.setdefault("target_session_attrs", os.environ.get("PGTARGETSESSIONATTRS") or "read-write")
    return found, len(places)


def _addresses(host: str, address: str, port: str) -> list[tuple[str, str, str]]:
    if address or not host or host.startswith(("/", "@")):
        return [(host, address, port)]
    try:
        found = socket.getaddrinfo(host, port or None, proto=socket.IPPROTO_TCP, type=socket.SOCK_STREAM)
    except OSError:
        return [(host, "", port)]  # connecting says what is wrong with it
    return [(host, str(one[4][0]), port) for one in found]


def scrubbed(error: psycopg.Error, parameters: dict[str, Any]) -> psycopg.Error:
    """`error`, or one like it that repeats no secret of `parameters`: servers quote words of `options`."""
    options = (word.rpartition("=")[2] for word in str(parameters.get("options") or "").split())
    secrets = {str(parameters.get(key) or "") for key in ("password", "sslpassword", "oauth_client_secret")}
    said = str(error)
    for secret in sorted({*secrets, *options}, key=len, reverse=True):
        if len(secret) >= _LEAST_SECRET:
            said = said.replace(secret, "***")
    return error if said == str(error) else type(error)(said)


_LEAST_SECRET = 4
"""Characters. What is shorter occurs in any message."""
