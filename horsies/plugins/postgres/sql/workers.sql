-- Liveness is one row for each worker, so that a heartbeat costs the same whatever the worker holds.

-- name: join
-- The first heartbeat registers the worker.
INSERT INTO {schema}.workers (worker_id, seen_at)
VALUES (%(worker)s, coalesce(%(now)s::timestamptz, clock_timestamp()))
ON CONFLICT (worker_id) DO UPDATE SET seen_at = excluded.seen_at
RETURNING worker_id

-- name: beat
-- Whether the worker is registered still (who was found dead stays dead), whether it leads, and what it is asked to
-- cancel. The lease that somebody else has locked is somebody else's: no heartbeat waits for another one.
WITH clock AS MATERIALIZED (SELECT coalesce(%(now)s::timestamptz, clock_timestamp()) AS now),
seen AS (
    UPDATE {schema}.workers SET seen_at = clock.now FROM clock WHERE worker_id = %(worker)s RETURNING worker_id
),
led AS (
    UPDATE {schema}.leases SET
        holder = %(worker)s, watching = %(watching)s::boolean,
        expires_at = clock.now + make_interval(secs => %(lease)s::float8)
    FROM clock
    WHERE name = (
        SELECT name FROM {schema}.leases
        WHERE name = 'leader' AND EXISTS (SELECT FROM seen) AND (
            holder = %(worker)s OR expires_at <= (SELECT now FROM clock) OR (NOT watching AND %(watching)s::boolean)
        )
        FOR NO KEY UPDATE SKIP LOCKED
    )
    RETURNING name
)
SELECT EXISTS (SELECT FROM seen), EXISTS (SELECT FROM led), asked.ids, asked.claim_numbers
FROM (
    SELECT array_agg(id::text) AS ids, array_agg(claim_number) AS claim_numbers
    FROM {schema}.tasks
    WHERE phase = 2 AND worker_id = %(worker)s AND cancel_requested_at IS NOT NULL
) AS asked
