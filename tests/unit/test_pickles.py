"""Pickles of public values: those of an earlier version load, and those of today come back equal.

`pickles.json` holds one pickle of each of `VALUES`, base64 of `pickle.dumps(value, 4)`, as the version wrote it that
brought the value. An entry is added with a new value and never rewritten: programs have stored such bytes.
"""

from __future__ import annotations

import base64
import copy
import enum
import inspect
import json
import pickle
from dataclasses import is_dataclass
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest

import horsies
from horsies import (
    AppConfig,
    AttemptInfo,
    BackfillInfo,
    BrokerError,
    CancelOutcome,
    Cron,
    Daily,
    Err,
    ErrorCause,
    Every,
    HorsiesError,
    Hourly,
    Monthly,
    NodeInfo,
    NodeRef,
    NodeStatus,
    Ok,
    PayloadPolicy,
    PoolConfig,
    QueueConfig,
    QueueInfo,
    RecoveryConfig,
    ResilienceConfig,
    RetentionConfig,
    RetryPolicy,
    ScheduleInfo,
    SuccessCase,
    TaskError,
    TaskErrorCode,
    TaskInfo,
    TaskInterrupted,
    TaskSendError,
    TaskSendErrorCode,
    TaskSendOptions,
    TaskSendPayload,
    TaskStatus,
    Weekly,
    WorkerConfig,
    WorkerStatistics,
    WorkflowGraph,
    WorkflowInfo,
    WorkflowStartPayload,
    WorkflowStatus,
)
from horsies._payload.envelope import Envelope

PICKLES: dict[str, str] = json.loads((Path(__file__).parent / "pickles.json").read_text())
AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
ID = "01890a5d-ac96-774b-bcce-b302099a8057"
PAYLOAD = TaskSendPayload.seal(
    Envelope(
        task_id=ID,
        task_name="send_mail",
        queue="default",
        priority=50,
        serializer="msgpack",
        arguments=b"\x80",
        sent_at=AT,
        delay=timedelta(seconds=1),
        good_until=AT + timedelta(hours=1),
        timeout=timedelta(seconds=2),
        retry=RetryPolicy((1.0, 2.5), jitter=False),
        unique_key="key",
        metadata=(("tenant", "acme"),),
    )
)
START = WorkflowStartPayload.seal(ID, b"sha", "order", 1, b"spec", AT, AT + timedelta(hours=1))
CAUSE = ErrorCause("builtins.KeyError", "'x'", "Traceback ...")
ATTEMPT = AttemptInfo(1, "worker-1", AT, AT, TaskError("RATE_LIMITED", "later"))
PROBLEMS = [HorsiesError("HRS-200", "one", ["do this"]), HorsiesError("HRS-203", "two")]

VALUES: dict[str, Any] = {
    "TaskError": TaskError("RATE_LIMITED", "later", data={"after": 5}),
    "TaskError, built-in": TaskError.caused_by(TaskErrorCode.UNHANDLED_ERROR, "KeyError: 'x'", CAUSE),
    "ErrorCause": CAUSE,
    "HorsiesError": PROBLEMS[0],
    "HorsiesError of several": HorsiesError.of(PROBLEMS),
    "BrokerError": BrokerError("the server is full", retryable=True, code="53300"),
    "BrokerError, lost": BrokerError("gone", retryable=True),
    "TaskSendError": TaskSendError(
        TaskSendErrorCode.ENQUEUE_FAILED, "gone", retryable=True, task_id=ID, payload=PAYLOAD
    ),
    "TaskSendError of a start": TaskSendError(TaskSendErrorCode.PAYLOAD_MISMATCH, "not that", task_id=ID, start=START),
    "TaskInterrupted": TaskInterrupted("stop"),
    "Ok": Ok([1, "a"]),
    "Err": Err(TaskError("RATE_LIMITED")),
    "TaskSendPayload": PAYLOAD,
    "WorkflowStartPayload": START,
    "TaskInfo": TaskInfo(
        task_id=ID,
        task_name="send_mail",
        queue="default",
        priority=50,
        status=TaskStatus.FAILED,
        attempt=2,
        sent_at=AT,
        due_at=AT,
        claimed_at=AT,
        started_at=AT,
        finished_at=None,
        good_until=None,
        worker_id="worker-1",
        error_code="RATE_LIMITED",
        metadata={"tenant": "acme"},
        result=Err(TaskError("RATE_LIMITED", "later")),
        failed_reason="RATE_LIMITED: later",
        attempts=(ATTEMPT,),
    ),
    "AttemptInfo": ATTEMPT,
    "QueueInfo": QueueInfo(
        name="default",
        priority=50,
        max_concurrency=None,
        paused_at=AT,
        ready=1,
        delayed=2,
        claimed=3,
        running=4,
        oldest_due_at=AT,
    ),
    "ScheduleInfo": ScheduleInfo(
        name="nightly",
        task_name="send_mail",
        timing="every 1:00:00",
        enabled=True,
        paused_at=None,
        next_slot=AT,
        last_slot=AT,
        last_task_id=ID,
        problem=None,
    ),
    "BackfillInfo": BackfillInfo(sent=3, present=4),
    "WorkflowInfo": WorkflowInfo(
        workflow_id=ID,
        name="order",
        version=1,
        status=WorkflowStatus.RUNNING,
        sent_at=AT,
        finished_at=None,
        error_code=None,
        good_until=AT,
        problem=None,
    ),
    "NodeInfo": NodeInfo("send_mail-1", "send_mail", NodeStatus.ENQUEUED, ID, None),
    "WorkflowGraph": WorkflowGraph("flowchart TD", "<svg/>"),
    "WorkerStatistics": WorkerStatistics("worker-1", ready=1, running=2, claimed=3, lost=4),
    "TaskSendOptions": TaskSendOptions(good_until=AT, queue="default", timeout=3.0, metadata={"tenant": "acme"}),
    "RetryPolicy": RetryPolicy.exponential(max_retries=3, jitter=False),
    "NodeRef": NodeRef(None, 1).as_result(),
    "SuccessCase": SuccessCase(NodeRef(None, 1)),
    "Every": Every(90),
    "Hourly": Hourly(5),
    "Daily": Daily(time(3, 0), "Europe/Paris"),
    "Weekly": Weekly(("mon", "fri"), time(3, 0)),
    "Monthly": Monthly(31, short_months="last"),
    "Cron": Cron("0 3 * * mon-fri"),
    "AppConfig": AppConfig(
        url="postgresql://localhost/app",
        queues=(QueueConfig("default"), QueueConfig("mail", priority=10, max_concurrency=3)),
        cluster_wide_cap=100,
    ),
    "QueueConfig": QueueConfig("mail", max_concurrency=3),
    "PayloadPolicy": PayloadPolicy(reject_bytes=2_000_000),
    "RecoveryConfig": RecoveryConfig(dead_after=30.0),
    "RetentionConfig": RetentionConfig(finished_after=timedelta(days=1)),
    "ResilienceConfig": ResilienceConfig(poll_interval=1.0),
    "PoolConfig": PoolConfig(max_size=3),
    "WorkerConfig": WorkerConfig(queues=("mail",), concurrency=3),
    **{
        f"{code.__name__}.{member.name}": member
        for code in (TaskErrorCode, TaskSendErrorCode, TaskStatus, WorkflowStatus, NodeStatus, CancelOutcome)
        for member in code
    },
}

NO_VALUES = {"TaskNode", "WorkflowSpec", "Schedule", "Environment"}
"""They hold functions or sources of chance. A program declares or opens them, and does not store them."""


def same(one: Any, other: Any) -> bool:
    """Equality by value, also for `TaskInterrupted`, which is a plain exception."""
    return type(one) is type(other) and (one.args == other.args if type(one) is TaskInterrupted else one == other)


def test_every_public_value_has_a_pickle() -> None:
    public = [value for name in horsies.__all__ if inspect.isclass(value := getattr(horsies, name))]
    values = {one.__name__ for one in public if is_dataclass(one) or issubclass(one, (BaseException, enum.Enum))}
    assert values - NO_VALUES == {type(value).__name__ for value in VALUES.values()}
    assert PICKLES.keys() == VALUES.keys()


@pytest.mark.parametrize("name", VALUES)
def test_the_pickle_of_an_earlier_version_loads(name: str) -> None:
    assert same(pickle.loads(base64.b64decode(PICKLES[name])), VALUES[name])


@pytest.mark.parametrize("name", VALUES)
def test_a_value_comes_back_from_pickle_and_copy_equal(name: str) -> None:
    value = VALUES[name]
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert same(pickle.loads(pickle.dumps(value, protocol)), value)
    assert same(copy.copy(value), value)
    assert same(copy.deepcopy(value), value)
