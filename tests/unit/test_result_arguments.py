"""A result as an argument: `TaskResult[T]` where a task takes what became of another."""

from __future__ import annotations

from typing import Any

import pytest

from horsies import Err, HorsiesError, Ok, TaskError, TaskErrorCode, TaskResult, task
from horsies._core.errors import ErrorCause
from horsies._payload.codec import codec_for
from horsies._payload.lowering import CodecError
from horsies._payload.result_argument import ResultCodec, err_argument, ok_argument
from horsies._payload.signature import ArgumentError
from horsies.plugins.serializers import horsies_serializers

SERIALIZERS = horsies_serializers()
CRASH = TaskError.caused_by(TaskErrorCode.UNHANDLED_ERROR, "m", ErrorCause("ValueError", "m", "traceback"))
RESULTS: list[Any] = [
    Ok({1, 2}),
    Err(TaskError("MINE")),
    Err(TaskError("MINE", "é\0", data={"b": [1, b"x", None], "a": 1.5})),
    Err(TaskError(TaskErrorCode.TASK_TIMEOUT, "late")),
    Err(CRASH),
]


@task
# A default that is frozen can be shared.
def judge(first: TaskResult[set[int]], second: Err[TaskError] | Ok[str | None] = Ok(None)) -> bool:  # noqa: B008
    return first.is_ok()


@pytest.mark.parametrize("result", RESULTS)
@pytest.mark.parametrize("tag", SERIALIZERS)
def test_a_result_comes_out_as_it_went_in(result: Any, tag: str) -> None:
    serializer, signature = SERIALIZERS[tag], judge.signature
    data = signature.encode(serializer, (result,), {})
    args, kwargs = signature.decode(serializer, data)
    assert (args, kwargs) == ((), {"first": result, "second": Ok(None)})
    if isinstance(result, Err):
        assert kwargs["first"].error.cause == result.error.cause


@pytest.mark.parametrize(
    "value",
    [
        1,
        {1, 2},
        None,
        Ok([1]),
        Ok({"SECRET"}),
        Err("SECRET"),
        Err(ValueError("SECRET")),
        Err(TaskError("MINE", data=object())),
        Err(TaskError("MINE", data=("SECRET",))),
        Err(TaskError("MINE", ValueError("SECRET"))),
        Err(type("Mine", (TaskError,), {})("MINE")),
    ],
)
def test_what_is_no_result_is_refused(value: Any) -> None:
    with pytest.raises(ArgumentError, match="argument 'first'") as caught:
        judge.signature.encode(SERIALIZERS["msgpack"], (value,), {})
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        None,
        1,
        [],
        {},
        {"ok": "1"},
        {"ok": 1, "err": None},
        {"ok": 1, "more": 1},
        {"err": None},
        {"err": ["MINE", False, "", None]},
        {"err": ["MINE", True, "", None, None]},
        {"err": ["MINE", 0, "", None, None]},
        {"err": ["TASK_TIMEOUT", False, "", None, None]},
        {"err": ["mine", False, "", None, None]},
        {"err": ["MINE", False, 5, None, None]},
        {"err": ["MINE", False, "", None, ["a", "b"]]},
        {"err": ["MINE", False, "", None, "abc"]},
    ],
)
def test_what_no_sender_writes_is_refused(data: Any) -> None:
    with pytest.raises(CodecError):
        ResultCodec(codec_for(int)).lift(data)


def test_a_stored_result_becomes_an_argument_without_its_type() -> None:
    codec = ResultCodec(codec_for(set[int]))
    assert codec.lift(ok_argument([1, 2])) == Ok({1, 2})
    assert codec.lift(err_argument(CRASH)) == Err(CRASH)


def test_a_result_of_a_type_without_codec_is_no_parameter() -> None:
    with pytest.raises(HorsiesError, match="HRS-105"):

        @task
        def bad(first: TaskResult[bytearray]) -> None: ...
