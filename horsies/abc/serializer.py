"""What a serializer plugin implements."""

from __future__ import annotations

from typing import Protocol, TypeAlias

Plain: TypeAlias = "bool | int | float | str | bytes | list[Plain] | dict[str, Plain] | None"
"""What a serializer is given and must give back, equal and of the same types."""


class Serializer(Protocol):
    """Turns plain builtins into bytes and back.

    Equal values must give equal bytes, in every process: the bytes are part of what a replay proves. Dictionaries
    arrive with their keys already in order. Integers fit 64 bits and floats are finite.
    """

    def dumps(self, value: Plain) -> bytes:
        """Raises: any exception, when `value` cannot be written without loss; it becomes VALIDATION_FAILED."""
        ...

    def loads(self, data: bytes) -> Plain:
        """Raises: any exception, when `data` is not what `dumps` wrote."""
        ...
