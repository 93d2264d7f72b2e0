"""Arrays in Postgres' binary format, made with a few calls for a whole batch.

psycopg dumps an array element by element, in Python, looking each type up and quoting each text; for a batch of a
hundred tasks that takes longer than all else that happens between the worker and its socket. The format is the one of
`array_send` in the server's `arrayfuncs.c`: dimensions, whether there are NULLs, the type of the elements, length and
lower bound; then for each element its length and its bytes, or a length of -1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from struct import Struct, error
from typing import Any

from psycopg import DataError
from psycopg.adapt import AdaptersMap, Buffer, Dumper
from psycopg.pq import Format

from .errors import TooLargeError
from .instants import EPOCH

PARAMETER = re.compile(r"%\((\w+)\)s(?:::(\w+)\[\])?")
"""A parameter in a query, and of what its elements are when it is cast to an array."""
_HEADER = Struct("!iiIii").pack
_EMPTY = Struct("!iiI").pack
_LENGTH = Struct("!i").pack
_NULL = _LENGTH(-1)
_INT8 = Struct("!iq").pack
_FLOAT8 = Struct("!id").pack
_MOST = 2**30 - 2**20
"""Bytes of one value at most. Postgres ends the connection that sends it a message of 1 GiB."""


@lru_cache(maxsize=256)
def _text(value: str) -> bytes:
    # Names, queues and verbs, most of them the same all along.
    data = value.encode()
    return _LENGTH(len(data)) + data


def _bytea(value: bytes) -> bytes:
    length = len(value)
    if length > _MOST:
        raise TooLargeError(f"{length} bytes are more than Postgres takes in one message, {_MOST} at most")
    return _LENGTH(length) + value


def _uuid(value: str) -> bytes:
    return b"\0\0\0\x10" + bytes.fromhex(value.replace("-", ""))


def _int8(value: int) -> bytes:
    return _INT8(8, value)


def _float8(value: float) -> bytes:
    return _FLOAT8(8, value)


def _boolean(value: bool) -> bytes:
    return b"\0\0\0\1\1" if value else b"\0\0\0\1\0"


def _timestamptz(value: datetime) -> bytes:
    since = value - EPOCH  # to divide it by a timedelta takes longer than this
    return _INT8(8, (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds)


class _Array(bytes):
    """An array as it goes over the wire; its subclasses say of what type."""


@dataclass(frozen=True, slots=True)
class _Type:
    oid: int
    element: Callable[[Any], bytes]
    array: type[_Array]
    array_oid: int

    def of(self, values: Iterable[Any]) -> _Array:
        element = self.element
        elements = [_NULL if value is None else element(value) for value in values]
        if not elements:
            return self.array(_EMPTY(0, 0, self.oid))
        return self.array(_HEADER(1, 1, self.oid, len(elements), 1) + b"".join(elements))


def _type(name: str, oid: int, array_oid: int, element: Callable[[Any], bytes]) -> _Type:
    return _Type(oid, element, type(f"_{name}Array", (_Array,), {}), array_oid)


# The numbers are those of the server's catalogue (pg_type.dat), the same in every database.
_TYPES = {
    "boolean": _type("boolean", 16, 1000, _boolean),
    "bytea": _type("bytea", 17, 1001, _bytea),
    "bigint": _type("bigint", 20, 1016, _int8),
    "text": _type("text", 25, 1009, _text),
    "float8": _type("float8", 701, 1022, _float8),
    "timestamptz": _type("timestamptz", 1184, 1185, _timestamptz),
    "uuid": _type("uuid", 2950, 2951, _uuid),
}


def encode_arrays(query: str, parameters: Mapping[str, object]) -> Mapping[str, object]:
    """`parameters` with each list encoded as the type to which `query` casts it: `%(ids)s::uuid[]`.

    Raises:
        psycopg.DataError: an element is not of that type.
    """
    return {
        **parameters,
        **{name: encode_array(name, array, parameters[name]) for name, array in _arrays_of(query).items()},
    }


def encode_array(name: str, array: str, values: Any) -> bytes:
    """The parameter `name` as an array of the type `array`, such as "uuid".

    Raises:
        psycopg.DataError: an element is not of that type, or too large.
    """
    try:
        return _TYPES[array].of(values)
    except (TypeError, ValueError, AttributeError, OverflowError, error):
        raise DataError(f"parameter {name!r} holds something that is not of its type") from None


@lru_cache
def _arrays_of(query: str) -> dict[str, str]:
    return {name: array for name, array in PARAMETER.findall(query) if array}


def register_arrays(adapters: AdaptersMap) -> None:
    """Have a connection take what `encode_arrays` makes."""
    for kind in _TYPES.values():
        adapters.register_dumper(kind.array, _dumper(kind.array_oid))


@lru_cache
def _dumper(array_oid: int) -> type[Dumper]:
    class ArrayDumper(Dumper):
        format = Format.BINARY
        oid = array_oid

        def dump(self, obj: bytes) -> Buffer | None:
            return obj

    return ArrayDumper
