"""Annotations that stand for others are followed: aliases, type parameters, new types."""

from __future__ import annotations

import sys
import textwrap
import typing
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any, Final, Generic, NewType, TypeVar

import pytest
import typing_extensions

from horsies import Err, HorsiesError, Ok, TaskContext, TaskError, task
from horsies._payload.codec import CodecError, codec_for

T = TypeVar("T")
Dated = TypeVar("Dated", bound=date)
Named = TypeVar("Named", int, str)
Text = typing_extensions.TypeAliasType("Text", str | bytes)
Maybe = typing_extensions.TypeAliasType("Maybe", list[T] | None, type_params=(T,))
Same = typing_extensions.TypeAliasType("Same", T, type_params=(T,))
Result = typing_extensions.TypeAliasType("Result", Ok[int] | Err[TaskError])
Context = typing_extensions.TypeAliasType("Context", TaskContext)
Raw = NewType("Raw", Text)  # type: ignore[valid-newtype]


@dataclass
class Box(Generic[T]):
    value: T


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Text, "a"),
        (Text, b"a"),
        (list[Text], ["a", b"a"]),
        (dict[str, Maybe[Text]], {"a": [b"a"], "b": None}),
        (Maybe[date], [date(2026, 1, 1)]),
        (Same[date], date(2026, 1, 1)),
        (Raw, b"a"),
        (Final[date], date(2026, 1, 1)),
        (Dated, date(2026, 1, 1)),
        (list[Named], [1, "a"]),
        (list[T], [1, "a", None]),
        (Box[Text], Box(b"a")),
        (Box[Maybe[Text]], Box([b"a"])),
        (typing.Annotated[Text, "note"], b"a"),
    ],
)
def test_what_an_annotation_stands_for_decides(annotation: Any, value: Any) -> None:
    codec = codec_for(annotation)
    found = codec.lift(codec.lower(value))
    assert found == value
    assert type(found) is type(value)


def test_what_does_not_fit_what_it_stands_for_is_refused() -> None:
    for annotation, value in ((Text, 1), (Maybe[int], ["a"]), (Dated, "2026-01-01"), (Named, 1.5), (T, date.today())):
        with pytest.raises(CodecError):
            codec_for(annotation).lower(value)


def test_a_result_and_a_context_are_known_by_their_aliases() -> None:
    def fn(ctx: Context, before: Result) -> Result:  # type: ignore[valid-type]
        raise NotImplementedError

    signature = task("t")(fn).signature
    assert signature.takes_context
    assert list(signature.codecs) == ["before"]
    assert signature.codecs["before"].lower(Ok(1)) == {"ok": 1}
    assert signature.returns is int


def test_an_alias_that_cannot_be_evaluated_is_refused_at_the_declaration() -> None:
    broken = typing_extensions.TypeAliasType("broken", "list[Nowhere]")  # type: ignore[misc]  # noqa: F821

    def fn(x: Any) -> None: ...

    fn.__annotations__["x"] = broken
    with pytest.raises(HorsiesError, match=r"HRS-105.*parameter 'x'"):
        task("t")(fn)


def executed(source: str, name: str) -> Any:
    """What a module of this source has under `name`; the source is newer than this file may be."""
    known: list[Any] = [date, Ok, Err, TaskError]
    found: dict[str, Any] = {"__name__": "executed", "Any": Any, **{one.__name__: one for one in known}}
    exec(textwrap.dedent(source), found)
    return found[name]


on_3_12 = pytest.mark.skipif(sys.version_info < (3, 12), reason="`type` and type parameters came with Python 3.12")


@on_3_12
@pytest.mark.parametrize("future", ["", "from __future__ import annotations\n"])
@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("type Text = str | bytes\ndef f(x: Text) -> Text: return x", b"a"),
        ("type Later = Text\ntype Text = str | bytes\ndef f(x: Later) -> Later: return x", b"a"),
        ("type Pair[A, B] = tuple[B, A]\ndef f(x: Pair[date, str]) -> None: ...", ("a", date(2026, 1, 1))),
        ("type Json = dict[str, Json] | list[Json] | str | int | None\ndef f(x: Json) -> None: ...", {"a": [{"b": 1}]}),
        ("def f[T](x: T) -> T: return x", [1]),
        ("def f[T: date](x: T) -> T: return x", date(2026, 1, 1)),
        ("def f[T: (int, str)](x: list[T]) -> None: ...", [1, "a"]),
        ("def f[T](x: dict[str, T | None]) -> None: ...", {"a": None}),
        ("type R = Ok[int] | Err[TaskError]\ndef f(x: R) -> R: return x", Ok(1)),
    ],
)
def test_the_syntax_of_python_3_12_is_followed(future: str, source: str, value: Any) -> None:
    fn: Callable[..., Any] = executed(future + source, "f")
    signature = task("t")(fn).signature
    lowered = signature.codecs["x"].lower(value)
    found = signature.codecs["x"].lift(lowered)
    assert found == value
    assert type(found) is type(value)


@on_3_12
@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("type Broken = list[Nowhere]\ndef f(x: Broken): ...", "Nowhere"),
        ("def f[**P](*args: P.args, **kwargs: P.kwargs): ...", "open-ended"),
        ("type Keys = dict[int, str]\ndef f(x: Keys): ...", "keys are not str"),
        ("class Opaque: ...\ndef f[T: Opaque](x: T): ...", "has no codec"),
    ],
)
def test_what_stands_for_what_cannot_be_sent_is_refused(source: str, why: str) -> None:
    with pytest.raises(HorsiesError, match=r"HRS-105") as caught:
        task("t")(executed(source, "f"))
    assert why in str(caught.value)
