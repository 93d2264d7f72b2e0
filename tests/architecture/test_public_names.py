"""Every public name is known as a name of `horsies`, wherever it is defined, and its annotations can be read there."""

from __future__ import annotations

import contextlib
import inspect
import types
import typing

import pytest

import horsies

PROMISED = """
    Horsies AppConfig QueueConfig PayloadPolicy RecoveryConfig RetentionConfig ResilienceConfig PoolConfig WorkerConfig
    Runtime Worker task Task TaskFunction TaskHandle TaskContext TaskInfo AttemptInfo TaskStatus TaskSendOptions
    TaskSendPayload TaskSendError TaskSendErrorCode TaskSendResult TaskResult TaskError BrokerError HorsiesError
    RetryPolicy CancelOutcome Ok Err Result blocking hookimpl
"""

RUNTIME = """
    app environment check check_live broker_factory handle bind bind_workflow transaction as_completed
    run_worker start_worker run_scheduler queues pause_queue resume_queue
    schedules pause_schedule resume_schedule trigger_schedule backfill_schedule
    workflow start retry_start list_workflows settle_workflows
"""
"""What users need of a `Runtime`; what its own layers need is the engine's."""

CLASSES = [value for name in horsies.__all__ if isinstance(value := getattr(horsies, name), type)]


def functions_of(cls: type) -> dict[str, object]:
    """The methods of `cls`, and the getters of its properties, inherited ones too; those of other libraries are not."""
    found = {}
    for name, member in inspect.getmembers_static(cls):
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if isinstance(function, types.FunctionType) and function.__module__.startswith("horsies."):
            found[name] = function
    return found


def test_every_promised_name_is_exported() -> None:
    assert set(PROMISED.split()) - set(horsies.__all__) == set()


def test_every_exported_name_exists_once() -> None:
    assert len(set(horsies.__all__)) == len(horsies.__all__)
    assert [name for name in horsies.__all__ if not hasattr(horsies, name)] == []


def test_nothing_public_is_left_out_of_all() -> None:
    public = {name for name, value in vars(horsies).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert public == set(horsies.__all__)


def test_a_runtime_has_the_names_that_users_need_and_no_others() -> None:
    assert {name for name in dir(horsies.Runtime) if not name.startswith("_")} == set(RUNTIME.split())


@pytest.mark.parametrize("name", horsies.__all__)
def test_a_public_name_says_that_it_is_of_horsies(name: str) -> None:
    value = getattr(horsies, name)
    if isinstance(value, (type, types.FunctionType)):
        assert (value.__module__, value.__qualname__) == ("horsies", name)


@pytest.mark.parametrize("cls", CLASSES)
def test_the_annotations_of_a_public_class_can_be_read(cls: type) -> None:
    # anyio's mixin, beneath Runtime, needs the name, and anyio does not have it.
    hints = typing.get_type_hints(cls, localns={"AbstractAsyncContextManager": contextlib.AbstractAsyncContextManager})
    assert hints.keys() >= inspect.get_annotations(cls).keys()
    assert not [hint for hint in hints.values() if isinstance(hint, (str, typing.ForwardRef))]


@pytest.mark.parametrize("cls", CLASSES)
def test_the_annotations_of_a_public_method_can_be_read(cls: type) -> None:
    for name, function in functions_of(cls).items():
        assert typing.get_type_hints(function).keys() == inspect.get_annotations(function).keys(), name


def test_the_methods_are_found() -> None:
    assert {"handle", "node", "__call__"} <= functions_of(horsies.Task).keys()
    assert {"start", "check"} <= functions_of(horsies.Runtime).keys()
    assert "from_env" in functions_of(horsies.AppConfig)
