-- Liveness is one row for each worker, so that a heartbeat costs the same whatever the worker holds.

-- name: beat
-- The first one registers the worker.
INSERT INTO workers (worker_id, seen_at) VALUES (:worker, :now)
ON CONFLICT (worker_id) DO UPDATE SET seen_at = excluded.seen_at

-- name: alive
-- A row if the worker was seen after that instant.
SELECT 1 FROM workers WHERE worker_id = :worker AND seen_at > :since

-- name: forget
-- The worker is gone.
DELETE FROM workers WHERE worker_id = :worker

-- name: bury
-- Forget workers that are dead and hold nothing any more.
DELETE FROM workers
WHERE seen_at <= :since AND NOT EXISTS (SELECT 1 FROM tasks WHERE phase = 2 AND worker_id = workers.worker_id)
