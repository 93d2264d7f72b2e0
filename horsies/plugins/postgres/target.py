"""Which database a URL means, in words that may be shown."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo

from horsies import HorsiesError


def require_conninfo(field: str, url: str) -> None:
    """Raise HRS-203 unless libpq can read `url`; its own message would quote parts of it."""
    try:
        conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise HorsiesError(
            "HRS-203",
            f"{field} cannot be read as a PostgreSQL URL",
            [
                "it looks like postgresql://role:password@host:5432/database?sslmode=require",
                "write special characters in a part as %XX; options after ? are libpq's",
            ],
        ) from None


def describe(url: str) -> str:
    """Host, role, database and TLS, as libpq fills them in from the environment too."""
    given = {option.keyword.decode(): (option.val or b"").decode() for option in Conninfo.get_defaults()}
    given |= {key: str(value) for key, value in conninfo_to_dict(url).items()}
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
