"""The oracle: what user code did, written by itself, one line at a time.

Each line is a single write to a file opened with O_APPEND, so lines of many processes never mix, and what was written
survives a SIGKILL of the writer: it is the kernel's by then.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from pathlib import Path


class Note(StrEnum):
    """What a line says."""

    BEGAN = "began"
    ENDED = "ended"
    CANCELLED = "cancelled"
    HELD = "held"
    """A worker stands at the point where it was told to, for ever."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line. `at` is the machine's monotonic clock, which all processes share, in seconds."""

    note: Note
    task: str
    number: int
    attempt: int
    pid: int
    worker_id: str
    at: float


@dataclass(frozen=True, slots=True)
class Run:
    """One run of user code; `until` is None where it was never seen to end."""

    began: Line
    until: Line | None


class RunLog:
    """The file, for those who write and for those who read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def note(self, note: Note, task: str = "-", number: int = 0, attempt: int = 0, worker_id: str = "-") -> None:
        line = f"{note} {task} {number} {attempt} {os.getpid()} {worker_id} {time.monotonic():.6f}\n"
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)

    def lines(self) -> list[Line]:
        if not self.path.exists():
            return []
        return [_parsed(line) for line in self.path.read_text().splitlines()]


def _parsed(line: str) -> Line:
    note, task, number, attempt, pid, worker_id, at = line.split(" ")
    return Line(Note(note), task, int(number), int(attempt), int(pid), worker_id, float(at))


def runs_of(lines: Iterable[Line]) -> dict[int, list[Run]]:
    """The runs of each task, in order."""
    began: dict[tuple[int, int, int], Line] = {}
    until: dict[tuple[int, int, int], Line] = {}
    for line in lines:
        key = (line.number, line.attempt, line.pid)
        if line.note is Note.BEGAN:
            began[key] = line
        elif line.note in (Note.ENDED, Note.CANCELLED):
            until[key] = line
    runs: dict[int, list[Run]] = defaultdict(list)
    for key, line in began.items():
        runs[line.number].append(Run(line, until.get(key)))
    return runs


def overlaps(runs: Mapping[int, list[Run]], deaths: Mapping[int, float]) -> list[int]:
    """Tasks of which two runs went on at the same time; `deaths` says when processes were killed."""
    found = []
    for number, of_one in runs.items():
        for earlier, later in pairwise(of_one):
            if _gone_at(earlier, deaths) > later.began.at:
                found.append(number)
    return found


def most_at_once(runs: Mapping[int, list[Run]], deaths: Mapping[int, float]) -> int:
    """How many runs went on at the same time at most; a run on a killed process lasts until the kill."""
    changes = sorted(_changes(runs, deaths))
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def _changes(runs: Mapping[int, list[Run]], deaths: Mapping[int, float]) -> Iterator[tuple[float, int]]:
    for of_one in runs.values():
        for run in of_one:
            yield run.began.at, 1
            yield _gone_at(run, deaths), -1


def _gone_at(run: Run, deaths: Mapping[int, float]) -> float:
    death = deaths.get(run.began.pid, float("inf"))
    return death if run.until is None else min(run.until.at, death)
