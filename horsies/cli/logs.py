"""How a worker process writes its logs: as text for people, or as one JSON object a line for machines.

Of what a record carries beside its message only `CONTEXT` is written, so that nothing else a caller put there, such as
an argument of a task, finds its way into a log by accident.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from enum import StrEnum

CONTEXT = ("task_id", "task_name", "queue", "attempt", "worker_id", "error_code")
"""What horsies knows of the task or worker that a record is about."""


class LogFormat(StrEnum):
    text = "text"
    json = "json"


class LogLevel(StrEnum):
    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"
    critical = "critical"


class JsonFormatter(logging.Formatter):
    """One object: timestamp, level, logger and message; `CONTEXT` as far as it is known; the exception's text."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_context(record),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)


class TextFormatter(logging.Formatter):
    """A line; where a record is about a task that its message does not name, the task stands behind it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the name is logging's
        line = super().formatMessage(record)
        context = _context(record)
        task_id = context.get("task_id")
        if task_id is None or str(task_id) in record.message:
            return line
        return f"{line} [{' '.join(f'{key}={value}' for key, value in context.items())}]"


def _context(record: logging.LogRecord) -> dict[str, object]:
    return {key: vars(record)[key] for key in CONTEXT if vars(record).get(key) is not None}


Log = tuple[LogFormat, LogLevel]
"""How logs are written, and the least that is."""


def configure(form: LogFormat, level: LogLevel) -> None:
    """Write the logs of this process to its standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form is LogFormat.json else TextFormatter())
    logging.basicConfig(level=level.value.upper(), handlers=[handler])
