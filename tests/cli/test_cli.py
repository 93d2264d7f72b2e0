"""The command line as a shell sees it: what it prints, and how it exits."""

from __future__ import annotations

import json
import re
import signal
from datetime import datetime

import psycopg
import pytest

from .shell import Shell, both_loops, once, stored


@stored
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_worker_process_runs_what_another_sent(shell: Shell, backend: str) -> None:
    task_id = shell.python("anyio.run(shop.send, 'add', 2, 3)")
    done = shell.run("worker", "shop:app", "--backend", backend, "--concurrency", "5", "--until-idle")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert shell.python(f"anyio.run(shop.get, '{task_id}')") == "Ok(value=5)"


@stored
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_sigterm_lets_running_tasks_end(shell: Shell, backend: str) -> None:
    task_id = shell.python("anyio.run(shop.send, 'patient')")
    with shell.start("worker", "shop:app", "--backend", backend, "--queues", "default") as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "running\n"
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 0
    assert shell.python(f"anyio.run(shop.get, '{task_id}')") == "Ok(value='done')"


@once
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_thread_that_does_not_return_is_left_behind_and_named(shell: Shell, backend: str) -> None:
    task_id = shell.python("anyio.run(shop.send, 'stuck')")
    with shell.start("worker", "shop:app", "--backend", backend, "--drain-timeout", "0.1") as worker:
        assert worker.stdout is not None
        assert worker.stderr is not None
        assert worker.stdout.readline() == "stuck\n"
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 1
        assert "'stuck' did not return" in worker.stderr.read()
    assert "WORKER_CRASHED" in shell.python(f"anyio.run(shop.get, '{task_id}')")


@stored
def test_check_and_migrate(shell: Shell) -> None:
    assert "3 tasks, 2 queues" in shell.run("check", "shop:app").stdout
    live = shell.run("check", "shop:app", "--live", "--backend", "trio")
    assert live.returncode == 0
    assert len(live.stdout.splitlines()) == 2
    assert "CREATE TABLE" in shell.run("migrate", "shop:app", "--sql").stdout
    state = shell.run("migrate", "shop:app", "--status")
    assert (state.returncode, state.stderr) == (0, "")
    assert state.stdout.startswith("up to date: version ")
    done = shell.run("migrate", "shop:app")
    assert (done.returncode, done.stderr) == (0, "")
    assert "up to date" in done.stdout


@stored
def test_the_status_of_a_database_without_a_schema(shell: Shell) -> None:
    state = shell.run("migrate", "shop:app", "--status", "--backend", "trio")
    assert (state.returncode, state.stderr) == (1, "")
    assert "there is no schema yet" in state.stdout
    assert "missing: 001_tasks.sql" in state.stdout


@once
@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("worker", "shop"), 2, "HRS-207"),
        (("worker", "shop:nothing"), 2, "HRS-207"),
        (("worker", "shop:other"), 2, "HRS-207"),
        (("worker", "no_such_module:app"), 1, "HRS-210"),
        (("worker", "shop:app", "--queues", "nowhere"), 2, "HRS-215"),
        (("worker", "shop:app", "--concurrency", "0"), 2, "HRS-215"),
        (("worker", "shop:app", "--concurrency", "many"), 2, "--concurrency"),
        (("worker", "shop:app", "--queues", ","), 2, "HRS-215"),
        (("worker", "shop:app", "--drain-timeout", "nan"), 2, "HRS-215"),
        (("worker", "shop:app", "--drain-timeout", "inf", "--processes", "2"), 2, "HRS-215"),
        (("worker", "shop:app", "--name", ""), 2, "HRS-215"),
        (("worker", "shop:app", "--max-tasks", "0"), 2, "worker.max_tasks"),
        (("worker", "shop:app", "--max-memory", "-1", "--processes", "2"), 2, "worker.max_memory"),
        (("worker", "shop:app", "--processes", "0"), 2, "--processes"),
        (("worker", "shop:app", "--processes", "2.5"), 2, "--processes"),
        (("worker", "shop:app", "--health-port", "99999"), 2, "--health-port"),
        (("worker", "shop:app", "--health-port", "65534", "--processes", "3"), 2, "HRS-206"),
        (("worker", "shop:app", "--health-port", "8080", "--health-host", "no such host"), 2, "HRS-206"),
        (("worker", "shop:app", "--log-format", "xml"), 2, "--log-format"),
        (("worker", "shop:app", "--log-level", "loud"), 2, "--log-level"),
        (("worker", "shop:app", "--backend", "curio"), 2, "--backend"),
        (("nonsense",), 2, "nonsense"),
        (("queue", "pause", "shop:app", "nowhere"), 2, "no queue 'nowhere'"),
    ],
)
def test_wrong_usage_is_one_message_and_no_traceback(
    shell: Shell, args: tuple[str, ...], code: int, message: str
) -> None:
    done = shell.run(*args)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


@stored
def test_a_queue_is_paused_looked_at_and_resumed(shell: Shell) -> None:
    assert "'images' is paused" in shell.run("queue", "pause", "shop:app", "images").stdout
    assert "paused already" in shell.run("queue", "pause", "shop:app", "images").stdout
    shell.python("anyio.run(shop.send, 'add', 2, 3)")
    listed = shell.run("queue", "list", "shop:app", env={"COLUMNS": "200"})
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "paused since" in listed.stdout
    default, images = json.loads(shell.run("queue", "list", "shop:app", "--json").stdout)
    assert (default["name"], default["ready"], default["paused_at"]) == ("default", 1, None)
    assert (images["name"], images["ready"]) == ("images", 0)
    assert datetime.fromisoformat(images["paused_at"]).tzinfo is not None
    assert "claimed from again" in shell.run("queue", "resume", "shop:app", "images").stdout
    assert "was not paused" in shell.run("queue", "resume", "shop:app", "images").stdout


@once
@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "HRS-203"),
        ("mysql://localhost/x", "HRS-217"),
        ("sqlite://relative.db", "HRS-203"),
        ("sqlite:////no/such/folder/x.db", "HRS-211"),
        ("postgresql://me:hunter2@127.0.0.1:1/x?connect_timeout=2", "HRS-211"),
        ("postgresql://me@127.0.0.1:nonsense/x", "port"),
    ],
)
def test_a_database_that_cannot_be_had_is_one_message(shell: Shell, url: str, message: str) -> None:
    done = shell.run("worker", "shop:app", env={"HORSIES_DATABASE_URL": url})
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr


@once
@pytest.mark.parametrize("variable", ["HORSIES_DATABASE_URL", "HORSIES_SCHEMA", "HORSIES_LISTEN_URL"])
@pytest.mark.parametrize("value", ["", "Non sense", "://", "'; --", "sqlite:///\udcff.db"])
def test_a_bad_variable_is_one_message_that_names_it(shell: Shell, variable: str, value: str) -> None:
    done = shell.run("worker", "shop:app", env={variable: value})
    assert (done.returncode, done.stdout) == (1, "")
    assert "HRS-203" in done.stderr
    assert variable in done.stderr
    assert "Traceback" not in done.stderr


@once
@both_loops
def test_the_demo_loses_nothing(shell: Shell, backend: str) -> None:
    done = shell.run("demo", "--db", "sqlite", "--tasks", "100", "--backend", backend)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"workflow +106 nodes in ", done.stdout)
    assert re.search(r"schedule +\d+ slots, 0.5 s apart, each sent for once", done.stdout)


HASTY = """
from horsies import AppConfig, Horsies, RecoveryConfig
app = Horsies(AppConfig.from_env(recovery=RecoveryConfig(heartbeat_interval=0.2, dead_after=2.0)))
"""


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_schema_that_is_dropped_under_a_worker_is_said_without_a_traceback(shell: Shell, backend: str) -> None:
    (shell.folder / "hasty.py").write_text(HASTY)
    with shell.start("worker", "hasty:app", "--backend", backend, "-v") as worker:
        assert worker.stderr is not None
        assert "is ready" in worker.stderr.readline()
        with psycopg.connect(shell.env["HORSIES_DATABASE_URL"], autocommit=True) as connection:
            connection.execute(f"DROP SCHEMA {shell.env['HORSIES_SCHEMA']} CASCADE")
        said = ""
        while "does not exist" not in said:
            said += (line := worker.stderr.readline())
            assert line, said
        assert worker.poll() is None
        worker.send_signal(signal.SIGTERM)
        said += worker.stderr.read()
        worker.wait(30)
    assert "Traceback" not in said
