-- Queues have a row only once they were paused.

-- name: pause
-- A row if the queue was not paused. What is claimed already goes on.
INSERT INTO {schema}.queues AS queue (name, paused_at)
VALUES (%(queue)s, coalesce(%(now)s::timestamptz, clock_timestamp()))
ON CONFLICT (name) DO UPDATE SET paused_at = excluded.paused_at WHERE queue.paused_at IS NULL
RETURNING name

-- name: resume
-- A row if the queue was paused; the workers are told that there may be work.
WITH resumed AS (
    UPDATE {schema}.queues SET paused_at = NULL WHERE name = %(queue)s AND paused_at IS NOT NULL RETURNING name
)
SELECT name, pg_notify('{schema}_work', 'ready:' || name) FROM resumed
