"""A serializer nobody needs: JSON with every letter moved by thirteen."""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping
from typing import cast

from horsies import hookimpl
from horsies.abc import Plain, Serializer


class Rot13Serializer:
    def dumps(self, value: Plain) -> bytes:
        return codecs.encode(json.dumps(value, ensure_ascii=True), "rot13").encode()

    def loads(self, data: bytes) -> Plain:
        return cast(Plain, json.loads(codecs.decode(data.decode(), "rot13")))


@hookimpl
def horsies_serializers() -> Mapping[str, Serializer]:
    return {"rot13": Rot13Serializer()}
