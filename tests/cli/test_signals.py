"""Signals to a worker process, and to what its tasks fork."""

from __future__ import annotations

import signal

import pytest

from .shell import both_loops, once
from .yard import Yard


@once
@both_loops
def test_signals_to_what_a_task_forks_are_not_the_worker_s(yard: Yard, backend: str) -> None:
    held, forking = yard.send("held", (1,)), yard.send("forks", ())
    with yard.worker("-v", "--backend", backend) as started:
        started.holders(1)
        assert yard.results(forking) == "[True]"
        assert "drains" not in started.log
        yard.release()
        assert yard.results(held) == "[1]"
        assert started.process.poll() is None
        started.process.send_signal(signal.SIGTERM)
        assert started.end() == 0


@once
@both_loops
@pytest.mark.parametrize("is_ignored", [False, True])
def test_sighup_drains_unless_it_is_ignored(yard: Yard, backend: str, is_ignored: bool) -> None:
    launcher = "import signal, sys, runpy; signal.signal(signal.SIGHUP, signal.SIG_IGN); "
    launcher += "sys.argv[0] = 'horsies'; runpy.run_module('horsies', run_name='__main__')"
    task_ids = yard.send("held", (1,))
    way = ("-c", launcher) if is_ignored else ("-m", "horsies")
    with yard.worker("-v", "--backend", backend, launcher=way) as started:
        started.holders(1)
        started.process.send_signal(signal.SIGHUP)
        if is_ignored:
            assert yard.results(yard.send("hangs_up", ())) == "[1]"
            assert "drains" not in started.log
            started.process.send_signal(signal.SIGTERM)
        started.wait_logged("drains")
        yard.release()
        assert started.end() == 0
    assert yard.results(task_ids) == "[1]"


@once
@both_loops
@pytest.mark.parametrize("processes", [(), ("--processes", "1")])
def test_a_task_that_swallows_its_cancellation_does_not_keep_the_process(
    yard: Yard, backend: str, processes: tuple[str, ...]
) -> None:
    [task_id] = yard.send("stubborn", ())
    with yard.worker("-v", "--backend", backend, "--drain-timeout", "0.1", *processes) as started:
        started.holders(1)
        started.process.send_signal(signal.SIGTERM)
        assert started.end() == 1
    assert "task 'stubborn' went on although it was cancelled and was abandoned" in started.log
    assert "is killed" not in started.log.replace("are killed", "")
    assert "WORKER_CRASHED" in yard.shell.python(f"anyio.run(shop.get, {task_id!r})")


@once
def test_what_a_task_leaves_behind_in_the_event_loop_does_not_keep_the_process(yard: Yard) -> None:
    [task_id] = yard.send("leaves_one_behind", ())
    with yard.worker("-v") as started:
        started.holders(1)
        assert yard.results([task_id]) == "[None]"
        started.process.send_signal(signal.SIGTERM)
        assert started.end() == 1
    assert "the event loop did not close" in started.log
