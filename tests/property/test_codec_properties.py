"""The codec, for values that nobody thought of."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from horsies._payload.codec import CodecError, codec_for
from horsies._payload.plain import INT_MAX, INT_MIN
from horsies.plugins.serializers import horsies_serializers

SERIALIZERS = horsies_serializers()

texts = st.text(st.characters(exclude_categories=["Cs"]))
scalars = (
    st.none()
    | st.booleans()
    | st.integers(INT_MIN, INT_MAX)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
    | st.binary()
)
plain = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(texts | st.just("$bytes"), inner), max_leaves=20
)
typed = st.one_of(
    st.tuples(st.just(dict[str, list[int]]), st.dictionaries(texts, st.lists(st.integers(INT_MIN, INT_MAX)))),
    st.tuples(st.just(set[str]), st.sets(texts)),
    st.tuples(st.just(tuple[int, ...]), st.lists(st.integers(INT_MIN, INT_MAX)).map(tuple)),
)
known: dict[str, st.SearchStrategy[Any]] = {
    "datetime": st.datetimes(timezones=st.none() | st.timezones()),
    "date": st.dates(),
    "timedelta": st.timedeltas(),
    "uuid": st.uuids(),
    "decimal": st.decimals(allow_nan=False, allow_infinity=False),
}


def through(name: str, codec: Any, value: Any) -> Any:
    serializer = SERIALIZERS[name]
    return codec.lift(serializer.loads(serializer.dumps(codec.lower(value))))


@given(plain, st.sampled_from(["msgpack", "json"]))
def test_plain_builtins_come_out_as_they_went_in(value: Any, name: str) -> None:
    back = through(name, codec_for(Any), value)
    assert back == value
    assert repr(back) == repr(sorted_dicts(value))


def sorted_dicts(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: sorted_dicts(value[key]) for key in sorted(value)}
    return [sorted_dicts(item) for item in value] if isinstance(value, list) else value


@given(typed, st.sampled_from(["msgpack", "json"]))
def test_containers_come_out_as_they_went_in(pair: tuple[Any, Any], name: str) -> None:
    annotation, value = pair
    assert through(name, codec_for(annotation), value) == value


@given(st.sampled_from(sorted(known)).flatmap(lambda name: known[name]), st.sampled_from(["msgpack", "json"]))
def test_known_types_come_out_equal_or_are_refused(value: Any, name: str) -> None:
    try:
        back = through(name, codec_for(type(value)), value)
    except CodecError:
        # Only an instant beyond the calendar, once in UTC, has no form.
        assert value.utcoffset() is not None
        assert value.year in (1, 9999)
        return
    if getattr(value, "tzinfo", None) is not None:
        assert back == value.astimezone(UTC)
    else:
        assert back == value


ONE_CALL = """
from datetime import datetime, UTC
from horsies._payload.signature import describe
from horsies.plugins.serializers import horsies_serializers
def f(tags: set[str], names: dict[str, int], when: datetime, ratio: float) -> None: ...
for name, serializer in sorted(horsies_serializers().items()):
    names = {"b": 1, "a": 2}
    call = ({"x", "yy", "zzz", "w"}, names, datetime(2024, 1, 1, tzinfo=UTC))
    print(describe(f, context_type=int).encode(serializer, call, {"ratio": 1}).hex())
"""


def test_equal_calls_give_equal_bytes_in_every_process() -> None:
    outputs = {
        subprocess.run(
            [sys.executable, "-c", ONE_CALL],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
            timeout=50,
        ).stdout
        for seed in (1, 2, 3)
    }
    assert len(outputs) == 1
