"""How Postgres runs the hot statements: by their partial indexes, whatever it believes of the table."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from secrets import token_hex
from typing import Any, TypeAlias
from uuid import UUID

import psycopg
import pytest

from horsies import AppConfig, PoolConfig
from horsies.abc import Transactional
from horsies.plugins.postgres import horsies_brokers
from horsies.plugins.postgres.driver.connection import AnyioConnection
from horsies.plugins.postgres.driver.session import Row, Target, connect_hot
from horsies.plugins.postgres.queries import named_queries

pytestmark = pytest.mark.timeout(120)

Plan: TypeAlias = dict[str, Any]

FILL = """
INSERT INTO {schema}.tasks
    (id, phase, status, queue, priority, due_at, good_until, sent_at, task_name, envelope, sha, worker_id, finished_at)
SELECT
    gen_random_uuid(), phase, status, 'queue' || n % 4, n % 100 + 1,
    now() + CASE phase WHEN 0 THEN 1 ELSE -1 END * n * interval '1 second',
    CASE WHEN n % 10 = 0 THEN now() - interval '1 hour' END,
    now(), 'task', '\\x00', '\\x00',
    CASE phase WHEN 2 THEN 'worker' || n % 50 END, CASE phase WHEN 3 THEN now() END
FROM (VALUES (0, 'PENDING', 5000), (1, 'PENDING', 20000), (2, 'RUNNING', 2000), (3, 'COMPLETED', 30000))
    AS kinds (phase, status, rows)
CROSS JOIN LATERAL generate_series(1, rows) AS n
"""

IDS = "ARRAY['00000000-0000-0000-0000-000000000001']::uuid[]"
VALUES = {
    "now": "NULL",
    "limit": "100",
    "step_over": "true",
    "worker": "'worker1'",
    "dead_after": "20",
    "gap": "10",
    "skipped": IDS,
    "finished_after": "60",
    "queues": "ARRAY['queue0', 'queue1', 'queue2']",
    "ranks": "ARRAY[1, 1, 2]",
    "floors": "ARRAY[0, 50, 0]",
    "sinces": "ARRAY[NULL, now(), NULL]",
    "caps": "ARRAY[NULL, 10, NULL]",
    "cluster_cap": "NULL",
    "capped": "ARRAY['queue1']",
    "ids": IDS,
    "claim_numbers": "ARRAY[1]",
    "verbs": "ARRAY['COMPLETE']",
    "startable": "ARRAY['task']",
    "without": "ARRAY[]::text[]",
    "relaxed": "true",
    "results": "ARRAY['\\x00']::bytea[]",
    "error_codes": "ARRAY[NULL]::text[]",
    "retry_ins": "ARRAY[0]",
    "delays": "ARRAY[0]",
    "unknown": "ARRAY[true]",
    "running": "ARRAY[true]",
    "heard_until": "now()",
    "retries_after_crash": "ARRAY[NULL]::float8[]",
    "shas": "ARRAY['\\x00']::bytea[]",
    "envelopes": "ARRAY['\\x00']::bytea[]",
    "priorities": "ARRAY[1]",
    "sent_ats": "ARRAY[now()]",
    "due_ins": "ARRAY[0]",
    "good_untils": "ARRAY[NULL]::timestamptz[]",
    "names": "ARRAY['task']",
    "unique_keys": "ARRAY['key']",
    "workflow_ids": "ARRAY[]::uuid[]",
    "states": "ARRAY['\\x00']::bytea[]",
    "statuses": "ARRAY['RUNNING']",
    "done": IDS,
    "heard": "ARRAY[1]",
    "id": "'00000000-0000-0000-0000-000000000001'::uuid",
}
INDEXES: dict[str, set[str]] = {
    "tasks.enqueue": set(),
    "tasks.claim": {"tasks_ready", "tasks_held"},
    "tasks.promote": {"tasks_delayed"},
    "tasks.sweep": {"tasks_deadlines"},
    "tasks.overdue": {"tasks_deadlines", "tasks_held"},
    "tasks.expire": {"tasks_pkey"},
    "tasks.leave": {"tasks_held"},
    "tasks.give_back_unknown": {"tasks_held"},
    "tasks.has_due": {"tasks_ready", "tasks_delayed"},
    "tasks.start": {"tasks_pkey"},
    "tasks.finish": {"tasks_pkey"},
    "tasks.give_back": {"tasks_pkey"},
    "tasks.standing": {"tasks_pkey", "tasks_unique"},
    "tasks.cancel": {"tasks_pkey"},
    "workers.beat": set(),
    "workers.lead": set(),
    "tasks.holdings": {"tasks_held"},
    "tasks.begun": {"tasks_held"},
    "tasks.orphans": {"tasks_held"},
    "tasks.reap": {"tasks_pkey"},
    "tasks.old": {"tasks_done"},
    "tasks.prune": {"tasks_pkey"},
    "workflows.tasks_of": {"tasks_of_workflow"},
    "workflows.running_tasks_of": {"tasks_of_workflow"},
    "tasks.ended": {"tasks_pkey"},
    "workflows.news": {"tasks_unadvanced"},
    "workflows.step": {"tasks_pkey"},
    "workflows.unadvanced": {"tasks_unadvanced"},
    "workflows.old_workflows": {"tasks_of_workflow"},
}


STATES = ["empty", "filled since the last analyse", "analysed", "emptied since the last analyse"]


@pytest.fixture(scope="module", params=STATES)
def schema(request: pytest.FixtureRequest, postgres_url: str) -> Iterator[str]:
    """A schema in one of the states in which a plan can be made."""
    name = f"test_{token_hex(6)}"
    config = AppConfig(url=postgres_url, schema=name)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(horsies_brokers()["postgresql"].schema_sql(config).encode())
        connection.execute(f"ALTER TABLE {name}.tasks SET (autovacuum_enabled = false)")
        connection.execute(f"ANALYZE {name}.tasks")
        if request.param != "empty":
            connection.execute(FILL.format(schema=name).encode())
        if request.param in STATES[2:]:
            connection.execute(f"ANALYZE {name}.tasks")
        if request.param == STATES[3]:
            connection.execute(f"DELETE FROM {name}.tasks WHERE phase <> 1 OR due_at < now() - interval '1 minute'")
        yield name
        connection.execute(f"DROP SCHEMA {name} CASCADE")


@pytest.fixture
async def connection(postgres_url: str) -> AsyncIterator[AnyioConnection[Row]]:
    target = Target(postgres_url, connect_timeout=10, statement_timeout=30, pooled=False)
    connection = await connect_hot(target)
    yield connection
    await connection.close()


async def plan_of(connection: AnyioConnection[Row], query: str) -> Plan:
    """The plan that a session of its kind keeps for `query`, whatever its arguments."""
    names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", query)))
    text = re.sub(r"%\((\w+)\)s", lambda match: f"${names.index(match[1]) + 1}", query)
    statement = f"plan_{token_hex(6)}"
    arguments = ", ".join(VALUES[name] for name in names)
    await connection.execute(f"PREPARE {statement} AS {text}")
    cursor = await connection.execute(f"EXPLAIN (FORMAT JSON) EXECUTE {statement}({arguments})")
    (plans,) = await cursor.fetchone() or ([],)
    plan: Plan = plans[0]["Plan"]
    return plan


def nodes(plan: Plan) -> Iterator[Plan]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


@pytest.mark.anyio
@pytest.mark.parametrize("name", INDEXES)
async def test_reads_by_its_index(connection: AnyioConnection[Row], schema: str, name: str) -> None:
    plan = list(nodes(await plan_of(connection, named_queries(schema)[name])))
    reads = [node for node in plan if node.get("Relation Name") == "tasks" and node["Node Type"] != "ModifyTable"]
    assert {node["Node Type"] for node in reads} <= {"Index Scan", "Index Only Scan", "Tid Scan"}
    assert {node["Index Name"] for node in reads if "Index Name" in node} == INDEXES[name]
    assert not {node["Node Type"] for node in plan} & {"Hash Join", "Merge Join"}


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["tasks.claim", "tasks.promote", "tasks.sweep"])
async def test_locks_in_the_order_of_the_index(connection: AnyioConnection[Row], schema: str, name: str) -> None:
    """Nothing sorts beneath the lock: the first rows of the index are locked, and no others are looked at."""
    plan = nodes(await plan_of(connection, named_queries(schema)[name]))
    (lock,) = [node for node in plan if node["Node Type"] == "LockRows"]
    (scan,) = lock["Plans"]
    assert scan["Node Type"] == "Index Scan"
    assert scan["Index Name"] in INDEXES[name]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("name", "relaxed", "commit"),
    [
        ("tasks.claim", "true", "off"),
        ("tasks.claim", "false", "on"),
        ("tasks.promote", "", "off"),
        *((f"tasks.{name}", "", "on") for name in ("start", "finish", "give_back", "leave")),
        *((name, "", "on") for name in ("workers.join", "workers.beat", "queues.pause")),
    ],
)
async def test_only_what_a_crash_may_undo_does_not_wait_for_the_disk(
    connection: AnyioConnection[Row], schema: str, name: str, relaxed: str, commit: str
) -> None:
    given = {**VALUES, "queue": "'queue0'", "relaxed": relaxed}
    query = re.sub(r"%\((\w+)\)s", lambda match: given[match[1]], named_queries(schema)[name])
    await connection.execute("SET synchronous_commit = on")  # the server of the tests has it off
    async with connection.transaction(force_rollback=True):
        await connection.execute(query)
        cursor = await connection.execute("SHOW synchronous_commit")
        assert await cursor.fetchone() == (commit,)
    cursor = await connection.execute("SHOW synchronous_commit")
    assert await cursor.fetchone() == ("on",)


@pytest.mark.anyio
async def test_the_pool_keeps_no_plan(postgres_url: str) -> None:
    """One made while the table was small would read all of it after it has grown."""
    name = f"test_{token_hex(6)}"
    config = AppConfig(url=postgres_url, schema=name, pool=PoolConfig(max_size=1))
    async with horsies_brokers()["postgresql"].open(config, clock=lambda: datetime.now(UTC)) as broker:
        for _ in range(10):
            assert await broker.reader.results([str(UUID(int=1))]) == []
            assert await broker.reader.read(str(UUID(int=1))) is None
        assert isinstance(broker, Transactional)
        async with broker.transaction() as connection:
            kept = await connection.execute("SELECT statement FROM pg_prepared_statements")
            assert [row for row in await kept.fetchall() if name in row[0]] == []
            await connection.execute(f"DROP SCHEMA {name} CASCADE")


@pytest.mark.parametrize(
    "name",
    ["tasks.enqueue", "tasks.claim", "tasks.start", "tasks.finish", "tasks.give_back", "tasks.reap", "tasks.cancel"],
)
def test_notifies_from_a_part_that_runs_once(name: str) -> None:
    """A plain join would run it once for each row of the answer: 200 times the same notice."""
    query = named_queries("horsies")[name]
    calls = re.findall(r"(\w+ AS [\w ]*)\(\s*SELECT count\(pg_notify\(", query)
    assert len(calls) == query.count("pg_notify(")
    assert all(call.endswith(" AS MATERIALIZED ") for call in calls)


@pytest.mark.anyio
async def test_starting_is_a_hot_update(postgres_url: str) -> None:
    """It changes no indexed column and finds room on the page, so that no index grows."""
    name = f"test_{token_hex(6)}"
    config = AppConfig(url=postgres_url, schema=name)
    async with horsies_brokers()["postgresql"].open(config, clock=lambda: datetime.now(UTC)):
        pass
    with psycopg.connect(postgres_url) as connection:
        connection.execute(
            f"""
            INSERT INTO {name}.tasks
                (id, phase, status, queue, priority, due_at, sent_at, task_name, envelope, sha, claim_number, worker_id)
            SELECT gen_random_uuid(), 2, 'CLAIMED', 'q', 1, now(), now(), 't', '\\x00', '\\x00', 1, 'w'
            FROM generate_series(1, 20)
            """.encode()
        )
        ids = [row[0] for row in connection.execute(f"SELECT id FROM {name}.tasks")]
        started = connection.execute(
            named_queries(name)["tasks.start"].encode(),
            {
                "ids": ids,
                "claim_numbers": [1] * len(ids),
                "retries_after_crash": [None] * len(ids),
                "worker": "w",
                "now": None,
            },
        )
        assert started.rowcount == 20
        hot = connection.execute("SELECT pg_stat_get_xact_tuples_hot_updated(%s::regclass)", (f"{name}.tasks",))
        assert hot.fetchone() == (20,)
        connection.execute(f"DROP SCHEMA {name} CASCADE")
