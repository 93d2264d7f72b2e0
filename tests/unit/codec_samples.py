"""Types of every kind that a task may take or return, and some that it may not."""

from __future__ import annotations

import enum
import ipaddress
from dataclasses import InitVar, dataclass, field
from datetime import datetime, tzinfo
from decimal import Decimal
from typing import Any, Generic, NamedTuple, NotRequired, TypedDict, TypeVar
from zoneinfo import ZoneInfo

import attrs
import msgspec
import pydantic

from horsies.plugins.serializers import horsies_serializers

SERIALIZERS = horsies_serializers()
PARIS = ZoneInfo("Europe/Paris")
T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    CRIMSON = "red"  # noqa: PIE796  # an alias on purpose


class Name(enum.StrEnum):
    A = "a"


class Level(enum.IntEnum):
    HIGH = 3


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Mixed(enum.Enum):
    ONE = 1
    A = "a"


@dataclass
class Point:
    x: int
    y: float = 0.0


@dataclass
class Point3(Point):
    z: int = 0


@dataclass
class Tree:
    value: int
    children: list[Tree]


@dataclass(slots=True)
class Derived:
    x: int
    _private: int = 2
    double: int = field(init=False)

    def __post_init__(self) -> None:
        self.double = self.x * 2


@dataclass
class Counting:
    """Its __post_init__ changes what it was given: it cannot be built again from its own fields."""

    x: int

    def __post_init__(self) -> None:
        self.x += 1


@dataclass
class Picky:
    x: int

    def __post_init__(self) -> None:
        if self.x == 13:
            raise ValueError("Expected `SECRET`")
        if self.x == 14:
            raise KeyError("SECRET")


@dataclass(eq=False)
class NoEquality:
    x: int


@dataclass(frozen=True)
class Key:
    x: int


@dataclass
class WithInitVar:
    x: InitVar[int]


@dataclass
class Box(Generic[T]):
    value: T


@dataclass
class TextOrBytes:
    value: str | bytes


@dataclass
class DictAndMore(dict[str, int]):
    x: int = 1


class Struct(msgspec.Struct):
    when: datetime
    names: set[str]


class Renamed(msgspec.Struct, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    z_last: int = 1
    a_first: list[int] = []
    not_there: int | msgspec.UnsetType = msgspec.UNSET


class Row(msgspec.Struct, tag=7, array_like=True):
    a: int
    b: set[int]


class Cat(msgspec.Struct, tag=True):
    a: int


class Dog(msgspec.Struct, tag="woof", tag_field="kind"):
    a: int


class Cow(msgspec.Struct, tag=True):
    a: int


@attrs.define
class Attrs:
    amount: Decimal
    number: int = attrs.field(default=1, converter=int, validator=attrs.validators.gt(0))
    _private: int = 2
    later: int = attrs.field(init=False, default=5)


class Typed(TypedDict):
    a: int
    b: NotRequired[str]


class Partial(TypedDict, total=False):
    a: int


class Named(NamedTuple):
    a: int
    b: str = "b"


class Model(pydantic.BaseModel):
    n: int
    when: datetime


class Inner(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    names: set[str] = set()


class Rich(pydantic.BaseModel):
    inner: Inner
    by_alias: int = pydantic.Field(alias="byAlias")
    number: int | float | bool | str = 0
    url: pydantic.HttpUrl | None = None
    address: ipaddress.IPv4Address | None = None
    point: Point | None = None
    raw: bytes = b""
    anything: Any = None
    _note: str = pydantic.PrivateAttr("")

    @pydantic.computed_field
    @property
    def computed(self) -> int:
        return 1


class Adding(pydantic.BaseModel):
    n: int

    @pydantic.field_validator("n")
    @classmethod
    def add(cls, value: int) -> int:
        return value + 1


class Secret(pydantic.BaseModel):
    password: pydantic.SecretStr


class Text(str):
    __slots__ = ()


class Moment(datetime):
    pass


class Zone(tzinfo):
    """A time zone that fails, or does not know."""

    def __init__(self, fails: bool) -> None:
        self.fails = fails

    def utcoffset(self, at: datetime | None) -> None:
        if self.fails:
            raise RuntimeError("SECRET")


class Opaque:
    pass
