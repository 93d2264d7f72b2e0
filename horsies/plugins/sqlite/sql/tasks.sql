-- Every statement on tasks. Each runs inside a transaction that holds the write lock, so a row that one statement found
-- is unchanged when the next one writes it. Phases stand as literals, because only so does the planner see that a
-- partial index applies.

-- name: enqueue
-- PENDING, ready or delayed. A row whose id is present, or whose unique key is taken, is left alone; then the answer is
-- empty.
INSERT INTO tasks
    (id, phase, status, queue, priority, due_at, good_until, sent_at, task_name, envelope, sha, unique_key, workflow_id,
    advances)
VALUES (
    :id, :phase, 'PENDING', :queue, :priority, :due_at, :good_until, :sent_at, :task_name, :envelope, :sha, :unique_key,
    :workflow_id, iif(:workflow_id IS NULL, NULL, TRUE)
)
ON CONFLICT DO NOTHING
RETURNING id

-- name: sha
-- What the row holds whose id was present.
SELECT sha FROM tasks WHERE id = :id

-- name: holder
-- The unfinished task that has the unique key.
SELECT id FROM tasks WHERE phase < 3 AND task_name = :task_name AND unique_key = :unique_key

-- name: promote
-- Delayed -> ready for what has fallen due.
UPDATE tasks SET phase = 1
WHERE rowid IN (SELECT rowid FROM tasks WHERE phase = 0 AND due_at <= :now ORDER BY due_at LIMIT :limit)
RETURNING queue

-- name: next_due_at
-- When the next delayed task is due.
SELECT min(due_at) FROM tasks WHERE phase = 0

-- name: heads
-- The ready tasks of one queue that come first, without those named in `without`; with `step_over` without those past
-- their deadline.
SELECT priority, due_at, id, good_until FROM tasks
WHERE phase = 1 AND queue = :queue AND due_at <= :now
    AND (NOT :step_over OR good_until IS NULL OR good_until > :now)
    AND (:without = '[]' OR task_name NOT IN (SELECT value FROM json_each(:without)))
ORDER BY priority, due_at, id
LIMIT :limit

-- name: held_in_all
-- How many tasks are CLAIMED or RUNNING.
SELECT count(*) FROM tasks WHERE phase = 2

-- name: held_of_queue
-- How many tasks of one queue are CLAIMED or RUNNING.
SELECT count(*) FROM tasks WHERE phase = 2 AND queue = :queue

-- name: claim
-- PENDING -> CLAIMED.
UPDATE tasks SET
    phase = 2, status = 'CLAIMED', claimed_at = :now, worker_id = :worker, claim_number = claim_number + 1
WHERE id = :id
RETURNING
    claim_number, envelope, sha, task_name, queue, priority, attempt, retries, good_until,
    coalesce(deferred_from, due_at)

-- name: held
-- The fence: what a worker holds by one claim.
SELECT status, queue, good_until, attempt, started_at, cancel_requested_at FROM tasks
WHERE id = :id AND claim_number = :claim_number AND worker_id = :worker AND phase = 2

-- name: start
-- CLAIMED -> RUNNING. A task that was deferred gets its first due time back. What a crash leads to is stored, because
-- whoever finds the worker dead knows neither tasks nor policies.
UPDATE tasks SET
    status = 'RUNNING', started_at = :now, attempt = attempt + 1, due_at = coalesce(deferred_from, due_at),
    deferred_from = NULL, retry_after_crash = :retry_after_crash
WHERE id = :id

-- name: unbegun
-- A claim started it, and user code never began.
UPDATE tasks SET started_at = NULL, attempt = attempt - 1 WHERE id = :id

-- name: end
-- RUNNING (for FAILED also CLAIMED) -> the end.
UPDATE tasks SET phase = 3, status = :status, finished_at = :now, error_code = :error_code, result = :result
WHERE id = :id

-- name: record
-- An attempt that is followed by another.
INSERT INTO attempts (task_id, attempt, worker_id, started_at, finished_at, error_code, result)
VALUES (:id, :attempt, :worker, :started_at, :now, :error_code, :result)

-- name: again
-- RUNNING -> PENDING for another attempt.
UPDATE tasks SET
    phase = :phase, status = 'PENDING', due_at = :due_at, retries = retries + :retries, worker_id = NULL,
    claimed_at = NULL, started_at = NULL
WHERE id = :id

-- name: give_back
-- CLAIMED -> PENDING, in its old place in the order.
UPDATE tasks SET phase = 1, status = 'PENDING', worker_id = NULL, claimed_at = NULL WHERE id = :id

-- name: defer
-- CLAIMED -> PENDING, for later.
UPDATE tasks SET
    phase = 0, status = 'PENDING', worker_id = NULL, claimed_at = NULL, deferred_from = coalesce(deferred_from, due_at),
    due_at = :due_at
WHERE id = :id

-- name: give_back_unknown
-- What the worker holds without knowing, since the answer to a claim was lost -> PENDING. What that claim has started never
-- began; where somebody has asked to cancel it meanwhile -> CANCELLED.
UPDATE tasks SET
    phase = iif(cancel_requested_at IS NULL, 1, 3), status = iif(cancel_requested_at IS NULL, 'PENDING', 'CANCELLED'),
    finished_at = iif(cancel_requested_at IS NULL, NULL, :now),
    worker_id = NULL, claimed_at = NULL, started_at = NULL, attempt = attempt - (status = 'RUNNING')
WHERE phase = 2 AND worker_id = :worker AND id NOT IN (SELECT value FROM json_each(:ids))
RETURNING id, queue, phase

-- name: leave
-- Everything still CLAIMED by the worker -> PENDING, found by the worker's name and not by what it remembers.
UPDATE tasks SET phase = 1, status = 'PENDING', worker_id = NULL, claimed_at = NULL
WHERE phase = 2 AND worker_id = :worker AND status = 'CLAIMED'
RETURNING queue

-- name: sweep
-- PENDING -> EXPIRED, oldest deadline first: what a claim met in its way, and what is behind it.
UPDATE tasks SET phase = 3, status = 'EXPIRED', finished_at = :now
WHERE rowid IN (SELECT rowid FROM tasks WHERE phase < 2 AND good_until <= :now ORDER BY good_until LIMIT :limit)
RETURNING id

-- name: overdue
-- What is past its deadline and has not started: PENDING ones, the oldest deadline first, then those CLAIMED whose worker
-- has not come to start them.
SELECT id FROM (
    SELECT id FROM tasks
    WHERE phase < 2 AND good_until <= :now AND id NOT IN (SELECT value FROM json_each(:skipped))
    ORDER BY good_until LIMIT :limit
)
UNION ALL
SELECT id FROM (
    SELECT id FROM tasks
    WHERE phase = 2 AND status = 'CLAIMED' AND good_until <= :now
        AND id NOT IN (SELECT value FROM json_each(:skipped))
    LIMIT :limit
)
LIMIT :limit

-- name: expire_one
-- PENDING or CLAIMED -> EXPIRED. The start of one that was CLAIMED finds its claim gone.
UPDATE tasks SET phase = 3, status = 'EXPIRED', worker_id = NULL, claimed_at = NULL, finished_at = :now WHERE id = :id

-- name: to_cancel
-- What the worker is asked to cancel.
SELECT id, claim_number FROM tasks
WHERE phase = 2 AND worker_id = :worker AND cancel_requested_at IS NOT NULL

-- name: orphans
-- What is held by workers that are not registered.
SELECT id, status, queue, good_until, attempt, started_at, cancel_requested_at, worker_id, retry_after_crash FROM tasks
WHERE phase = 2 AND worker_id NOT IN (SELECT worker_id FROM workers)
    AND id NOT IN (SELECT value FROM json_each(:skipped))
LIMIT :limit

-- name: old
-- What ended long ago, the oldest first; not what is of a workflow that has not, or of a part of one.
SELECT id FROM tasks
WHERE phase = 3 AND finished_at <= :before AND id NOT IN (SELECT value FROM json_each(:skipped)) AND (
    workflow_id IS NULL OR NOT EXISTS (
        SELECT 1 FROM workflows AS workflow
        LEFT JOIN workflows AS root ON root.id = workflow.root_id
        WHERE workflow.id = tasks.workflow_id AND (
            workflow.finished_at IS NULL OR workflow.finished_at > :before
            OR root.id IS NOT NULL AND (root.finished_at IS NULL OR root.finished_at > :before)
        )
    )
)
ORDER BY finished_at
LIMIT :limit

-- name: remove
-- An ended task, and its attempts with it.
DELETE FROM tasks WHERE id = :id

-- name: status
-- What a request to cancel meets.
SELECT status FROM tasks WHERE id = :id

-- name: cancel
-- PENDING, CLAIMED -> CANCELLED.
UPDATE tasks SET
    phase = 3, status = 'CANCELLED', worker_id = NULL, claimed_at = NULL, finished_at = :now,
    cancel_requested_at = :now
WHERE id = :id

-- name: request_cancel
-- A running task keeps running; the first request counts.
UPDATE tasks SET cancel_requested_at = coalesce(cancel_requested_at, :now) WHERE id = :id

-- name: has_due
-- A row if anything PENDING and due is in this queue, promoted or not.
SELECT 1 WHERE EXISTS (SELECT 1 FROM tasks WHERE phase = 1 AND queue = :queue AND due_at <= :now)
    OR EXISTS (SELECT 1 FROM tasks WHERE phase = 0 AND queue = :queue AND due_at <= :now)

-- name: depths
-- How much of each queue is unfinished, and since when the first of what is due waits.
SELECT
    queue,
    sum(phase = 1),
    sum(phase = 0),
    sum(status = 'CLAIMED'),
    sum(status = 'RUNNING'),
    min(CASE phase WHEN 1 THEN due_at END)
FROM (
    SELECT queue, phase, status, due_at FROM tasks WHERE phase = 0
    UNION ALL
    SELECT queue, phase, status, due_at FROM tasks WHERE phase = 1
    UNION ALL
    SELECT queue, phase, status, due_at FROM tasks WHERE phase = 2
)
GROUP BY queue

-- name: results
-- Where these tasks stand.
SELECT id, task_name, status, error_code, result FROM tasks WHERE id IN (SELECT value FROM json_each(:ids))

-- name: read
-- One task.
SELECT
    id, task_name, queue, priority, status, attempt, retries, sent_at, coalesce(deferred_from, due_at), claimed_at,
    started_at, finished_at, good_until, worker_id, error_code, envelope, result, cancel_requested_at IS NOT NULL
FROM tasks WHERE id = :id

-- name: past
-- The attempts that went before its last.
SELECT attempt, worker_id, started_at, finished_at, error_code, result FROM attempts
WHERE task_id = :id ORDER BY attempt
