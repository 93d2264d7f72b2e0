-- Liveness is one row for each worker, so that a heartbeat costs the same whatever the worker holds.

-- name: join
-- The first heartbeat registers the worker, and it is steady from then on.
INSERT INTO {schema}.workers (worker_id, seen_at, steady_since)
SELECT %(worker)s, clock.now, clock.now
FROM (SELECT coalesce(%(now)s::timestamptz, clock_timestamp()) AS now) AS clock
ON CONFLICT (worker_id) DO UPDATE SET seen_at = excluded.seen_at, steady_since = excluded.steady_since
RETURNING worker_id

-- name: beat
-- A row if the worker is registered still. The statement reads no other table, so that no lock on one of them makes a
-- living worker look dead. A heartbeat that comes later than `gap` after the one before ends the time of being steady.
UPDATE {schema}.workers SET
    seen_at = clock.now,
    steady_since = CASE
        WHEN clock.now - seen_at > make_interval(secs => %(gap)s::float8) THEN clock.now ELSE steady_since
    END
FROM (SELECT coalesce(%(now)s::timestamptz, clock_timestamp()) AS now) AS clock
WHERE worker_id = %(worker)s
RETURNING worker_id

-- name: lead
-- A row if the worker leads. The heartbeat decides whether it may find others dead, which `watching` tells the others. A
-- lease that is locked belongs to another worker: no worker waits for it.
WITH me AS MATERIALIZED (
    SELECT clock.now, worker.steady_since <= clock.now - make_interval(secs => %(dead_after)s::float8) AS watching
    FROM (SELECT coalesce(%(now)s::timestamptz, clock_timestamp()) AS now) AS clock
    JOIN {schema}.workers AS worker ON worker.worker_id = %(worker)s
)
UPDATE {schema}.leases AS lease SET
    holder = %(worker)s, watching = me.watching,
    expires_at = me.now + make_interval(secs => %(dead_after)s::float8 / 2)
FROM me
WHERE lease.name = (
    SELECT free.name FROM {schema}.leases AS free CROSS JOIN me
    WHERE free.name = 'leader' AND (
        free.holder = %(worker)s OR free.expires_at <= me.now OR (NOT free.watching AND me.watching)
    )
    FOR NO KEY UPDATE OF free SKIP LOCKED
)
RETURNING lease.name
