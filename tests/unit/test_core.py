"""Values and rules: no database, no event loop."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from datetime import timedelta
from random import Random
from typing import Any

import pytest

from horsies import (
    AppConfig,
    BrokerError,
    Err,
    HorsiesError,
    Ok,
    PayloadPolicy,
    PoolConfig,
    QueueConfig,
    RecoveryConfig,
    ResilienceConfig,
    RetentionConfig,
    RetryPolicy,
    TaskError,
    TaskErrorCode,
    TaskSendError,
    TaskSendErrorCode,
    TaskStatus,
    WorkerConfig,
)
from horsies._core.outcome import decide, decide_interrupted, patience_with_unknown
from horsies._core.retry import next_delay
from horsies._core.status import TRANSITIONS
from horsies._core.urls import masked, scheme_of

RANDOM = Random(7)


@pytest.mark.parametrize(
    "error",
    [
        HorsiesError("HRS-200", "message", ["note"]),
        HorsiesError.of([HorsiesError("HRS-200", "one"), HorsiesError("HRS-201", "two")]),
        TaskError("RATE_LIMITED", "slow down", data={"after": 3}),
        BrokerError("gone", retryable=True, code="08006"),
        TaskSendError(TaskSendErrorCode.ENQUEUE_FAILED, "gone", retryable=True, task_id="x"),
    ],
)
def test_errors_are_values(error: Exception) -> None:
    for twin in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert twin == error
        assert hash(twin) == hash(error)
        assert str(twin) == str(error)
    with pytest.raises(type(error)):
        raise error
    with pytest.raises(AttributeError):
        error.message = "other"


def test_errors_differ_by_what_they_say() -> None:
    assert TaskError("A", data=1) != TaskError("A", data=2)
    assert TaskError("A") != TaskError("B")


def test_results() -> None:
    ok: Ok[int] = Ok(2)
    err: Err[TaskError] = Err(TaskError("BAD"))
    assert (ok.is_ok(), ok.is_err(), err.is_ok(), err.is_err()) == (True, False, False, True)
    assert ok.unwrap() == 2
    assert ok.map(str) == Ok("2")
    assert ok.map_err(str) is ok
    assert err.map(str) is err
    assert err.map_err(lambda error: error.code) == Err("BAD")
    with pytest.raises(TaskError, match="BAD"):
        err.unwrap()
    with pytest.raises(ValueError, match="no error"):
        ok.unwrap_err()


@pytest.mark.parametrize(
    ("make", "code", "problems"),
    [
        (lambda: QueueConfig("", priority=0, max_concurrency=0), "HRS-200", 3),
        (lambda: QueueConfig("a\0b"), "HRS-200", 1),
        (lambda: PayloadPolicy(warn_bytes=0, reject_bytes=-1), "HRS-214", 2),
        (lambda: RecoveryConfig(heartbeat_interval=0, dead_after=-1), "HRS-204", 2),
        (lambda: RecoveryConfig(heartbeat_interval=10, dead_after=39.9), "HRS-204", 1),
        (lambda: RetentionConfig(finished_after=timedelta(0)), "HRS-216", 1),
        (lambda: ResilienceConfig(poll_interval=float("inf")), "HRS-208", 1),
        (lambda: ResilienceConfig(retry_initial=9), "HRS-208", 1),
        (lambda: PoolConfig(min_size=5, max_size=4), "HRS-213", 1),
        (lambda: PoolConfig(min_size=-1, max_size=0, timeout=0), "HRS-213", 3),
        (lambda: WorkerConfig(concurrency=0, threads=0, drain_timeout=-1, queues=()), "HRS-215", 4),
        (lambda: AppConfig(url="nonsense"), "HRS-203", 1),
        (lambda: AppConfig(url="sqlite://:memory:", schema="Drop; table"), "HRS-203", 1),
        (lambda: AppConfig(url="sqlite:///\udcff.db"), "HRS-203", 1),
        (lambda: AppConfig(url="postgresql://u:\udcff@h/db", listen_url="postgresql://\udcff@h/db"), "HRS-203", 2),
        (
            lambda: AppConfig(url="sqlite://:memory:", queues=(QueueConfig("a"), QueueConfig("a"))),
            "HRS-200",
            1,
        ),
        (lambda: AppConfig(url="sqlite://:memory:", cluster_wide_cap=0), "HRS-201", 1),
    ],
)
def test_configuration_says_everything_that_is_wrong(make: Callable[[], Any], code: str, problems: int) -> None:
    with pytest.raises(HorsiesError) as caught:
        make()
    assert caught.value.code == code
    assert len(caught.value.problems) == problems


def test_from_env(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HORSIES_DATABASE_URL", raising=False)
    with pytest.raises(HorsiesError, match="HORSIES_DATABASE_URL"):
        AppConfig.from_env()
    monkeypatch.setenv("HORSIES_DATABASE_URL", "postgres://u:p@h/db")
    monkeypatch.setenv("HORSIES_SCHEMA", "jobs")
    config = AppConfig.from_env(serializer="json")
    assert (config.schema, config.serializer, scheme_of(config.url)) == ("jobs", "json", "postgresql")
    assert [queue.name for queue in config.queues] == ["default"]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:SECRET@h/db",
        "postgresql://me:SEC%40RET@h:5432,h2/db?sslmode=require",
        "postgresql://h/db?user=me&password=SECRET&x=1",
        "host=h password='SEC RET' user=me",
        "postgresql://me:SECRET@/db?host=/tmp",
    ],
)
def test_urls_are_shown_without_passwords(url: str) -> None:
    assert "SEC" not in masked(url)
    assert "RET" not in masked(url)


def test_terminal_states_lead_nowhere() -> None:
    for status in TaskStatus:
        assert status.is_terminal == (not TRANSITIONS[status])


def failed(code: str, policy: RetryPolicy | None, retry_for: tuple[str, ...] | None, retries: int = 0) -> TaskStatus:
    error = TaskError(TaskErrorCode(code) if code in TaskErrorCode.__members__ else code)
    return decide(Err(error), policy=policy, retry_for=retry_for, retries=retries, random=RANDOM).status


def test_what_is_retried() -> None:
    policy = RetryPolicy.fixed([1, 2])
    again, end = TaskStatus.PENDING, TaskStatus.FAILED
    assert decide(Ok(1), policy=policy, retry_for=None, retries=0, random=RANDOM).status is TaskStatus.COMPLETED
    assert failed("MINE", None, None) is end
    assert failed("MINE", policy, None) is again
    assert failed("UNHANDLED_ERROR", policy, None) is again
    assert failed("TASK_TIMEOUT", policy, None) is end
    assert failed("TASK_TIMEOUT", policy, ("TASK_TIMEOUT",)) is again
    assert failed("MINE", policy, ("OTHER",)) is end
    assert failed("MINE", policy, None, retries=1) is again
    assert failed("MINE", policy, None, retries=2) is end


def test_an_interrupted_task_returns_only_if_its_policy_says_so() -> None:
    policy = RetryPolicy.fixed([1])
    assert decide_interrupted(policy=policy, retry_for=("WORKER_CRASHED",)).interrupted
    assert decide_interrupted(policy=policy, retry_for=None).status is TaskStatus.FAILED
    assert decide_interrupted(policy=None, retry_for=None).status is TaskStatus.FAILED


def test_delays() -> None:
    policy = RetryPolicy.exponential(base=2.0, max_retries=4, max_delay=9, jitter=False)
    assert [policy.delay(n, TaskError("A")) for n in range(6)] == [None, 2, 4, 8, 9, None]
    spread = {next_delay(RetryPolicy.fixed([100]), 1, TaskError("A"), RANDOM) for _ in range(200)}
    assert all(delay is not None and 75 <= delay <= 125 for delay in spread)
    assert len(spread) > 100


def test_patience_with_an_unknown_task_grows_and_ends() -> None:
    waits = [patience_with_unknown(seconds, 60) for seconds in (0, 4, 59.9)]
    assert waits == [0.5, 2, 10]
    assert patience_with_unknown(60, 60) is None


def test_a_retryable_error_without_a_code_is_a_lost_connection() -> None:
    """So what brokers raised before `lost` was there means what it meant."""
    assert BrokerError("gone", retryable=True).lost
    assert not BrokerError("full", retryable=True, code="53100").lost
    assert not BrokerError("refused").lost
    assert BrokerError("gone", retryable=True, code="57P05", lost=True).lost
