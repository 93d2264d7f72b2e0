"""A whole run: every case of every subject on every loop, in rounds, each measurement in a process of its own."""

from __future__ import annotations

import importlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from importlib import metadata
from types import ModuleType

from .cases import PEERS, SUBJECTS, Case
from .database import fresh_database, version
from .figures import Figures, Row
from .one import Order

TIMEOUT = 120.0
"""Seconds after which a measurement is given up."""
_OF_ORDER = frozenset(field.name for field in fields(Order))


@dataclass(frozen=True)
class Measurement:
    """One subject of a case on one loop."""

    case: Case
    subject: str
    loop: str

    def order(self, url: str) -> Order:
        return Order(
            measure=self.case.measure,
            subject=self.subject,
            loop=self.loop,
            url=url,
            tasks=self.case.tasks[self.subject],
            **self.case.given,
        )


def import_subjects() -> tuple[dict[str, ModuleType], dict[str, str]]:
    """The subjects that are here, and for each of the others why not."""
    present, missing = {}, {}
    for name in SUBJECTS:
        try:
            present[name] = importlib.import_module(f"benchmarks.subjects.{name}")
        except ImportError as error:
            missing[name] = f"not installed ({error})"
    return present, missing


def plan(cases: Iterable[Case], subjects: dict[str, ModuleType]) -> list[Measurement]:
    """What one round measures, in order."""
    return [
        Measurement(case, name, loop)
        for case in cases
        for name in case.tasks
        if name in subjects and case.kinds <= subjects[name].KINDS
        for loop in case.loops
        if loop in subjects[name].LOOPS
    ]


def run(url: str, measurements: Sequence[Measurement], rounds: int, say: Callable[[str], None]) -> list[Row]:
    """Rounds of all `measurements`, interleaved. One that failed is not tried again. Ctrl-C ends with what there is."""
    rows = [Row(case=one.case.name, subject=one.subject, loop=one.loop) for one in measurements]
    with suppress(KeyboardInterrupt):
        for number in range(1, rounds + 1):
            for one, row in zip(measurements, rows, strict=True):
                if row.error is not None:
                    continue
                say(f"round {number} of {rounds}: {row.case}, {row.subject} on {row.loop}")
                with fresh_database(url) as database:
                    try:
                        row.rounds.append(_measure(one.order(database)))
                    except MeasurementError as error:
                        row.error = str(error)
    return [row for row in rows if row.rounds or row.error]


class MeasurementError(Exception):
    """A measurement ended without figures; the message is the last it had to say."""


def _measure(order: Order) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.one", order.as_json()]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        raise MeasurementError(f"it took more than {TIMEOUT:g} s") from None
    if done.returncode:
        raise MeasurementError((done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1].strip(" |"))
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def circumstances(url: str) -> dict[str, str]:
    """What was measured with, where and when."""
    versions = {}
    for peer in PEERS:
        try:
            versions[peer] = metadata.version(peer)
        except metadata.PackageNotFoundError:
            continue
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "Python": platform.python_version(),
        "Postgres": version(url),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        **versions,
    }


def as_json(figures: Figures, about: dict[str, str], command: str) -> str:
    rows = [vars(row) for row in figures.rows]
    document = {"command": command, "about": about, "missing": dict(figures.missing), "rows": rows}
    return json.dumps(document, indent=1) + "\n"
