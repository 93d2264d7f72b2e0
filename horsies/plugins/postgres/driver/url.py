"""Which database a URL means, in words that may be shown."""

from __future__ import annotations

import math
import re
from typing import Any
from urllib.parse import unquote_to_bytes

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo

from horsies import HorsiesError

from .hosts import LEAST, listed

_FORCED = {"client_encoding": "UTF8"}
"""Goes before the URL, the environment, the role and the database. A pooler lets it pass."""
_DEFAULTS = {
    "fallback_application_name": "horsies",
    # A peer that vanished without a word is noticed within a minute, whether we wait for it or write to it.
    "keepalives": "1",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
_PORTS = re.compile(r"[0-9, ]*\Z")
_STRAY_AT = re.compile(r"\w+://(?:[^@/]*@)?+(?:[^?]*@|.*[?&](?:(?:host|dbname)=[^&@]+@|user=[^&@]+@[^&]*/))", re.DOTALL)


def read_url(url: str) -> dict[str, Any]:
    """The libpq parameters of `url`, if it is certain where a password in it ends.

    Raises:
        psycopg.ProgrammingError: `url` cannot be read. It is not shown: libpq's own message may repeat a password.
    """
    try:
        parameters = conninfo_to_dict(url)
        int(float(parameters.get("connect_timeout") or 0))
        # A password with an unescaped / or @ ends up in the port, the host or the database, which errors name.
        is_clear = _PORTS.match(str(parameters.get("port") or "")) and not _STRAY_AT.match(url)
    except (psycopg.Error, ValueError, OverflowError):
        is_clear = False
    if not is_clear:
        raise psycopg.ProgrammingError(
            "the database URL cannot be read: it should look like postgresql://user@host:5432/database?option=value, "
            "with special characters percent-encoded, or like host=... dbname=..."
        ) from None
    return parameters


def connect_parameters(url: str, timeout: float) -> dict[str, Any]:
    """The libpq parameters of `url` (a URI or `key=value` pairs) with horsies' defaults beneath them.

    Args:
        url: anything libpq reads, without host as well.
        timeout: seconds for one host; libpq counts whole ones, at least 2. A shorter `connect_timeout` of `url` stays.

    Raises:
        psycopg.ProgrammingError: `url` cannot be read.
    """
    parameters = read_url(url)
    bound = max(LEAST, math.ceil(timeout))
    stated = int(float(parameters.get("connect_timeout") or 0))
    return {
        **_DEFAULTS,
        **parameters,
        **_FORCED,
        "connect_timeout": min(stated, bound) if stated > 0 else bound,
    }


def time_to_connect(parameters: dict[str, Any], timeout: float) -> float:
    """Seconds for all hosts of `parameters` together: `timeout`, or more where each would get less than `LEAST`."""
    hosts = listed(parameters)
    return timeout if hosts == 1 else max(timeout, hosts * LEAST)


def destination(parameters: dict[str, Any]) -> str:
    """Where `parameters` lead, fit to be shown."""
    host = parameters.get("host") or parameters.get("hostaddr") or "the local socket"
    return f"host {host}, port {parameters.get('port', 'default')}, database {parameters.get('dbname', 'default')}"


def require_conninfo(field: str, url: str) -> None:
    """Raise HRS-203 unless it is certain what `url` means; libpq's own message would quote parts of it."""
    try:
        read_url(url)
    except psycopg.ProgrammingError:
        raise HorsiesError(
            "HRS-203",
            f"{field} cannot be read as a PostgreSQL URL",
            [
                "it looks like postgresql://role:password@host:5432/database?sslmode=require",
                "write special characters in a part as %XX, in a password above all: / as %2F, @ as %40",
                "a port is a number; options after ? are libpq's",
            ],
        ) from None


def describe(url: str) -> str:
    """Host, role, database and TLS, as libpq fills them in from the environment too."""
    given = {option.keyword.decode(): (option.val or b"").decode() for option in Conninfo.get_defaults()}
    try:
        given |= {key: str(value) for key, value in read_url(url).items()}
    except psycopg.ProgrammingError:
        return "a database URL that cannot be read"
    host = given.get("host") or given.get("hostaddr") or "local socket"
    role = given.get("user") or "?"
    port, database, tls = given.get("port"), given.get("dbname") or role, given.get("sslmode")
    return f"host {host}, port {port}, role {role}, database {database}, TLS {tls}"


def require_text(field: str, url: str) -> None:
    """Raise HRS-203 unless everything in `url`, and what libpq adds from the environment, is UTF-8."""
    try:
        unquote_to_bytes(url).decode()
    except UnicodeDecodeError:
        what = f"{field} holds bytes that are not UTF-8, written as %XX"
        raise HorsiesError("HRS-203", what, ["write each byte of the UTF-8 form as %XX, for example %C3%BC"]) from None
    for option in Conninfo.get_defaults():
        try:
            (option.val or b"").decode()
        except UnicodeDecodeError:
            variable = (option.envvar or option.keyword).decode()
            what = f"the environment variable {variable} holds bytes that are not UTF-8"
            raise HorsiesError("HRS-203", what, ["libpq reads it; unset it, or write it in UTF-8"]) from None
