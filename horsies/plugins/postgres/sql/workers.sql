-- Liveness is one row for each worker, so that a heartbeat costs the same whatever the worker holds.

-- name: beat
-- The first one registers the worker.
INSERT INTO {schema}.workers (worker_id, seen_at)
VALUES (%(worker)s, coalesce(%(now)s::timestamptz, clock_timestamp()))
ON CONFLICT (worker_id) DO UPDATE SET seen_at = excluded.seen_at
RETURNING worker_id
