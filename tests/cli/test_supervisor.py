"""A supervisor of worker processes: what it decides, and what it does with real ones."""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from random import Random

import pytest

from horsies.cli.supervisor import (
    AT_ONCE,
    FAILED,
    FIRST_PAUSE,
    IN_ORDER,
    LONGEST_PAUSE,
    OK,
    STEADY,
    USAGE,
    GiveUp,
    Leave,
    Replace,
    after_end,
    child_arguments,
    described,
    outcome,
    pause,
)

from .shell import both_loops, once
from .yard import Yard, is_leader_of_its_session

TERM, KILL = -signal.SIGTERM, -signal.SIGKILL


class Middle(Random):
    """No jitter."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


def follows(
    code: int, *, lived: float = 1.0, failures: int = 0, stopping: bool = False, until_idle: bool = False
) -> Replace | Leave | GiveUp:
    return after_end(code, lived=lived, failures=failures, stopping=stopping, until_idle=until_idle, random=Middle())


class TestAfterEnd:
    def test_one_that_recycled_itself_is_replaced_at_once_and_its_failures_are_forgotten(self) -> None:
        assert follows(0, failures=5) == Replace(0.0, 0)

    @pytest.mark.parametrize("code", [0, 1, KILL])
    def test_one_that_ended_at_once_is_replaced_later_whatever_its_code(self, code: int) -> None:
        assert follows(code, lived=AT_ONCE / 2, failures=2) == Replace(FIRST_PAUSE * 4, 3)

    @pytest.mark.parametrize("code", [1, 3, KILL, TERM])
    def test_one_that_failed_is_replaced_later_each_time(self, code: int) -> None:
        assert follows(code) == Replace(FIRST_PAUSE, 1)
        assert follows(code, failures=1) == Replace(FIRST_PAUSE * 2, 2)
        assert follows(code, failures=3) == Replace(FIRST_PAUSE * 8, 4)
        assert follows(code, failures=1_000_000) == Replace(LONGEST_PAUSE, 1_000_001)

    def test_one_that_had_lived_a_while_starts_the_count_anew(self) -> None:
        assert follows(KILL, lived=STEADY, failures=7) == Replace(FIRST_PAUSE, 1)

    def test_wrong_usage_ends_everything_also_of_idle_workers(self) -> None:
        assert follows(2) == GiveUp()
        assert follows(2, until_idle=True) == GiveUp()

    def test_exit_code_2_of_one_that_had_worked_is_a_failure_like_any_other(self) -> None:
        assert follows(2, lived=STEADY) == Replace(FIRST_PAUSE, 1)

    def test_until_idle_replaces_nobody(self) -> None:
        assert follows(0, until_idle=True) == Leave(failed=False)
        assert follows(1, until_idle=True) == Leave(failed=True)
        assert follows(KILL, until_idle=True) == Leave(failed=True)

    @pytest.mark.parametrize(("code", "failed"), [(0, False), (TERM, False), (1, True), (2, True), (KILL, True)])
    def test_a_stop_replaces_nobody(self, code: int, failed: bool) -> None:
        assert follows(code, stopping=True) == Leave(failed=failed)

    def test_jitter_is_a_quarter(self) -> None:
        pauses = [pause(2, Random(seed)) for seed in range(500)]
        assert FIRST_PAUSE * 3 <= min(pauses) < FIRST_PAUSE * 3.2
        assert FIRST_PAUSE * 4.8 < max(pauses) <= FIRST_PAUSE * 5


@pytest.mark.parametrize(
    ("code", "stopping", "expected"),
    [
        (IN_ORDER, False, OK),
        (IN_ORDER, True, OK),
        (0, False, FAILED),
        (0, True, OK),
        (USAGE, False, USAGE),
        (3, False, 3),
        (KILL, True, KILL),
    ],
)
def test_exit_code_0_is_no_order_unless_all_stop(code: int, stopping: bool, expected: int) -> None:
    assert outcome(code, stopping=stopping) == expected


def test_exit_codes_in_words() -> None:
    assert "its worker had not stopped" in described(0)
    assert described(IN_ORDER) == "has stopped in order"
    assert described(1) == "ended with exit code 1"
    assert described(KILL) == "was ended by SIGKILL"
    assert described(-250) == "was ended by signal 250"


def test_a_child_gets_the_options_of_the_supervisor() -> None:
    options = {
        "locator": "-strange:app",
        "processes": 3,
        "health_port": 8080,
        "drain_timeout": 0.0,
        "until_idle": False,
        "verbose": True,
        "name": "-a b",
        "threads": None,
        "lifeline": None,
    }
    assert child_arguments(options, 2, 7) == [
        "worker",
        "--health-port=8082",
        "--drain-timeout=0.0",
        "--verbose",
        "--name=-a b",
        "--lifeline=7",
        "--",
        "-strange:app",
    ]


@once
@both_loops
def test_a_killed_child_is_replaced(yard: Yard, backend: str) -> None:
    with yard.worker("--processes", "2", "-v", "--backend", backend) as started:
        started.wait_logged("is ready", 2)
        killed = started.pids()
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        started.wait_logged("was ended by SIGKILL", 2)
        task_ids = yard.send("mark", (1,), (2,))
        assert yard.results(task_ids) == "[1, 2]"
        assert {pid for _, pid in yard.marks()} <= set(started.pids()) - set(killed)
        started.wait_logged("is ready", 4)
        started.process.send_signal(signal.SIGTERM)
        assert started.end() == 0
    assert "Traceback" not in started.log


@once
@both_loops
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_one_signal_stops_all_and_what_runs_ends(yard: Yard, backend: str, number: signal.Signals) -> None:
    task_ids = yard.send("held", (1,), (2,))
    with yard.worker("--processes", "2", "--concurrency", "1", "-v", "--backend", backend) as started:
        assert started.holders(2) == set(started.pids())
        started.process.send_signal(number)
        yard.release()
        assert started.end() == 0
    assert yard.results(task_ids) == "[1, 2]"


@once
def test_ctrl_c_reaches_the_supervisor_alone(yard: Yard) -> None:
    task_ids = yard.send("held", (1,))
    with yard.worker("--processes", "1", "-v", new_session=True) as started:
        [holder] = started.holders(1)
        assert is_leader_of_its_session(holder)
        os.killpg(started.process.pid, signal.SIGINT)  # which is what a terminal does
        yard.release()
        assert started.end() == 0
    assert yard.results(task_ids) == "[1]"


@once
@both_loops
def test_a_second_signal_cuts_the_drain_short(yard: Yard, backend: str) -> None:
    [task_id] = yard.send("held", (1,))
    with yard.worker("--processes", "2", "-v", "--backend", backend) as started:
        started.holders(1)
        started.wait_logged("is ready", 2)
        started.process.send_signal(signal.SIGTERM)
        started.wait_logged("drains", 2)
        started.process.send_signal(signal.SIGTERM)
        assert started.end() == 0
    assert "WORKER_CRASHED" in yard.shell.python(f"anyio.run(shop.get, {task_id!r})")


@once
@both_loops
def test_children_drain_when_the_supervisor_is_killed(yard: Yard, backend: str) -> None:
    task_ids = yard.send("held", (1,), (2,))
    with yard.worker("--processes", "2", "--concurrency", "1", "-v", "--backend", backend) as started:
        assert started.holders(2) == set(started.pids())
        started.process.kill()
        started.process.wait()
        yard.release()
        started.wait_all_ended()
    assert yard.results(task_ids) == "[1, 2]"


@once
def test_a_signal_to_children_that_have_only_begun_to_start_is_no_failure(yard: Yard) -> None:
    with yard.worker("--processes", "2", "-v") as started:
        started.wait_logged("has pid")
        started.process.send_signal(signal.SIGTERM)
        assert started.end() == 0


@once
def test_wrong_usage_that_only_a_child_can_see_stops_all(yard: Yard) -> None:
    with yard.worker("--processes", "2", "--queues", "nowhere") as started:
        assert started.end() == 2
    assert "HRS-215" in started.log
    assert "Traceback" not in started.log


@once
def test_a_child_that_cannot_start_is_tried_again(yard: Yard) -> None:
    (yard.shell.folder / "late.py").write_text("raise OSError('not yet')")
    with yard.worker("--processes", "1", "-v", locator="late:app") as started:
        started.wait_logged("HRS-210", 2)
        (yard.shell.folder / "late.py").write_text("from yard import app")
        started.wait_logged("is ready")
        started.process.send_signal(signal.SIGTERM)
        assert started.end() == 0


@once
@both_loops
@pytest.mark.parametrize("ending", ["os._exit(0)", "sys.exit(0)", "os.kill(os.getpid(), 9)"])
def test_children_that_end_while_they_import_are_not_replaced_at_once(yard: Yard, backend: str, ending: str) -> None:
    (yard.shell.folder / "ends.py").write_text(f"import os, sys\n{ending}\n")
    with yard.worker("--processes", "1", "-v", "--backend", backend, locator="ends:app") as started:
        started.wait_logged("another starts in", 3)
        started.process.send_signal(signal.SIGTERM)
        assert started.end() == 0
    assert "at once" not in started.log
    pauses = [float(pause) for pause in re.findall(r"another starts in ([0-9.]+) s", started.log)]
    assert pauses[0] < pauses[1] < pauses[2]
    assert "Traceback" not in started.log


@once
@both_loops
def test_until_idle_ends_with_its_children(yard: Yard, backend: str) -> None:
    yard.send("mark", *((n,) for n in range(20)))
    with yard.worker("--processes", "2", "--until-idle", "--backend", backend) as started:
        assert started.end() == 0
    assert sorted(n for n, _ in yard.marks()) == list(range(20))
    assert started.log == ""


@pytest.mark.parametrize("database_url", ["postgresql", "sqlite-file"], indirect=True)
@both_loops
def test_children_that_have_started_their_number_of_tasks_are_replaced(yard: Yard, backend: str) -> None:
    numbers = list(range(20))
    task_ids = yard.send("mark", *((n,) for n in numbers))
    with yard.worker("--processes", "2", "--max-tasks", "4", "-v", "--backend", backend) as started:
        assert yard.results(task_ids) == str(numbers)
        started.process.send_signal(signal.SIGTERM)
        assert started.end() == 0
    assert sorted(n for n, _ in yard.marks()) == numbers
    runs = Counter(pid for _, pid in yard.marks())
    assert max(runs.values()) == 4
    assert started.log.count("it has started 4 tasks, which is its max_tasks") >= 4
    assert "WARNING" not in started.log


@once
def test_a_worker_alone_ends_at_its_number_of_tasks(yard: Yard) -> None:
    yard.send("mark", *((n,) for n in range(5)))
    with yard.worker("--max-tasks", "3") as started:
        assert started.end() == 0
    assert len(yard.marks()) == 3


@once
@both_loops
def test_a_child_that_does_not_end_is_killed(yard: Yard, backend: str) -> None:
    yard.send("deaf", ())
    hasty = "from horsies.cli import supervisor; from horsies.cli.main import main; supervisor.GRACE = 0.5; main()"
    options = ("--processes", "2", "--drain-timeout", "0.1", "-v", "--backend", backend)
    with yard.worker(*options, launcher=("-c", hasty)) as started:
        started.holders(1)
        started.wait_logged("is ready", 2)
        started.process.send_signal(signal.SIGTERM)
        assert started.end() == 1
    assert "did not end in time and is killed" in started.log
