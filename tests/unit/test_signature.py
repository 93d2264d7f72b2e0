"""The arguments of a call as bytes and back, by the signature of the task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from codec_samples import SERIALIZERS, Box, Opaque, Point, Tree

import horsies
from horsies import HorsiesError
from horsies._payload.signature import ArgumentError, CorruptError, Signature, describe


def signature_of(fn: Callable[..., Any]) -> Signature:
    return describe(fn, context_type=complex)


class TestSignature:
    def test_what_is_refused_is_named_and_not_shown(self) -> None:
        def f(a: int, b: list[Point] = []) -> None: ...  # noqa: B006  # never changed

        for args in (("SECRET", []), (1, [Point("SECRET")]), (1, ["SECRET"])):
            with pytest.raises(ArgumentError, match=r"argument '[ab]'") as caught:
                signature_of(f).encode(SERIALIZERS["msgpack"], args, {})
            assert "SECRET" not in str(caught.value)

    def test_arguments_behind_a_new_positional_one_keep_their_place(self) -> None:
        def old(a: int, c: int, /) -> None: ...
        def new(a: int, b: int = 5, c: int = 6, /, d: int = 7) -> None: ...

        data = signature_of(old).encode(SERIALIZERS["msgpack"], (1, 2), {})
        assert signature_of(new).decode(SERIALIZERS["msgpack"], data) == ((1, 5, 2), {})

    def test_what_is_wrong_with_a_declaration_is_said_at_once(self) -> None:
        with pytest.raises(HorsiesError) as caught:

            @horsies.task
            async def wrong(a: str | UUID, b: int = None, *, c: Opaque) -> None: ...  # noqa: RUF013  # wrong on purpose

        assert [problem.code for problem in caught.value.problems] == ["HRS-105"] * 3
        assert "'b' of" in str(caught.value)
        assert "default" in str(caught.value)

    def test_annotations_that_name_each_other_are_resolved(self) -> None:
        @dataclass
        class Here:
            value: int

        def f(tree: Tree, box: Box[str | bytes | None], here: Here) -> None:
            assert type(here) is Here

        call = (Tree(1, [Tree(2, [])]), Box(b"x"), Here(3))
        signature = signature_of(f)
        data = signature.encode(SERIALIZERS["json"], call, {})
        assert signature.decode(SERIALIZERS["json"], data) == (
            (),
            dict(zip(("tree", "box", "here"), call, strict=True)),
        )

    def test_a_body_may_use_what_has_no_value_yet(self) -> None:
        """As in an application made by a function, whose tasks send one another."""

        @dataclass
        class Here:
            value: int

        def f(a: int, here: Here) -> int:
            assert type(here) is Here
            return g(a)

        signature = signature_of(f)

        def g(a: int) -> int:
            return f(a, Here(a))

        data = signature.encode(SERIALIZERS["msgpack"], (1, Here(2)), {})
        assert signature.decode(SERIALIZERS["msgpack"], data) == ((), {"a": 1, "here": Here(2)})

    @pytest.mark.parametrize("data", [b"", b"\xc1", b"\x01", b"\x91\x01", b"\x91" * 100_000, b"\x80" * 2])
    def test_bytes_that_no_send_wrote_are_corrupt(self, data: bytes) -> None:
        def f(a: int = 1) -> None: ...

        with pytest.raises(CorruptError):
            signature_of(f).decode(SERIALIZERS["msgpack"], data)
        with pytest.raises(CorruptError):
            signature_of(f).decode(SERIALIZERS["json"], data)

    def test_arguments_that_are_gone_are_named_in_few_words(self) -> None:
        def f(a: int) -> None: ...

        data = SERIALIZERS["msgpack"].dumps({"a": 1, "b" * 10_000: 2})
        with pytest.raises(ArgumentError, match="does not take") as caught:
            signature_of(f).decode(SERIALIZERS["msgpack"], data)
        assert len(str(caught.value)) < 200
