"""Models of pydantic: what validates is sent and comes back, or is refused at the declaration with the reason."""

from __future__ import annotations

import collections
import enum
import time
import typing
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, TypeVar
from zoneinfo import ZoneInfo

import pydantic
import pytest
from pydantic import AliasChoices, AliasGenerator, AliasPath, BaseModel, ConfigDict, Field, RootModel

from horsies import HorsiesError, task
from horsies._payload.codec import CodecError, codec_for

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"


class Plain(BaseModel):
    a: int = Field(alias="A")


class OneWay(BaseModel):
    a: int = Field(validation_alias="A")


class TwoNames(BaseModel):
    a: int = Field(validation_alias="A", serialization_alias="aOut")


class Choices(BaseModel):
    a: int = Field(validation_alias=AliasChoices("A", AliasPath("p", "q")))


class Path(BaseModel):
    a: int = Field(validation_alias=AliasPath("p", "q"))


class ByName(BaseModel):
    model_config = ConfigDict(validate_by_name=True, validate_by_alias=False)
    a: int = Field(alias="A")


class Populated(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    a: int = Field(alias="A")


class Swapped(BaseModel):
    a: int = Field(validation_alias="b")
    b: int = Field(validation_alias="a")


class Generated(BaseModel):
    model_config = ConfigDict(
        alias_generator=AliasGenerator(validation_alias=lambda name: f"{name}_in", serialization_alias=str.upper)
    )
    a: int
    inner: Generated | None = None


class Holding(BaseModel):
    one: OneWay
    many: list[OneWay]
    by_name: dict[str, OneWay]
    other: int = Field(alias="Other")


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    a: int
    b: date
    c: Colour
    d: set[uuid.UUID]
    e: tuple[Decimal, ...]
    f: timedelta
    g: OneWay


class StrictField(BaseModel):
    at: date = Field(strict=True)


class Bracketed(BaseModel):
    a: int

    @pydantic.field_serializer("a")
    def bracketed(self, value: int) -> str:
        return f"<{value}>"


class Elsewhere(BaseModel):
    a: int

    @pydantic.model_serializer
    def elsewhere(self) -> dict[str, int]:
        return {"b": self.a}


class Reversible(BaseModel):
    a: Annotated[int, pydantic.PlainSerializer(str)]


class Computed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    a: int

    @pydantic.computed_field
    @property
    def double(self) -> int:
        return self.a * 2


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int = 1


class Numbers(RootModel[list[int]]):
    pass


class Box(BaseModel, Generic[T]):
    value: T


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    name: str = "Tom"


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    name: str = "Rex"


class Untagged(BaseModel):
    name: str = "Tom"


class OtherUntagged(BaseModel):
    number: int = 1


class Owner(BaseModel):
    pet: Cat | Dog = Field(discriminator="kind")
    thing: Untagged | OtherUntagged = Untagged()


class Zoned(BaseModel):
    zone: ZoneInfo


class MaybeSecret(BaseModel):
    secret: pydantic.SecretStr | None = None


class Patch(BaseModel):
    name: str | None = None
    email: str | None = None
    tags: list[str] = Field(default_factory=list)
    level: Literal["low", "high"] = "low"
    inner: Patch | None = None
    others: list[Patch] = []
    by_name: dict[str, Patch] = {}


class Patches(RootModel[list[Patch]]):
    pass


@dataclass
class Holder:
    patch: Patch
    patches: list[Patch]


SENDABLE: list[tuple[Any, Any]] = [
    (Plain, Plain(A=1)),
    (OneWay, OneWay(A=1)),
    (TwoNames, TwoNames(A=1)),
    (Choices, Choices(A=1)),
    (Path, Path(p={"q": 1})),  # type: ignore[call-arg]
    (ByName, ByName(a=1)),  # type: ignore[call-arg]
    (Populated, Populated(a=1)),  # type: ignore[call-arg]
    (Swapped, Swapped(b=1, a=2)),
    (Generated, Generated(a_in=1, inner_in=Generated(a_in=2))),  # type: ignore[call-arg]
    (Holding, Holding(one=OneWay(A=1), many=[OneWay(A=2)], by_name={"k": OneWay(A=3)}, Other=4)),
    (
        Strict,
        Strict(
            a=1,
            b=date(2026, 1, 1),
            c=Colour.RED,
            d={uuid.UUID(int=1)},
            e=(Decimal("1.50"),),
            f=timedelta(1),
            g=OneWay(A=1),
        ),
    ),
    (StrictField, StrictField(at=date(2026, 1, 1))),
    (Bracketed, Bracketed(a=1)),
    (Elsewhere, Elsewhere(a=1)),
    (Reversible, Reversible(a=1)),
    (Computed, Computed(a=1)),
    (Extra, Extra(z=[{"a": 1}])),  # type: ignore[call-arg]
    (Numbers, Numbers([1, 2])),
    (Box[OneWay], Box[OneWay](value=OneWay(A=1))),
    (Owner, Owner(pet=Dog())),
    (Owner, Owner(pet=Cat(name="Kit"), thing=OtherUntagged())),
    (Zoned, Zoned(zone=ZoneInfo("Europe/Paris"))),
    (MaybeSecret, MaybeSecret()),
    (list[OneWay], [OneWay(A=1)]),
    (OneWay | None, OneWay(A=1)),
    (Box[Any], Box[Any](value=[1, "a"])),
]


@pytest.mark.parametrize(("annotation", "value"), SENDABLE)
def test_a_model_comes_back_as_it_went_in(annotation: Any, value: Any) -> None:
    def fn(x: Any) -> Any: ...

    fn.__annotations__ = {"x": annotation, "return": annotation}
    codec = task("t")(fn).signature.return_codec
    lowered = codec.lower(value)
    found = codec.lift(lowered)
    assert found == value
    assert codec.lower(found) == lowered


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Patch, Patch(name="Bo")),
        (Patch, Patch(name=None, tags=[])),
        (Patch, Patch(level="high")),
        (Patch, Patch(inner=Patch(email="x"), others=[Patch(), Patch(name="a")], by_name={"k": Patch(tags=["a"])})),
        (Patches, Patches([Patch(), Patch(name=None)])),
        (list[Patch], [Patch(), Patch(name="Bo")]),
        (Holder, Holder(Patch(name="Bo"), [Patch()])),
        (Box[Patch], Box[Patch](value=Patch(name="Bo"))),
        (Extra, Extra(z=1)),  # type: ignore[call-arg]
        (Extra, Extra()),
    ],
)
def test_a_field_that_is_not_set_comes_back_as_one(annotation: Any, value: Any) -> None:
    codec = codec_for(annotation)
    assert as_set(codec.lift(codec.lower(value))) == as_set(value)


def as_set(value: Any) -> Any:
    if isinstance(value, list):
        return [as_set(one) for one in value]
    if isinstance(value, Holder):
        return [as_set(value.patch), as_set(value.patches)]
    return value.model_dump(exclude_unset=True)


def test_a_field_that_a_factory_of_the_callers_fills_keeps_its_value() -> None:
    class Numbered(BaseModel):
        id: uuid.UUID = Field(default_factory=uuid.uuid4)
        note: str = "none"

    value, codec = Numbered(), codec_for(Numbered)
    found = codec.lift(codec.lower(value))
    assert found == value
    assert found.model_fields_set == {"id"}


def test_what_was_written_whole_is_still_read() -> None:
    """As versions before wrote it: every field, by its alias."""
    assert codec_for(Patch).lift({"name": "Bo", "email": None, "tags": [], "level": "low"}) == Patch(name="Bo")
    assert codec_for(Plain).lift({"A": 1}) == Plain(A=1)


class Opaque:
    pass


class Text(str):
    __slots__ = ()


def model(**fields: Any) -> Any:
    return pydantic.create_model("Sample", __config__=ConfigDict(arbitrary_types_allowed=True), **fields)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"a": (str, Field(exclude=True))}, "field 'a' of Sample is required, and left out of every dump"),
        ({"a": (pydantic.SecretStr, ...)}, "field 'a' of Sample: a SecretStr is not stored"),
        ({"a": (pydantic.SecretBytes, ...)}, "a SecretBytes is not stored"),
        ({"a": (list[pydantic.SecretStr], ...)}, "a SecretStr is not stored"),
        ({"a": (pydantic.SecretStr | Opaque, ...)}, "a SecretStr is not stored"),
        ({"a": (Opaque, ...)}, "Opaque has no plain form"),
        ({"a": (Callable[[int], int], ...)}, "Callable has no plain form"),
        ({"a": (type[int], ...)}, "type has no plain form"),
        ({"a": (collections.deque[int], ...)}, "deque has no plain form"),
        ({"a": (typing.Pattern[str], ...)}, "Pattern has no plain form"),
        ({"a": (complex, ...)}, "complex has no plain form"),
        ({"a": (dict[int, str], ...)}, "keys are not str"),
        ({"a": (model(b=(Opaque, ...)), ...)}, "field 'a' of Sample: field 'b' of Sample: Opaque"),
    ],
)
def test_a_model_that_can_never_be_sent_is_refused_at_the_declaration(fields: dict[str, Any], why: str) -> None:
    def fn(x: Any) -> None: ...

    for annotation in (model(**fields), list[model(**fields)], model(**fields) | None):  # type: ignore[misc]
        fn.__annotations__["x"] = annotation
        with pytest.raises(HorsiesError, match="HRS-105") as caught:
            task("t")(fn)
        assert why in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"a": (str, Field(default="", exclude=True))},
        {"a": (pydantic.SecretStr | None, None)},
        {"a": (pydantic.SecretStr | str, ...)},
        {"a": (Opaque, None)},
        {"a": (Annotated[Opaque, pydantic.PlainSerializer(str)], ...)},
        {"a": (Any, ...)},
        {"a": (pydantic.Json[list[int]], ...)},
        {"a": (pydantic.ByteSize, ...)},
    ],
)
def test_a_model_of_which_some_can_be_sent_is_declared(fields: dict[str, Any]) -> None:
    def fn(x: Any) -> None: ...

    fn.__annotations__["x"] = model(**fields)
    task("t")(fn)


class Nested(BaseModel):
    numbers: list[int]
    by_name: dict[str, int] = {}


class Outer(BaseModel):
    inner: Nested | None = None
    text: str = ""
    base: Cat | None = None


def test_a_refusal_names_the_field_and_the_rule_and_no_value() -> None:
    codec = codec_for(Outer)
    with pytest.raises(CodecError) as caught:
        codec.lift({"inner": {"numbers": [1, "SECRET"], "by_name": {"SECRET": "SECRET"}}})
    assert "inner.numbers[1] (int_parsing)" in str(caught.value)
    assert "inner.by_name[...] (int_parsing)" in str(caught.value)
    assert "SECRET" not in str(caught.value)
    with pytest.raises(CodecError, match=r"lone surrogate.* at \.text"):
        codec.lower(Outer(text="a").model_copy(update={"text": "\ud800"}))


class Kitten(Cat):
    age: int = 0


class Ticking(BaseModel):
    _at: float = pydantic.PrivateAttr(default_factory=time.time_ns)


def test_a_difference_names_the_field_and_the_classes() -> None:
    with pytest.raises(CodecError, match=r"Kitten would come out as Cat at \.base"):
        codec_for(Outer).lower(Outer(base=Kitten()))
    with pytest.raises(CodecError, match="private attributes"):
        codec_for(Ticking).lower(Ticking())
    here, there = (
        dataclass(type("Twin", (), {"__annotations__": {"x": int}, "__module__": m})) for m in ("here", "there")
    )
    with pytest.raises(CodecError, match=r"there\.Twin would come out of the queue as here\.Twin"):
        codec_for(here).lower(there(1))
