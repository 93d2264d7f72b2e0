-- Every statement on tasks. The tables are those of the Postgres broker (see its schema.sql for the map), with instants
-- as integer microseconds since 1970 UTC. A method of the broker is one BEGIN IMMEDIATE transaction, so that nothing
-- here need skip locked rows.

-- name: enqueue
INSERT INTO tasks (id, phase, status, queue, priority, due_at, good_until, sent_at, task_name, envelope, sha)
VALUES (
    :id, CASE WHEN :due_at > :now THEN 0 ELSE 1 END, 'PENDING', :queue, :priority, :due_at, :good_until, :sent_at,
    :task_name, :envelope, :sha
)
ON CONFLICT (id) DO NOTHING

-- name: sha
SELECT sha FROM tasks WHERE id = :id

-- name: beat
INSERT INTO workers (worker_id, seen_at) VALUES (:worker, :now)
ON CONFLICT (worker_id) DO UPDATE SET seen_at = excluded.seen_at

-- name: alive
SELECT 1 FROM workers WHERE worker_id = :worker AND seen_at > :since

-- name: promote
UPDATE tasks SET phase = 1
WHERE id IN (SELECT id FROM tasks WHERE phase = 0 AND due_at <= :now ORDER BY due_at LIMIT :limit)
RETURNING queue

-- name: next_due
SELECT min(due_at) FROM tasks WHERE phase = 0

-- name: ready
-- The best of one queue.
SELECT priority, due_at, id FROM tasks
WHERE phase = 1 AND queue = :queue AND due_at <= :now
    AND (good_until IS NULL OR good_until > :now)
ORDER BY priority, due_at, id
LIMIT :limit

-- name: expire_ready
-- What a claim steps over.
UPDATE tasks SET phase = 3, status = 'EXPIRED', finished_at = :now
WHERE id IN (
    SELECT id FROM tasks
    WHERE phase < 2 AND good_until IS NOT NULL AND good_until <= :now AND due_at <= :now
    ORDER BY good_until
    LIMIT :limit
)
RETURNING id

-- name: take
UPDATE tasks SET
    phase = 2, status = 'CLAIMED', claimed_at = :now, worker_id = :worker, claim_number = claim_number + 1
WHERE id = :id AND phase = 1
RETURNING
    id, claim_number, envelope, sha, task_name, queue, priority, attempt, retries, good_until,
    :now - coalesce(deferred_from, due_at)

-- name: start
-- Whether the deadline has passed decides between RUNNING and EXPIRED.
UPDATE tasks SET
    phase = CASE WHEN good_until <= :now THEN 3 ELSE 2 END,
    status = CASE WHEN good_until <= :now THEN 'EXPIRED' ELSE 'RUNNING' END,
    finished_at = CASE WHEN good_until <= :now THEN :now END,
    started_at = CASE WHEN good_until <= :now THEN NULL ELSE :now END,
    attempt = CASE WHEN good_until <= :now THEN attempt ELSE attempt + 1 END,
    due_at = coalesce(deferred_from, due_at),
    deferred_from = NULL
WHERE id = :id AND claim_number = :claim_number AND worker_id = :worker AND status = 'CLAIMED'
RETURNING status

-- name: held
-- What an end must know of the task it ends; no row where the claim is no longer this worker's.
SELECT queue, attempt, started_at, good_until FROM tasks
WHERE id = :id AND claim_number = :claim_number AND worker_id = :worker
    AND (status = 'RUNNING' OR (status = 'CLAIMED' AND :status = 'FAILED'))

-- name: end
UPDATE tasks SET phase = 3, status = :status, finished_at = :now, error_code = :error_code, result = :result
WHERE id = :id AND claim_number = :claim_number AND worker_id = :worker
    AND (status = 'RUNNING' OR (status = 'CLAIMED' AND :status = 'FAILED'))

-- name: again
UPDATE tasks SET
    phase = CASE WHEN :again_at > :now THEN 0 ELSE 1 END, status = 'PENDING', due_at = :again_at,
    retries = retries + NOT :interrupted, worker_id = NULL, claimed_at = NULL, started_at = NULL
WHERE id = :id AND claim_number = :claim_number AND worker_id = :worker AND status = 'RUNNING'

-- name: record_attempt
INSERT INTO attempts (task_id, attempt, worker_id, started_at, finished_at, error_code, result)
VALUES (:id, :attempt, :worker, :started_at, :now, :error_code, :result)

-- name: give_back
UPDATE tasks SET
    phase = CASE WHEN :delay > 0 THEN 0 ELSE 1 END,
    status = 'PENDING',
    deferred_from = CASE WHEN :delay > 0 THEN coalesce(deferred_from, due_at) ELSE deferred_from END,
    due_at = CASE WHEN :delay > 0 THEN :now + :delay ELSE due_at END,
    worker_id = NULL,
    claimed_at = NULL
WHERE id = :id AND claim_number = :claim_number AND worker_id = :worker AND status = 'CLAIMED'
RETURNING queue, phase

-- name: give_back_all
UPDATE tasks SET phase = 1, status = 'PENDING', worker_id = NULL, claimed_at = NULL
WHERE phase = 2 AND worker_id = :worker AND status = 'CLAIMED'
RETURNING queue

-- name: forget_worker
DELETE FROM workers WHERE worker_id = :worker

-- name: expire
UPDATE tasks SET phase = 3, status = 'EXPIRED', finished_at = :now
WHERE id IN (
    SELECT id FROM tasks
    WHERE phase < 2 AND good_until IS NOT NULL AND good_until <= :now
    ORDER BY good_until
    LIMIT :limit
)
RETURNING id

-- name: has_due
-- Two questions, because each partial index answers for one phase.
SELECT
    EXISTS (SELECT 1 FROM tasks WHERE phase = 1 AND queue = :queue AND due_at <= :now)
    OR EXISTS (SELECT 1 FROM tasks WHERE phase = 0 AND queue = :queue AND due_at <= :now)

-- name: result
SELECT id, task_name, status, result FROM tasks WHERE id = :id

-- name: read
SELECT
    id, task_name, queue, priority, status, attempt, retries, sent_at, coalesce(deferred_from, due_at), claimed_at,
    started_at, finished_at, good_until, worker_id, error_code, envelope, result
FROM tasks WHERE id = :id

-- name: attempts
SELECT attempt, worker_id, started_at, finished_at, error_code, result FROM attempts
WHERE task_id = :id ORDER BY attempt
