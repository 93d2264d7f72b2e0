-- Queues have a row only once they were paused.

-- name: pause
-- A row if the queue was not paused. What is claimed already goes on.
INSERT INTO queues (name, paused_at) VALUES (:queue, :now)
ON CONFLICT (name) DO UPDATE SET paused_at = excluded.paused_at WHERE paused_at IS NULL
RETURNING name

-- name: resume
-- A row if the queue was paused.
UPDATE queues SET paused_at = NULL WHERE name = :queue AND paused_at IS NOT NULL
RETURNING name

-- name: paused
-- The queues that are paused.
SELECT name FROM queues WHERE paused_at IS NOT NULL

-- name: ever_paused
-- All queues that have a row.
SELECT name, paused_at FROM queues
