-- Liveness is one row for each worker, so that a heartbeat costs the same whatever the worker holds.

-- name: join
-- The first heartbeat registers the worker, and it is steady from then on.
INSERT INTO workers (worker_id, seen_at, steady_since) VALUES (:worker, :now, :now)
ON CONFLICT (worker_id) DO UPDATE SET seen_at = excluded.seen_at, steady_since = excluded.steady_since

-- name: beat
-- A row if the worker is registered still. A heartbeat that comes later than `gap` after the one before ends the time of
-- being steady.
UPDATE workers SET seen_at = :now, steady_since = iif(:now - seen_at > :gap, :now, steady_since)
WHERE worker_id = :worker
RETURNING worker_id

-- name: lead
-- A row if the worker leads: it is registered, and its lease is renewed or was free. `watching` tells the others that it
-- may find workers dead.
UPDATE leases SET holder = :worker, watching = worker.steady_since <= :long_ago, expires_at = :until
FROM workers AS worker
WHERE name = 'leader' AND worker.worker_id = :worker
    AND (holder = :worker OR expires_at <= :now OR (NOT watching AND worker.steady_since <= :long_ago))
RETURNING holder

-- name: finder
-- A row if the worker may find others dead at this instant: it holds the lease, its own heartbeat is fresh, and it has been
-- steady for as long as a heartbeat may be old.
SELECT 1 FROM workers AS me JOIN leases AS lease ON lease.name = 'leader' AND lease.holder = me.worker_id
WHERE me.worker_id = :worker AND lease.expires_at > :now AND me.seen_at >= :fresh AND me.steady_since <= :long_ago

-- name: resign
-- The lease is free.
UPDATE leases SET holder = NULL, expires_at = 0 WHERE holder = :worker

-- name: alive
-- A row if the worker was seen after that instant.
SELECT 1 FROM workers WHERE worker_id = :worker AND seen_at > :since

-- name: forget
-- The worker is gone.
DELETE FROM workers WHERE worker_id = :worker

-- name: bury
-- A worker that was not seen since that instant is dead: it is registered no more.
DELETE FROM workers WHERE seen_at <= :since
