"""The oracle itself: it sees what it is there to see."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from .runs import Line, Note, RunLog, most_at_once, overlaps, runs_of
from .workers import ROOT


def line(note: Note, number: int, at: float, *, attempt: int = 1, pid: int = 1) -> Line:
    return Line(note, "once", number, attempt, pid, "w", at)


ONE_AFTER_THE_OTHER = [
    line(Note.BEGAN, 1, 0.0),
    line(Note.ENDED, 1, 1.0),
    line(Note.BEGAN, 1, 2.0, attempt=2, pid=2),
]
AT_ONCE = [line(Note.BEGAN, 1, 0.0), line(Note.BEGAN, 1, 2.0, attempt=2, pid=2)]


def test_runs_of_one_task_at_once_are_seen_and_a_killed_process_runs_nothing() -> None:
    assert overlaps(runs_of(ONE_AFTER_THE_OTHER), {}) == []
    assert overlaps(runs_of(AT_ONCE), {}) == [1]
    assert overlaps(runs_of(AT_ONCE), {1: 1.5}) == []
    assert overlaps(runs_of(AT_ONCE), {1: 2.5}) == [1]


def test_the_most_runs_at_once_are_counted() -> None:
    three = [line(Note.BEGAN, n, float(n)) for n in range(3)]
    assert most_at_once(runs_of(three), {}) == 3
    assert most_at_once(runs_of([*three, line(Note.ENDED, 0, 1.5)]), {}) == 2
    assert most_at_once(runs_of(three), {1: 1.5}) == 2
    assert most_at_once(runs_of([]), {}) == 0


def test_what_was_noted_survives_a_sigkill_of_the_writer(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "runs.log")
    code = (
        "import sys, time; from pathlib import Path; from tests.chaos.runs import Note, RunLog;"
        "log = RunLog(Path(sys.argv[1]));"
        "log.note(Note.BEGAN, 'once', 7, 1, 'w'); print('noted', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(log.path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "noted\n"
        writer.send_signal(signal.SIGKILL)
    [noted] = log.lines()
    assert (noted.note, noted.task, noted.number, noted.pid) == (Note.BEGAN, "once", 7, writer.pid)
