"""Schedules on the command line: looked at, paused, sent for by hand, and sent for by processes of their own."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest

from .shell import Shell, both_loops, once, stored

ROTA = """
from datetime import datetime, time, timedelta, timezone
from horsies import AppConfig, Daily, Every, Horsies, PayloadPolicy

app = Horsies(AppConfig.from_env(payload=PayloadPolicy(reject_bytes=400)))

@app.task
async def add(a: int, b: int) -> int:
    return a + b

@app.task
async def say(words: list[str]) -> None: ...

app.schedule("often", add, Every(0.5), args=(2, 3))
app.schedule("nightly", add, Daily(time(3), tz="Europe/Paris"), args=(2, 3), overlap="skip")
app.schedule("off", add, Every(0.5), args=(2, 3), enabled=False)
app.schedule(
    "three days",
    add,
    Every(timedelta(days=1)),
    args=(2, 3),
    start=datetime(2026, 1, 1, tzinfo=timezone.utc),
    end=datetime(2026, 1, 3, tzinfo=timezone.utc),
)
"""
WORDY = ROTA + 'app.schedule("wordy", say, Every(0.5), args=(["word"] * 200,))\n'
OTHER = """
from horsies import AppConfig, Every, Horsies, task

@task
async def tidy() -> None: ...

app = Horsies(AppConfig.from_env())
app.include(tidy)
app.schedule("else[where]", tidy, Every(3600))
"""
PATIENCE = 30.0


@pytest.fixture
def rota(shell: Shell) -> Shell:
    (shell.folder / "rota.py").write_text(ROTA)
    return shell


def listed(shell: Shell, locator: str = "rota:app") -> dict[str, dict[str, str | bool | None]]:
    done = shell.run("schedule", "list", locator, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return {info["name"]: info for info in json.loads(done.stdout)}


def table(shell: Shell, locator: str = "rota:app") -> dict[str, str]:
    """The rows by their first word."""
    done = shell.run("schedule", "list", locator, env={"COLUMNS": "250"})
    assert (done.returncode, done.stderr) == (0, "")
    return {line.split()[0]: line for line in done.stdout.splitlines()}


@stored
def test_schedules_are_listed_before_they_have_begun(rota: Shell) -> None:
    infos = listed(rota)
    assert list(infos) == ["often", "nightly", "off", "three days"]
    nightly = infos["nightly"]
    assert nightly["task_name"] == "add"
    assert nightly["timing"] == "daily at 03:00:00 Europe/Paris"
    assert datetime.fromisoformat(str(nightly["next_slot"])) > datetime.now(UTC)
    assert [infos["off"][field] for field in ("enabled", "next_slot")] == [False, None]
    assert infos["three days"]["next_slot"] is None
    rows = table(rota)
    assert "disabled" in rows["off"]
    assert re.search(r"every 0:00:00.500000  +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.500)? *$", rows["often"])


@stored
def test_a_schedule_is_paused_and_resumed(rota: Shell) -> None:
    assert rota.run("schedule", "pause", "rota:app", "nightly").stdout == "schedule 'nightly' is paused\n"
    assert "was paused already" in rota.run("schedule", "pause", "rota:app", "nightly").stdout
    assert datetime.fromisoformat(str(listed(rota)["nightly"]["paused_at"])).tzinfo is not None
    row = table(rota)["nightly"]
    assert "paused since" in row
    assert "03:00:00 Europe/Paris   " in row, "a next slot that will not come"
    assert rota.run("schedule", "resume", "rota:app", "nightly").stdout == "schedule 'nightly' is sent for again\n"
    assert "was not paused" in rota.run("schedule", "resume", "rota:app", "nightly").stdout
    assert listed(rota)["nightly"]["paused_at"] is None


@stored
def test_schedules_of_others_are_shown_and_not_touched(rota: Shell) -> None:
    (rota.folder / "other.py").write_text(OTHER)
    assert rota.run("schedule", "pause", "other:app", "else[where]").returncode == 0
    info = listed(rota)["else[where]"]
    assert (info["task_name"], info["enabled"], info["timing"]) == (None, None, "every 1:00:00")
    assert "not of this application; paused since" in table(rota)["else[where]"]
    done = rota.run("schedule", "resume", "rota:app", "else[where]")
    assert (done.returncode, done.stdout) == (2, "")
    assert "'else[where]'" in done.stderr


@stored
def test_a_schedule_is_triggered(rota: Shell) -> None:
    first, second = (rota.run("schedule", "trigger", "rota:app", "often") for _ in range(2))
    assert (first.returncode, first.stderr, second.returncode) == (0, "", 0)
    assert first.stdout != second.stdout
    assert rota.run("worker", "rota:app", "--until-idle").returncode == 0
    assert rota.python(f"anyio.run(shop.get, {first.stdout.strip()!r})") == "Ok(value=5)"


@once
def test_what_overlap_forbids_is_not_triggered_twice(rota: Shell) -> None:
    first, second = (rota.run("schedule", "trigger", "rota:app", "nightly") for _ in range(2))
    assert (first.returncode, first.stderr) == (0, "")
    assert (second.returncode, second.stdout) == (0, first.stdout)
    assert "nothing was sent" in second.stderr


@once
def test_a_trigger_that_is_refused_is_one_message(rota: Shell) -> None:
    done = rota.run("schedule", "trigger", "rota:app", "often", env={"HORSIES_SUPPRESS_SENDS": "1"})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("horsies: SEND_SUPPRESSED")
    assert len(done.stderr.splitlines()) == 1


@stored
def test_a_range_is_sent_for_once(rota: Shell) -> None:
    often = ("schedule", "backfill", "rota:app", "often")
    bounds = ("--start", "2026-01-31T04:00:00+01:00", "--end", "2026-01-31T03:00:02Z")
    for expected in ("sent 5, and 0 had", "sent 0, and 5 had"):
        done = rota.run(*often, *bounds)
        assert (done.returncode, done.stderr) == (0, "")
        assert expected in done.stdout
    three_days = rota.run("schedule", "backfill", "rota:app", "three days", "--start", "2026-01-02T00:00:00Z")
    assert "sent 2, and 0 had" in three_days.stdout, "the end is now"
    assert "sent 0, and 0 had" in rota.run(*often, "--start", "9999-12-31T23:59:59-14:00").stdout


@once
@pytest.mark.parametrize("start", ["0001-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00"])
def test_a_range_may_begin_with_the_calendar(rota: Shell, start: str) -> None:
    three_days = ("schedule", "backfill", "rota:app", "three days")
    done = rota.run(*three_days, "--start", start, "--end", "9999-12-31T23:59:59-14:00")
    assert (done.returncode, done.stderr) == (0, "")
    assert "sent 3, and 0 had" in done.stdout
    assert "sent 0, and 0 had" in rota.run(*three_days, "--start", start, "--end", start).stdout


@once
@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("pause", "rota:app", "nowhere"), "its schedules: often, nightly, off, three days"),
        (("resume", "rota:app", "nowhere"), "HRS-206"),
        (("trigger", "rota:app", "nowhere"), "HRS-206"),
        (("trigger", "shop:app", "nowhere"), "its schedules: none"),
        (("backfill", "rota:app", "nowhere", "--start", "2026-01-31T03:00:00Z"), "HRS-206"),
        (("backfill", "rota:app", "often"), "--start"),
        (("backfill", "rota:app", "often", "--start", "2026-01-31T03:00:00"), "--start: '2026-01-31T03:00:00' has no"),
        (("backfill", "rota:app", "often", "--start", "yesterday"), "--start: 'yesterday' is not an instant"),
        (("backfill", "rota:app", "often", "--start", "2026-01-31T03:00:00Z", "--end", "1"), "--end: '1'"),
        (
            ("backfill", "rota:app", "often", "--start", "2026-01-31T03:00:00Z", "--end", "2026-01-31T02:00:00Z"),
            "--end is before --start",
        ),
        (("list", "rota"), "HRS-207"),
    ],
)
def test_wrong_usage_is_one_message_and_no_traceback(rota: Shell, args: tuple[str, ...], message: str) -> None:
    done = rota.run("schedule", *args, env={"COLUMNS": "200"})
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@once
def test_check_counts_schedules_and_shows_all_that_is_wrong_with_them(rota: Shell) -> None:
    assert "2 tasks, 1 queues, 4 schedules" in rota.run("check", "rota:app").stdout
    assert "0 schedules" in rota.run("check", "shop:app").stdout
    declared = 'app.schedule("bad", add, Cron("* * * * *"), args=(1, "x"), jitter=-1.0, good_until=3)\n'
    (rota.folder / "rota.py").write_text(ROTA.replace("Daily,", "Cron, Daily,", 1) + declared)
    wrong = rota.run("check", "rota:app")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    for problem in ("3 problems", "jitter is not", "good_until is not", "argument 'b'"):
        assert problem in wrong.stderr
    assert wrong.stderr.count("[HRS-205]") == 4
    assert "Traceback" not in wrong.stderr
    (rota.folder / "rota.py").write_text(ROTA.replace("Daily,", "RetryPolicy, Daily,", 1) + UNKNOWN_POLICY)
    unknown = rota.run("check", "rota:app")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "schedule 'patient': " in unknown.stderr
    assert "schedule 'very patient': " in unknown.stderr


UNKNOWN_POLICY = """
app.schedule("patient", add, Every(5), args=(1, 2), retry="of ours")
app.schedule("very patient", add, Every(5), args=(1, 2), retry="of theirs")
"""


@contextmanager
def scheduler(shell: Shell, log: Path, *args: str) -> Iterator[subprocess.Popen[str]]:
    """One that is ready; its log is a file, which no pipe bounds."""
    with shell.start("scheduler", "rota:app", "-v", *args, stderr=log) as process:
        try:
            eventually_logged(log, "the scheduler is ready")
            yield process
        finally:
            process.kill()


def eventually_logged(log: Path, text: str, times: int = 1) -> None:
    deadline = time.monotonic() + PATIENCE
    while log.read_text().count(text) < times:
        assert time.monotonic() < deadline, f"{text!r} {times} times in: {log.read_text()}"
        time.sleep(0.02)


@stored
@pytest.mark.parametrize(("backend", "number"), [("asyncio", signal.SIGTERM), ("trio", signal.SIGINT)])
def test_a_scheduler_sends_until_it_is_told_to_stop(rota: Shell, backend: str, number: signal.Signals) -> None:
    log = rota.folder / "log"
    with scheduler(rota, log, "--backend", backend) as process:
        eventually_logged(log, "schedule 'often': sent 1", 3)
        process.send_signal(number)
        assert process.wait(PATIENCE) == 0
    assert "Traceback" not in log.read_text()
    often = listed(rota)["often"]
    assert often["problem"] is None
    assert rota.run("worker", "rota:app", "--until-idle").returncode == 0
    assert rota.python(f"anyio.run(shop.get, {often['last_task_id']!r})") == "Ok(value=5)"


@once
@both_loops
def test_what_cannot_be_sent_is_shown_and_stops_nothing_else(shell: Shell, backend: str) -> None:
    (shell.folder / "rota.py").write_text(WORDY)
    log = shell.folder / "log"
    with scheduler(shell, log, "--backend", backend) as process:
        eventually_logged(log, "schedule 'wordy': nothing is sent", 2)
        eventually_logged(log, "schedule 'often': sent 1", 2)
        process.terminate()
        assert process.wait(PATIENCE) == 0
    info = listed(shell)["wordy"]
    assert "400" in str(info["problem"])
    assert info["last_slot"] is None
    assert "400" in table(shell)["wordy"]


@once
@both_loops
def test_a_scheduler_that_waits_for_its_database_leaves_when_told(rota: Shell, backend: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(PATIENCE)
        rota.env["HORSIES_DATABASE_URL"] = f"postgresql://127.0.0.1:{silent.getsockname()[1]}/x"
        with rota.start("scheduler", "rota:app", "--backend", backend) as process:
            assert process.stderr is not None
            connection, _ = silent.accept()
            with connection:
                process.terminate()
                assert process.wait(PATIENCE) == 0
            assert process.stderr.read() == ""


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@both_loops
def test_a_schema_that_is_dropped_under_a_scheduler_is_said_without_a_traceback(rota: Shell, backend: str) -> None:
    log = rota.folder / "log"
    with scheduler(rota, log, "--backend", backend) as process:
        eventually_logged(log, "schedule 'often': sent 1")
        with psycopg.connect(rota.env["HORSIES_DATABASE_URL"], autocommit=True) as connection:
            connection.execute(f"DROP SCHEMA {rota.env['HORSIES_SCHEMA']} CASCADE".encode())
        eventually_logged(log, "does not exist")
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    assert "Traceback" not in log.read_text()


@once
def test_an_application_without_schedules_has_no_scheduler(shell: Shell) -> None:
    done = shell.run("scheduler", "shop:app", "--backend", "trio")
    assert (done.returncode, done.stdout) == (1, "")
    assert "HRS-205" in done.stderr
    assert "no schedules" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_two_schedulers_send_once_for_each_slot(rota: Shell) -> None:
    logs = {backend: rota.folder / f"log of {backend}" for backend in ("asyncio", "trio")}
    with ExitStack() as stack:
        processes = [stack.enter_context(scheduler(rota, log, "--backend", backend)) for backend, log in logs.items()]
        deadline = time.monotonic() + PATIENCE
        while len(slots(rota)) < 8:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for process in processes:
            process.terminate()
        assert [process.wait(PATIENCE) for process in processes] == [0, 0]
    sent = slots(rota)
    steps = {later - earlier for earlier, later in pairwise(sent)}
    assert steps == {timedelta(seconds=0.5)}, "a slot was left out, or sent for twice"
    told = re.findall(r"'often': sent (\d+)", "".join(log.read_text() for log in logs.values()))
    assert sum(int(number) for number in told) == len(sent)


def slots(shell: Shell) -> list[datetime]:
    """Those of the tasks there are, in order."""
    with psycopg.connect(shell.env["HORSIES_DATABASE_URL"]) as connection:
        query = f"SELECT sent_at FROM {shell.env['HORSIES_SCHEMA']}.tasks WHERE task_name = 'add' ORDER BY sent_at"
        return [slot for (slot,) in connection.execute(query.encode())]
