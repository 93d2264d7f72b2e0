"""Logs for machines and for people."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timedelta
from typing import Any

import pytest

from horsies.cli.logs import JsonFormatter, TextFormatter

from .shell import both_loops, once
from .yard import Yard

SECRET = "s3cret-argument"


def record(message: str, *args: object, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("horsies.task", logging.WARNING, __file__, 1, message, args, None)
    vars(made).update(extra)
    return made


class TestJson:
    def test_has_the_same_keys_in_the_same_order(self) -> None:
        text = JsonFormatter().format(record("%d of %d\nlines", 1, 2, worker_id="w", task_id="t", colour="red"))
        fields = json.loads(text)
        assert list(fields) == ["timestamp", "level", "logger", "message", "task_id", "worker_id"]
        assert fields["message"] == "1 of 2\nlines"
        assert datetime.fromisoformat(fields["timestamp"]).utcoffset() == timedelta(0)
        assert "\n" not in text

    def test_shows_an_exception_as_text(self) -> None:
        made = record("oh")
        try:
            raise LookupError("no such shelf")
        except LookupError:
            made.exc_info = sys.exc_info()
        fields = json.loads(JsonFormatter().format(made))
        assert fields["exception"].startswith("Traceback")
        assert fields["exception"].endswith("LookupError: no such shelf")

    def test_writes_whatever_is_given(self) -> None:
        fields = json.loads(JsonFormatter().format(record("\ud800 \0", task_id=object(), attempt=None)))
        assert fields["message"] == "\ud800 \0"
        assert fields["task_id"].startswith("<object")
        assert "attempt" not in fields


class TestText:
    def test_names_the_task_that_the_message_does_not_name(self) -> None:
        line = TextFormatter().format(record("half way", task_id="t-1", attempt=2, colour="red"))
        assert line.endswith("WARNING horsies.task half way [task_id=t-1 attempt=2]")

    def test_names_it_once(self) -> None:
        assert TextFormatter().format(record("task t-1 ended", task_id="t-1")).endswith("task t-1 ended")
        assert TextFormatter().format(record("worker w", worker_id="w")).endswith("worker w")


def lines(log: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.splitlines()]


@once
@both_loops
@pytest.mark.parametrize("processes", [(), ("--processes", "1")], ids=["alone", "supervised"])
def test_a_worker_writes_objects_with_context_and_without_arguments(
    yard: Yard, backend: str, processes: tuple[str, ...]
) -> None:
    [task_id] = yard.send("telling", (SECRET,))
    options = ("--until-idle", "--backend", backend, "--log-format", "json", "--log-level", "debug", "--name", "mule")
    with yard.worker(*options, *processes) as started:
        assert started.end() == 0
    logged = lines(started.log)
    assert all(list(one)[:4] == ["timestamp", "level", "logger", "message"] for one in logged)
    assert SECRET not in started.log
    half, whole = [one for one in logged if one["logger"] == "horsies.task"]
    assert (half["level"], half["message"], half["task_id"]) == ("WARNING", "half way", task_id)
    assert (half["task_name"], half["queue"], half["attempt"]) == ("telling", "default", 1)
    assert half["worker_id"].startswith("mule:")
    assert "LookupError: no such shelf" in whole["exception"]
    [ended] = [one for one in logged if one.get("error_code") == "SOLD_OUT"]
    assert (ended["task_id"], ended["level"]) == (task_id, "INFO")


@once
@pytest.mark.parametrize(
    ("flags", "shown"),
    [
        ((), False),
        (("-v",), True),
        (("--log-level", "info"), True),
        (("--log-level", "error"), False),
        (("-v", "--log-level", "warning"), False),
    ],
)
def test_levels(yard: Yard, flags: tuple[str, ...], shown: bool) -> None:
    done = yard.shell.run("worker", "yard:app", "--until-idle", *flags)
    assert done.returncode == 0
    assert ("is ready" in done.stderr) is shown
