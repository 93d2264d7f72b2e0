-- Liveness is one row for each worker, so that a heartbeat costs the same whatever the worker holds.

-- name: join
-- The first heartbeat registers the worker.
INSERT INTO workers (worker_id, seen_at) VALUES (:worker, :now)
ON CONFLICT (worker_id) DO UPDATE SET seen_at = excluded.seen_at

-- name: beat
-- A row if the worker is registered still; who was found dead stays dead.
UPDATE workers SET seen_at = :now WHERE worker_id = :worker RETURNING worker_id

-- name: lead
-- A row if the worker leads: its lease is renewed, or was free.
UPDATE leases SET holder = :worker, watching = :watching, expires_at = :until
WHERE name = 'leader' AND (holder = :worker OR expires_at <= :now OR (NOT watching AND :watching))
RETURNING holder

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
-- Whoever was not seen since that instant is dead: registered no more.
DELETE FROM workers WHERE seen_at <= :since
