"""Bringing a schema up to date while others use it.

One process at a time does it. It holds an advisory lock in a transaction of a connection of its own: that works through
a transaction pooler too, and has no snapshot while it is idle. The others ask whether the lock is free. They never wait
in a statement, because an index that is built concurrently waits for every statement that began before.

Inserts go on. A step that needs a lock on a table waits at most `_LOCK_WAIT` for it, because all later statements on
that table queue behind it. A pause lets them through before the next try. Each step goes out as one message, so that a
process that is killed leaves no transaction open. `Progress` names the processes that hold a step up.
"""

from __future__ import annotations

import logging
import math
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import anyio
import psycopg
from psycopg import errors

from horsies import AppConfig, HorsiesError

from .driver.connection import AnyioConnection
from .driver.errors import broker_error
from .driver.plain_connection import connect_plain
from .driver.session import Row
from .queries import quoted
from .schema import (
    Step,
    constraint_of,
    exists,
    first_sql,
    lock_key,
    migrations,
    newest_version,
    old_lock_key,
    record_sql,
    steps,
    version_of,
)

_LOCK_WAIT = "150ms"
_GIVE_WAY = "100ms"
"""When an autovacuum that is in the way is asked to stop. Only a superuser may say so; others wait for its end."""
_PAUSE, _LONGEST_PAUSE = 0.25, 2.0
"""Seconds between two tries: the first, and doubled up to the last."""
_LOOK = 0.1
"""Seconds between two looks at what a statement waits for: less than one try takes."""
_TELL = 5.0
"""Seconds between two reports of the same wait."""

_CONCURRENTLY = re.compile(r"CREATE (UNIQUE )?INDEX IF NOT EXISTS (\w+)")

_INVALID = """
SELECT FROM pg_catalog.pg_index AS i
JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s AND NOT i.indisvalid
"""

_BLOCKERS = """
SELECT CASE pid WHEN 0 THEN 'a prepared transaction (pg_prepared_xacts)' ELSE format(
    'process %%s (%%s)', pid, concat_ws(', ', coalesce(nullif(application_name, ''), backend_type), state, usename)) END
FROM unnest(pg_catalog.pg_blocking_pids(%s)) AS blocking (pid) LEFT JOIN pg_catalog.pg_stat_activity USING (pid)
ORDER BY pid
"""

_RULE = """
SELECT pg_catalog.pg_get_expr(conbin, conrelid) FROM pg_catalog.pg_constraint
WHERE conname = %s AND connamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s)
"""

_logger = logging.getLogger("horsies.postgres")


class Progress:
    """What an upgrade waits for.

    Args:
        tell: is handed each sentence that a person should read.
        patience: seconds that one step may be held up by other processes. A step that only takes long is not held up.

    Attributes:
        reason: what is being done now, or waited for; None: nothing.
    """

    def __init__(self, tell: Callable[[str], object] = _logger.warning, *, patience: float = math.inf) -> None:
        self.tell = tell
        self.patience = patience
        self.reason: str | None = None
        self._told_at = -math.inf

    def waits_for(self, reason: str) -> None:
        """Note `reason`, and tell it unless it has just been told."""
        now = anyio.current_time()
        if now - self._told_at >= _TELL:
            self._told_at = now
            self.tell(reason)
        self.reason = reason


async def migrate(connection: AnyioConnection[Row], config: AppConfig, progress: Progress) -> None:
    """Bring the schema to this version's newest migration.

    Safe to run by any number of processes at once, and to run again after one was killed. A role that may only read and
    write is enough if the schema is up to date already. A newer schema that this code can use is left alone.

    Args:
        connection: to `config.url`, from `connect_plain`.
        progress: hears what the upgrade waits for.

    Raises:
        HorsiesError: HRS-218, the schema is newer than this version of horsies can use, or this role may not make or
            alter it, or a step failed. HRS-211, others have held a step up for longer than `progress.patience`.
        psycopg.Error: the database failed.
    """
    schema, newest = config.schema, newest_version()
    try:
        while (version := await version_of(connection, schema)) < newest:
            if version == 0:
                await _make(connection, schema)
                continue
            async with _alone(connection, config, progress) as holder:
                if holder is not None:
                    await _Upgrade(connection, holder, config, progress).run()
        if version > newest:
            _logger.info(
                "schema %r is at version %d and this horsies knows versions up to %d, which it can be used by",
                schema,
                version,
                newest,
            )
    except errors.InsufficientPrivilege as error:
        raise HorsiesError(
            "HRS-218",
            f"schema {schema!r} is missing or out of date, and this role may not change it",
            [
                str(error.diag.message_primary),
                "run `horsies migrate` with a role that may, or give what `horsies migrate --sql` prints to psql "
                "as such a role",
            ],
        ) from None


async def _make(connection: AnyioConnection[Row], schema: str) -> None:
    """Make the newest schema in one transaction: no row is there yet, and nobody is kept from it."""
    async with connection.transaction():
        await connection.execute(f"SELECT pg_advisory_xact_lock({old_lock_key(schema)})")
        if await version_of(connection, schema) > 0:  # another process was first
            return
        if not await exists(connection, "SELECT FROM pg_catalog.pg_namespace WHERE nspname = %s", schema):
            # IF NOT EXISTS would need the right to create schemas even where an administrator has made this one.
            await connection.execute(f"CREATE SCHEMA {quoted(schema)}")
        await connection.execute(first_sql(schema))


@asynccontextmanager
async def _alone(
    connection: AnyioConnection[Row], config: AppConfig, progress: Progress
) -> AsyncIterator[AnyioConnection[Row] | None]:
    """The connection that holds the lock for the length of the block; None, after a pause, if another process does."""
    take = f"SELECT WHERE pg_try_advisory_xact_lock({lock_key(config.schema)})"
    # Asked first without a connection of its own: of many processes that open at once, all but one find it taken.
    if await exists(connection, take):
        progress.reason = f"schema {config.schema!r} is to be brought up to date, which takes two connections"
        holder = await _connect(config)
        try:
            await holder.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
            await holder.execute(
                "SELECT set_config(name, '0', true) FROM pg_catalog.pg_settings WHERE name IN"
                " ('statement_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')"
            )
            if await exists(holder, take):
                yield holder
                return
        finally:
            holder.finish()
    progress.waits_for(f"schema {config.schema!r} is being brought up to date by another process")
    await anyio.sleep(random.uniform(0.05, 0.15))
    yield None


async def _connect(config: AppConfig) -> AnyioConnection[Row]:
    # Past a pooler, if that can be: all its servers may be lent.
    return await connect_plain(config.listen_url or config.url, timeout=config.pool.timeout)


class _Upgrade:
    """Runs what a schema lacks; the lock is `holder`'s."""

    def __init__(
        self, connection: AnyioConnection[Row], holder: AnyioConnection[Row], config: AppConfig, progress: Progress
    ) -> None:
        self._connection = connection
        self._holder = holder
        self._config = config
        self._schema = config.schema
        self._progress = progress
        self._doing = ""
        self._pid = 0
        self._prefix = (
            f"SET LOCAL lock_timeout = '{_LOCK_WAIT}'; SET LOCAL statement_timeout = 0;"
            f" SELECT set_config('deadlock_timeout', '{_GIVE_WAY}', true)"
            " WHERE (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user);"
            f" SELECT pg_advisory_xact_lock({old_lock_key(config.schema)});\n"
        )

    async def run(self) -> None:
        """Raises: HorsiesError: HRS-218, a step failed."""
        version = await version_of(self._connection, self._schema)
        for number, name in migrations().items():
            if number <= version:
                continue
            for step in steps(name, self._schema):
                run = {"concurrently": self._concurrently, "validate": self._validate}.get(step.kind, self._transact)
                await self._run(f"migration {name}, step {step.name!r}", partial(run, step))
            record = Step("record", "", record_sql(number, self._schema))
            await self._run(f"migration {name}, record", partial(self._transact, record))

    async def _run(self, doing: str, act: Callable[[], Awaitable[None]]) -> None:
        """Do one part, with somebody looking at what it waits for."""
        self._doing = self._progress.reason = doing
        await self._holder.execute("SELECT")  # it fails where the lock is lost
        cursor = await self._connection.execute("SELECT pg_backend_pid()", prepare=False)
        ((self._pid,),) = await cursor.fetchall()
        failure: psycopg.Error | None = None
        done = False
        async with anyio.create_task_group() as group:
            group.start_soon(self._look, group.cancel_scope.cancel)
            try:
                await act()
                done = True
            except psycopg.Error as error:  # not from inside of the group, which would wrap it
                failure = error
            group.cancel_scope.cancel()
        if not done and failure is None:
            raise HorsiesError(
                "HRS-211",
                f"schema {self._schema!r} was not brought up to date: {self._progress.reason}",
                [f"it waited for {self._progress.patience:g} s; run `horsies migrate` again, which goes on from there"],
            )
        self._progress.reason = None
        if failure is None:
            return
        told = broker_error(doing, failure)
        if told.retryable or isinstance(failure, errors.InsufficientPrivilege):
            raise failure
        raise HorsiesError(
            "HRS-218",
            f"schema {self._schema!r} cannot be brought up to date",
            [told.message, "mend the cause and run `horsies migrate` again: it goes on from there"],
        ) from None

    async def _look(self, give_up: Callable[[], object]) -> None:
        """Note which processes hold up the connection that the steps run on, and call `give_up` if they do for long.

        The connection of the lock must not look: an index that is built concurrently would wait for its transaction.
        """
        since, last = math.inf, -math.inf
        while True:
            await anyio.sleep(_LOOK)
            with suppress(psycopg.Error):
                looking = await _connect(self._config)
                try:
                    while True:
                        cursor = await looking.execute(_BLOCKERS, (self._pid,))
                        if rows := await cursor.fetchall():
                            now = anyio.current_time()
                            since = min(since, now) if now - last < 2 * _LONGEST_PAUSE else now
                            last = now
                            self._progress.waits_for(
                                f"{self._doing} waits for {', '.join(named for (named,) in rows)}: let its transaction "
                                "end, or end it with pg_terminate_backend(pid)"
                            )
                            if now - since >= self._progress.patience:
                                give_up()
                        await anyio.sleep(_LOOK)
                finally:
                    looking.finish()

    async def _send(self, sql: str) -> None:
        """Several statements in one message are one transaction."""
        await self._connection.execute(sql, prepare=False)

    async def _persist(self, act: Callable[[], Awaitable[None]]) -> None:
        """Repeat `act` until it gets its locks. The pauses let those through who have queued behind it."""
        pause = _PAUSE
        while True:
            try:
                await act()
                return
            except (errors.LockNotAvailable, errors.DeadlockDetected):
                await anyio.sleep(pause * random.uniform(0.75, 1.25))
                pause = min(2 * pause, _LONGEST_PAUSE)

    async def _transact(self, step: Step) -> None:
        await self._persist(lambda: self._send(self._prefix + step.sql))

    async def _concurrently(self, step: Step) -> None:
        """Build an index outside of a transaction, which neither stops writers nor waits with them behind it."""
        create, found = _CONCURRENTLY.subn(r"CREATE \1INDEX CONCURRENTLY IF NOT EXISTS \2", step.sql)
        match = _CONCURRENTLY.search(step.sql)
        if found != 1 or match is None:
            raise ValueError(f"{self._doing} creates no index")
        name = match[2]

        async def act() -> None:
            # What a killed process or a failed try has left is kept up to date by every write, and never used.
            if await exists(self._connection, _INVALID, self._schema, name):
                await self._send(f"DROP INDEX CONCURRENTLY IF EXISTS {quoted(self._schema)}.{name}")
            await self._send(create)

        await self._persist(act)

    async def _validate(self, step: Step) -> None:
        table, constraint = constraint_of(step)

        async def act() -> None:
            try:
                await self._send(f"SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0;\n{step.sql}")
            except errors.IntegrityError:
                cursor = await self._connection.execute(_RULE, (constraint, self._schema), prepare=False)
                rule = "".join(row[0] or "" for row in await cursor.fetchall())
                self._progress.tell(
                    f"rows of {table} break constraint {constraint}, which holds for new rows only: find them with "
                    f"SELECT * FROM {table} WHERE NOT ({rule}), mend or delete them, and run "
                    f"ALTER TABLE {table} VALIDATE CONSTRAINT {constraint}"
                )

        await self._persist(act)
