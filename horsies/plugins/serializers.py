"""The serializers that ship with horsies: msgpack, the default, and json."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import cast

import msgspec

from horsies import hookimpl
from horsies.abc import Plain, Serializer

BYTES_KEY = "$bytes"
"""How JSON, which has no bytes, holds them: `{"$bytes": "<base64>"}`. Keys that begin so get another `$` in front."""


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
        return {f"${k}" if k.endswith(BYTES_KEY) and k.strip("$") == "bytes" else k: _marked(v) for k, v in value.items()}
    return value


def _unmarked(value: Plain) -> Plain:
    if isinstance(value, list):
        return [_unmarked(item) for item in value]
    if isinstance(value, dict):
        coded = value.get(BYTES_KEY)
        if len(value) == 1 and isinstance(coded, str):
            return base64.b64decode(coded, validate=True)
        return {k[1:] if k.endswith("$" + BYTES_KEY) and k.strip("$") == "bytes" else k: _unmarked(v) for k, v in value.items()}
    return value


@hookimpl
def horsies_serializers() -> Mapping[str, Serializer]:
    return {"msgpack": MsgpackSerializer(), "json": JsonSerializer()}
