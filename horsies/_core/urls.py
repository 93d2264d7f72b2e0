"""Database URLs: which broker they name, and how to show them without a password."""

from __future__ import annotations

import re

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_USER_INFO = re.compile(r"(?<=://)[^/?#]*@")
_PASSWORD_PAIR = re.compile(r"(?i)\b(password|sslpassword|passfile)(\s*=\s*)('(?:[^'\\]|\\.)*'|[^&\s#]*)")


def scheme_of(url: str) -> str | None:
    """The scheme in lower case (`postgres` is `postgresql`), or None when `url` has none."""
    match = _SCHEME.match(url)
    if match is None:
        return None
    scheme = match[1].lower()
    return "postgresql" if scheme == "postgres" else scheme


def masked(url: str) -> str:
    """`url` (or a libpq connection string) with its user info and passwords replaced by `***`."""
    return _PASSWORD_PAIR.sub(r"\1\2***", _USER_INFO.sub("***@", url))
