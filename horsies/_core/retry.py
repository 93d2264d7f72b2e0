"""When a failed task runs again. Pure arithmetic: the jitter's chance is a parameter."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from .codes import RETRYABLE_BUILTIN, TaskErrorCode, is_user_code
from .errors import HorsiesError, TaskError
from .instants import is_seconds

MAX_RETRIES = 20
JITTER = 0.25


class SupportsDelay(Protocol):
    """A retry policy: anything that says how long to wait before the `retry`-th retry.

    `delay` is called with `retry` from 1 and the error of the attempt that ended; it returns seconds, or None to stop.
    """

    def delay(self, retry: int, error: TaskError) -> float | None: ...


def _is_positive(value: object) -> bool:
    return is_seconds(value, most=sys.float_info.max)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how soon a failed task is tried again; make one with `fixed` or `exponential`.

    Raises:
        HorsiesError: HRS-102 unless there are 1..20 retries and every delay is a number above 0.
    """

    delays: tuple[float, ...]
    """Seconds before each retry, before jitter."""
    jitter: bool = True
    """Spread each delay by 25 % up or down, so that tasks that failed together do not return together."""

    def __post_init__(self) -> None:
        delays = self.delays
        if not (isinstance(delays, Sequence) and 1 <= len(delays) <= MAX_RETRIES and all(map(_is_positive, delays))):
            raise HorsiesError(
                "HRS-102", f"a retry policy has 1..{MAX_RETRIES} retries, each after a delay of more than 0 seconds"
            )

    @classmethod
    def fixed(cls, delays: Sequence[float], *, jitter: bool = True) -> RetryPolicy:
        """One retry for each of `delays` (seconds)."""
        return cls(tuple(delays) if isinstance(delays, Iterable) else (), jitter)

    @classmethod
    def exponential(
        cls, base: float = 2.0, max_retries: int = 5, *, max_delay: float | None = None, jitter: bool = True
    ) -> RetryPolicy:
        """`base` * 2^(retry-1) seconds before each of `max_retries` retries, `max_delay` at most."""
        if type(max_retries) is not int or not 1 <= max_retries <= MAX_RETRIES or not _is_positive(base):
            raise HorsiesError("HRS-102", f"an exponential policy needs base > 0 and max_retries of 1..{MAX_RETRIES}")
        if max_delay is not None and not _is_positive(max_delay):
            raise HorsiesError("HRS-102", "max_delay of a retry policy is not a number of seconds above 0")
        ceiling = math.inf if max_delay is None else max_delay
        return cls(tuple(min(base * 2.0**n, ceiling) for n in range(max_retries)), jitter)

    @property
    def is_within_bounds(self) -> bool:
        """Whether no delay is longer than what a task can wait: 1,000 years."""
        return all(map(is_seconds, self.delays))

    def delay(self, retry: int, error: TaskError) -> float | None:
        """Seconds before the `retry`-th retry (from 1), or None when there are no more."""
        return self.delays[retry - 1] if 1 <= retry <= len(self.delays) else None


def is_listed(code: str, retry_for: Sequence[str] | None) -> bool:
    """Whether an attempt that ended with `code` may be retried. Without a list: user codes and UNHANDLED_ERROR."""
    if retry_for is None:
        return code == TaskErrorCode.UNHANDLED_ERROR or is_user_code(code)
    return code in retry_for


def is_retryable_code(code: object) -> bool:
    """Whether `retry_for` may name `code`."""
    return isinstance(code, str) and (is_user_code(code) or code in RETRYABLE_BUILTIN)


def next_delay(policy: SupportsDelay, retry: int, error: TaskError, random: Random) -> float | None:
    """Seconds before the `retry`-th retry, with jitter where `policy` wants it (`policy.jitter`), or None.

    Raises:
        ValueError: the policy gives no such delay.
        Exception: whatever the policy raises.
    """
    delay = policy.delay(retry, error)
    if delay is None:
        return None
    if not is_seconds(delay):
        raise ValueError("a retry policy gave neither None nor a number of seconds above 0, 1,000 years at most")
    return delay * random.uniform(1 - JITTER, 1 + JITTER) if getattr(policy, "jitter", False) else float(delay)
