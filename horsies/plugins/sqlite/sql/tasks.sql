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

-- name: delayed
-- What has fallen due and is to be promoted.
SELECT id FROM tasks
WHERE phase = 0 AND due_at <= :now AND id NOT IN (SELECT value FROM json_each(:skipped))
ORDER BY due_at LIMIT :limit

-- name: promote
-- Delayed -> ready.
UPDATE tasks SET phase = 1 WHERE id = :id RETURNING queue

-- name: next_due_at
-- When the next delayed task is due.
SELECT min(due_at) FROM tasks WHERE phase = 0 AND due_at > :now AND due_at <= 253402300799999999

-- name: heads
-- The ready tasks of one queue that come first, without those named in `without`; with `step_over` without those past
-- their deadline.
SELECT priority, due_at, id, good_until FROM tasks
WHERE phase = 1 AND queue = :queue AND due_at <= :now
    AND (NOT :step_over OR good_until IS NULL OR good_until > :now)
    AND id NOT IN (SELECT value FROM json_each(:skipped))
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
-- PENDING -> CLAIMED. The claim number grows by a random step in a file, which may be an older copy of itself: then the same
-- number is never given twice.
UPDATE tasks SET
    phase = 2, status = 'CLAIMED', claimed_at = :now, worker_id = :worker, claim_number = claim_number + :step
WHERE id = :id
RETURNING
    claim_number, envelope, sha, task_name, queue, priority, attempt, retries, good_until, unknown_since

-- name: held
-- The fence: what a worker holds by one claim.
SELECT status, queue, good_until, attempt, started_at, cancel_requested_at FROM tasks
WHERE id = :id AND claim_number = :claim_number AND worker_id = :worker AND phase = 2

-- name: start
-- CLAIMED -> RUNNING. A task that was deferred gets its first due time back. What a crash leads to is stored, because
-- whoever finds the worker dead knows neither tasks nor policies.
UPDATE tasks SET
    status = 'RUNNING', started_at = :now, attempt = attempt + 1, due_at = coalesce(deferred_from, due_at),
    deferred_from = NULL, unknown_since = NULL, retry_after_crash = :retry_after_crash
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

-- name: not_known
-- The first worker that does not know the task says since when; the start clears it.
UPDATE tasks SET unknown_since = coalesce(unknown_since, :now) WHERE id = :id

-- name: defer
-- CLAIMED -> PENDING, for later.
UPDATE tasks SET
    phase = 0, status = 'PENDING', worker_id = NULL, claimed_at = NULL, deferred_from = coalesce(deferred_from, due_at),
    due_at = :due_at
WHERE id = :id

-- name: give_back_unknown
-- Tasks that the worker holds and does not know, because the answer to a claim was lost -> PENDING. A task that such a claim
-- started never began; with a request to cancel it -> CANCELLED. A task that an earlier claim started did begin: `begun`
-- finds it.
UPDATE tasks SET
    phase = iif(cancel_requested_at IS NULL, 1, 3), status = iif(cancel_requested_at IS NULL, 'PENDING', 'CANCELLED'),
    finished_at = iif(cancel_requested_at IS NULL, NULL, :now),
    worker_id = NULL, claimed_at = NULL, started_at = NULL, attempt = attempt - (status = 'RUNNING')
WHERE phase = 2 AND worker_id = :worker AND id NOT IN (SELECT value FROM json_each(:ids))
    AND (status = 'CLAIMED' OR :heard_until IS NULL OR claimed_at > :heard_until)
RETURNING id, queue, phase

-- name: begun
-- Tasks that the worker holds and does not know although it had the answer to their claim: their ends were lost with a part
-- of the history.
SELECT id, status, queue, good_until, attempt, started_at, cancel_requested_at, worker_id, retry_after_crash FROM tasks
WHERE phase = 2 AND worker_id = :worker AND id NOT IN (SELECT value FROM json_each(:ids))
    AND claimed_at <= :heard_until

-- name: holdings
-- The tasks that the worker holds, each with whether its cancellation was requested.
SELECT id, claim_number, cancel_requested_at IS NOT NULL FROM tasks
WHERE phase = 2 AND worker_id = :worker

-- name: leave
-- Everything still CLAIMED by the worker -> PENDING, found by the worker's name and not by what it remembers.
UPDATE tasks SET phase = 1, status = 'PENDING', worker_id = NULL, claimed_at = NULL
WHERE phase = 2 AND worker_id = :worker AND status = 'CLAIMED'
RETURNING queue

-- name: to_sweep
-- PENDING past the deadline, oldest deadline first: what a claim met in its way, and what is behind it.
SELECT id FROM tasks
WHERE phase < 2 AND good_until <= :now AND id NOT IN (SELECT value FROM json_each(:skipped))
ORDER BY good_until LIMIT :limit

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
SELECT 1 WHERE EXISTS (
    SELECT 1 FROM tasks
    WHERE phase = 1 AND queue = :queue AND due_at <= :now AND id NOT IN (SELECT value FROM json_each(:skipped))
) OR EXISTS (
    SELECT 1 FROM tasks
    WHERE phase = 0 AND queue = :queue AND due_at <= :now AND id NOT IN (SELECT value FROM json_each(:skipped))
)

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

-- name: set_aside
-- PENDING, or CLAIMED by this worker -> FAILED, for a row that nothing else can be done with. What is out of bounds is cut
-- to the bounds, or the row could not be written at all.
UPDATE tasks SET
    phase = 3, status = 'FAILED', finished_at = :now, error_code = 'WORKER_SERIALIZATION_ERROR', result = NULL,
    worker_id = NULL, claimed_at = NULL, started_at = NULL, deferred_from = NULL, unknown_since = NULL,
    cancel_requested_at = NULL, retry_after_crash = NULL,
    due_at = iif(due_at BETWEEN -62135596800000000 AND 253402300799999999, due_at, :now),
    sent_at = iif(sent_at BETWEEN -62135596800000000 AND 253402300799999999, sent_at, :now),
    good_until = iif(good_until BETWEEN -62135596800000000 AND 253402300799999999, good_until, NULL),
    queue = iif(length(CAST(queue AS BLOB)) BETWEEN 1 AND 255, queue, coalesce(nullif(substr(queue, 1, 60), ''), '?')),
    task_name = iif(
        length(CAST(task_name AS BLOB)) BETWEEN 1 AND 255, task_name, coalesce(nullif(substr(task_name, 1, 60), ''), '?')
    ),
    unique_key = iif(length(CAST(unique_key AS BLOB)) BETWEEN 1 AND 255, unique_key, NULL),
    priority = min(max(priority, 1), 100), attempt = min(max(attempt, 0), 2000000000),
    retries = min(max(retries, 0), 2000000000), claim_number = min(max(claim_number, 0), 4611686018427387904)
WHERE id = :id AND (phase < 2 OR worker_id = :worker AND status = 'CLAIMED')
