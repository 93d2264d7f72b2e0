-- Liveness is one row for each worker, so that a heartbeat costs the same whatever the worker holds.

-- name: beat
-- The first one registers the worker. The answer is what the worker is asked to cancel.
WITH seen AS (
    INSERT INTO {schema}.workers (worker_id, seen_at)
    VALUES (%(worker)s, coalesce(%(now)s::timestamptz, clock_timestamp()))
    ON CONFLICT (worker_id) DO UPDATE SET seen_at = excluded.seen_at
)
SELECT id::text, claim_number FROM {schema}.tasks
WHERE phase = 2 AND worker_id = %(worker)s AND cancel_requested_at IS NOT NULL

-- name: bury
-- Forget workers that are dead and hold nothing any more.
DELETE FROM {schema}.workers AS worker
WHERE seen_at <= coalesce(%(now)s::timestamptz, clock_timestamp()) - make_interval(secs => %(dead_after)s::float8)
    AND NOT EXISTS (SELECT FROM {schema}.tasks WHERE phase = 2 AND worker_id = worker.worker_id)
RETURNING worker_id
