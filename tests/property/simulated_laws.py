"""What must be true of a simulated world, whatever happens in it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import anyio
from simulated_records import MINUTE, TIMELY, Post, Run, Sent

from horsies import TaskContext, TaskInfo, TaskResult, TaskStatus
from horsies.testing.simulation import Simulation

LATENCY = 0.05
"""Seconds that a call of the broker takes at most in a rough world."""


class Laws:
    """Watches what happens in one simulation, and writes down what is `wrong`.

    Args:
        rough: calls of the broker take time and get lost, the database goes away, workers are cut off from it.
    """

    def __init__(self, simulation: Simulation, *, rough: bool) -> None:
        self.simulation = simulation
        self.rough = rough
        self.patience = 3 * MINUTE if rough else TIMELY
        self.posts: dict[str, Post] = {}
        self.active: dict[object, Run] = {}
        self.outages: list[tuple[float, float]] = []
        self.wrong: list[str] = []

    def complain(self, what: str) -> None:
        self.wrong.append(f"{anyio.current_time():.3f}: {what}")

    def check_begin(self, sent: Sent, post: Post, ctx: TaskContext) -> None:
        now, key = anyio.current_time(), sent.key
        if now < sent.due - TIMELY:
            self.complain(f"{key} began {sent.due - now} s before it was due")
        # User code begins when the worker hears that the start was written, which is when it counts.
        if sent.good_until is not None and now >= sent.good_until + (LATENCY / 2 if self.rough else 0.0):
            self.complain(f"{key} began {now - sent.good_until} s after its good_until")
        if ctx.queue != sent.queue or ctx.queue not in post.queues:
            self.complain(f"{key} of queue {sent.queue} runs on {post.name}, which serves {post.queues}")
        if post.running >= post.concurrency:
            self.complain(f"{post.name} runs more than {post.concurrency} tasks")
        for name in sent.exclusive():
            if name in self.active and not self.active[name].post.was_cut_off:
                self.complain(f"{key} began while another attempt of {name} runs")
        self._check_prompt(sent, now)

    def _check_prompt(self, sent: Sent, now: float) -> None:
        """Nobody who had room let it wait."""
        due = self._certainly_due(sent)
        if due is None or now <= due + self.patience:
            return
        # The delay of a retry counts from when the end of the attempt was written, which an outage puts off.
        known = sent.runs[-1].ended if sent.runs else due
        if self.was_outage(min(known or due, due) - self.patience, due + self.patience):
            return
        for post in self.posts.values():
            if sent.queue in post.queues and post.had_room(due, due + self.patience, now):
                self.complain(f"{sent.key} was due at {due:.3f}, and {post.name} had room")

    def _certainly_due(self, sent: Sent) -> float | None:
        """An instant at which it was due at the latest; None where that is not known."""
        if not sent.runs:
            return None if sent.accepted is None else max(sent.due, sent.accepted)
        last = sent.runs[-1]
        if last.ended is None or any(run.post.was_cut_off for run in sent.runs):
            return None
        delay = sent.longest_delay()
        if delay is None:
            self.complain(f"{sent.key} is tried again after {sent.code(last)}")
            return None
        return last.ended + delay

    def was_outage(self, begin: float, end: float) -> bool:
        return any(since <= end and begin <= until for since, until in self.outages)

    def check_end(self, sent: Sent, answer: TaskResult[Any], info: TaskInfo) -> None:
        key, runs = sent.key, sent.runs
        self.simulation.record("final", key, str(info.status), info.attempt, info.error_code)
        if not info.status.is_terminal:
            self.complain(f"{key} has an answer and is {info.status}")
        if any(run.ended is None for run in runs):
            self.complain(f"{key} is {info.status} and still runs")
        excused = sum(run.end is None or run.post.was_cut_off for run in runs)
        if len(runs) > 1 + len(sent.kind.delays) + excused:
            self.complain(f"{key} ran {len(runs)} times")
        if len(runs) > info.attempt or (len(runs) < info.attempt and not self.rough):
            self.complain(f"{key} ran {len(runs)} times, and {info.attempt} are stored")
        self._check_waits(sent, info)
        match info.status:
            case TaskStatus.COMPLETED:
                returned = [run.value(key) if run.end == "value" else run.end for run in runs]
                if answer.is_err() or answer.unwrap() != returned[-1]:
                    self.complain(f"{key} is {answer}, its user code returned {returned}")
            case TaskStatus.FAILED:
                self._check_failed(sent, answer, info)
            case TaskStatus.CANCELLED:
                if not sent.cancel_asked:
                    self.complain(f"{key} is CANCELLED, and nobody asked for it")
            case TaskStatus.EXPIRED:
                self._check_expired(sent, info)

    def _check_waits(self, sent: Sent, info: TaskInfo) -> None:
        finished = self._seconds(info.finished_at)
        for begin, answered in sent.waits:
            late = answered - max(begin, finished)
            if answered < finished - TIMELY:
                self.complain(f"{sent.key}: a waiter was answered before the end")
            if late > self.patience and not self.was_outage(answered - late, answered):
                self.complain(f"{sent.key}: a waiter was answered {late} s after the end")

    def _seconds(self, instant: datetime | None) -> float:
        assert instant is not None
        return (instant - self.simulation.start).total_seconds()

    def _check_failed(self, sent: Sent, answer: TaskResult[Any], info: TaskInfo) -> None:
        """It failed for what its last attempt came to, and no retry was left out."""
        if not sent.runs:
            # A start whose answer was lost, and no time for another: RUNNING cannot become EXPIRED.
            is_too_late = sent.good_until is not None and sent.good_until <= self._seconds(info.finished_at)
            if not (self.rough and is_too_late and info.attempt > 0):
                self.complain(f"{sent.key} is FAILED, and never ran: {answer}")
            return
        last = sent.runs[-1]
        assert last.ended is not None
        # Whoever was cut off cannot write what came out, and is taken for dead.
        expected = {sent.code(last)} | ({"WORKER_CRASHED"} if last.post.was_cut_off else set())
        code = answer.unwrap_err().code
        if code not in expected or code != info.error_code:
            self.complain(f"{sent.key} FAILED with {code} ({info.error_code} is stored), expected {expected}")
        if sent.cancel_asked or any(run.post.was_cut_off for run in sent.runs):
            return
        delay = sent.longest_delay()
        if delay is not None and (sent.good_until is None or last.ended + delay + self.patience < sent.good_until):
            self.complain(f"{sent.key} FAILED with {code}, although a retry was left")

    def _check_expired(self, sent: Sent, info: TaskInfo) -> None:
        if sent.good_until is None:
            self.complain(f"{sent.key} is EXPIRED without a deadline")
        elif self._seconds(info.finished_at) < sent.good_until - TIMELY:
            self.complain(f"{sent.key} is EXPIRED before its deadline")
        # Only between two attempts can a task expire that has run.
        if any(not sent.kind.is_retried(str(sent.code(run))) for run in sent.runs):
            self.complain(f"{sent.key} is EXPIRED, and ran to {[sent.code(run) for run in sent.runs]}")
