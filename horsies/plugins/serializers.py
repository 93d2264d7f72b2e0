"""The serializers that ship with horsies: msgpack, the default, and json."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import cast

import msgspec

from horsies import hookimpl
from horsies.abc import Plain, Serializer

BYTES_KEY = "$bytes"
"""How JSON, which has no bytes, holds them: `{"$bytes": "<base64>"}`. A key that looks so gets another `$`."""
_LIKE_BYTES_KEY = re.compile(r"\$+bytes\Z")


class MsgpackSerializer:
    """Plain builtins as msgpack."""

    def __init__(self) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder()

    def dumps(self, value: Plain) -> bytes:
        return self._encoder.encode(value)

    def loads(self, data: bytes) -> Plain:
        return cast(Plain, self._decoder.decode(data))


class JsonSerializer:
    """Plain builtins as JSON, for queues that people read."""

    def __init__(self) -> None:
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder()

    def dumps(self, value: Plain) -> bytes:
        return self._encoder.encode(_marked(value))

    def loads(self, data: bytes) -> Plain:
        return _unmarked(self._decoder.decode(data))


def _marked(value: Plain) -> Plain:
    if isinstance(value, bytes):
        return {BYTES_KEY: base64.b64encode(value).decode()}
    if isinstance(value, list):
        return [_marked(item) for item in value]
    if isinstance(value, dict):
        return {f"${key}" if _LIKE_BYTES_KEY.match(key) else key: _marked(item) for key, item in value.items()}
    return value


def _unmarked(value: Plain) -> Plain:
    if isinstance(value, list):
        return [_unmarked(item) for item in value]
    if isinstance(value, dict):
        if BYTES_KEY in value:
            (coded,) = value.values()
            return base64.b64decode(cast(str, coded), validate=True)
        return {key[1:] if _LIKE_BYTES_KEY.match(key) else key: _unmarked(item) for key, item in value.items()}
    return value


@hookimpl
def horsies_serializers() -> Mapping[str, Serializer]:
    return {"msgpack": MsgpackSerializer(), "json": JsonSerializer()}
