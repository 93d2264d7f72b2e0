"""Database URLs: which broker they name, and how to show them without a secret."""

from __future__ import annotations

import re

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_HIDDEN = "***"
_SHOWN = frozenset(
    {"application_name", "connect_timeout", "dbname", "host", "hostaddr", "port", "sslmode", "target_session_attrs"}
)
"""The options whose values are shown. Every other one may hold a secret: `passfile`, `options`, one not known yet."""

# As libpq splits what follows the scheme: a password may hold ? and #, and ends at the first @ before any slash.
_PARTS = re.compile(
    r"""
    (?P<credentials>[^@/]*@)?+
    (?P<hosts>(?:\[[^]]+\]|[^][:/?,@]*)(?::\d*)?(?:,(?:\[[^]]+\]|[^][:/?,@]*)(?::\d*)?)*)
    (?P<path>/[^?]*)?
    (?:\?(?P<options>.*))?
    \Z
    """,
    re.VERBOSE | re.DOTALL,
)
_PLAIN = re.compile(r"[\w .,:/+%\[\]-]*\Z")
"""Hosts, paths and values that are shown. An @ is not among them: it says that a password has not ended before it."""
_FILE = re.compile(r"(/[^?]*|:memory:)(\?.*)?\Z", re.DOTALL)
_CREDENTIALS_IN_FILE = re.compile(r":[^/]*@")


def scheme_of(url: str) -> str | None:
    """The scheme in lower case (`postgres` is `postgresql`), or None when `url` has none."""
    match = _SCHEME.match(url)
    if match is None:
        return None
    scheme = match[1].lower()
    return "postgresql" if scheme == "postgres" else scheme


def masked(url: str) -> str:
    """`url` with its hosts, its path and its harmless options; `***` stands for everything else.

    If it is not certain where a password ends, only the scheme is shown.
    """
    match = _SCHEME.match(url)
    if match is None:
        return _HIDDEN
    rest = url[match.end() :]
    shown = _masked_file(rest) if match[1].lower() == "sqlite" else _masked_parts(rest)
    return f"{match[1]}://{shown}"


def _masked_parts(rest: str) -> str:
    parts = _PARTS.match(rest)
    if parts is None:
        return _HIDDEN
    shown, hides = _shown_options(parts["options"] or "")
    path = parts["path"] or ""
    if not all(map(_PLAIN.match, (parts["hosts"], path, *shown.values()))):
        return _HIDDEN
    options = [f"{key}={value}" for key, value in shown.items()] + [_HIDDEN] * hides
    credentials = f"{_HIDDEN}@" if parts["credentials"] else ""
    return f"{credentials}{parts['hosts']}{path}" + (f"?{'&'.join(options)}" if options else "")


def _shown_options(text: str) -> tuple[dict[str, str], bool]:
    """The harmless options, and whether there are others."""
    options = [option.partition("=") for option in text.split("&") if option]
    shown = {key: value for key, _, value in options if key in _SHOWN}
    return shown, any(key not in _SHOWN for key, _, _ in options)


def _masked_file(rest: str) -> str:
    match = _FILE.match(rest)
    if match is None or _CREDENTIALS_IN_FILE.search(match[1]) or not match[1].isprintable():
        return _HIDDEN
    return match[1] + (f"?{_HIDDEN}" if match[2] else "")
