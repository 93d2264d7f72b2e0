-- Where workflows stand, and which ends of their tasks have not been followed up.

-- name: start_workflow
-- A row if the id was free.
INSERT INTO workflows
    (id, sha, name, version, spec, state, status, sent_at, parent_id, root_id, good_until, finished_at)
VALUES (
    :id, :sha, :name, :version, :spec, :state, :status, :sent_at, :parent_id, :root_id, :good_until,
    iif(:status IN ('RUNNING', 'PAUSED'), NULL, :now)
)
ON CONFLICT (id) DO NOTHING
RETURNING id

-- name: workflow
-- One workflow, and the head of its spec.
SELECT
    id, sha, name, version, substr(spec, 1, :head), state, status, sent_at, finished_at, error_code, parent_id, root_id, good_until,
    problem
FROM workflows WHERE id = :id

-- name: standing_workflow
-- One workflow, without what it consists of.
SELECT id, name, version, status, sent_at, finished_at, error_code, good_until, problem FROM workflows WHERE id = :id

-- name: slice
-- A range of a spec.
SELECT substr(spec, :start + 1, :length) FROM workflows WHERE id = :id

-- name: workflows
-- The newest that are parts of no other, from one on that was seen.
SELECT id, name, version, status, sent_at, finished_at, error_code, good_until, problem FROM workflows
WHERE parent_id IS NULL
    AND (:name IS NULL OR name = :name)
    AND (:statuses IS NULL OR status IN (SELECT value FROM json_each(:statuses)))
    AND (:before IS NULL OR (sent_at, id) < (:before, :before_id))
ORDER BY sent_at DESC, id DESC
LIMIT :limit

-- name: tasks_of
-- The tasks of one workflow.
SELECT id, status, error_code FROM tasks WHERE workflow_id = :id

-- name: running_tasks_of
SELECT id FROM tasks WHERE workflow_id = :id AND status = 'RUNNING'

-- name: marked_ends
-- The ends that have not been followed up, so many of them; which come first makes no difference.
SELECT id, status, error_code, result FROM (
    SELECT id, status, error_code, iif(task_name GLOB 'horsies.*', result, NULL) AS result, finished_at FROM tasks
    WHERE phase = 3 AND advances AND workflow_id = :id
    LIMIT :limit
)
ORDER BY finished_at, id

-- name: signals
SELECT id, data FROM workflow_signals WHERE workflow_id = :id ORDER BY id LIMIT :limit

-- name: taken
-- This signal has been taken.
DELETE FROM workflow_signals WHERE id = :id

-- name: signal
-- Not to what is not there.
INSERT INTO workflow_signals (workflow_id, data)
SELECT :id, :data WHERE EXISTS (SELECT 1 FROM workflows WHERE id = :id)

-- name: step
-- What has ended keeps its status, its end and its code; its state is written, since ends may come late.
UPDATE workflows SET
    state = :state,
    problem = NULL,
    status = iif(finished_at IS NULL, :status, status),
    error_code = iif(finished_at IS NULL, :error_code, error_code),
    finished_at = iif(finished_at IS NULL AND :status NOT IN ('RUNNING', 'PAUSED'), :now, finished_at)
WHERE id = :id
RETURNING finished_at

-- name: advanced
-- This end has been followed up.
UPDATE tasks SET advances = NULL WHERE id = :id

-- name: unadvanced
-- Workflows that have marked ends or signals, or are overdue.
SELECT id FROM (
    SELECT workflow_id AS id FROM tasks WHERE phase = 3 AND advances
    UNION SELECT workflow_id FROM workflow_signals
    UNION SELECT id FROM workflows WHERE finished_at IS NULL AND good_until <= :now
)
WHERE id NOT IN (SELECT value FROM json_each(:skipped))
ORDER BY id
LIMIT :limit

-- name: note_problem
UPDATE workflows SET problem = :problem WHERE id = :id

-- name: old_workflows
-- What ended long ago and has no tasks left, the oldest first; not what is a part of one that has not.
SELECT id FROM workflows
WHERE finished_at <= :before AND id NOT IN (SELECT value FROM json_each(:skipped))
    AND NOT EXISTS (SELECT 1 FROM tasks WHERE tasks.workflow_id = workflows.id)
    AND NOT EXISTS (
        SELECT 1 FROM workflows AS root
        WHERE root.id = workflows.root_id AND (root.finished_at IS NULL OR root.finished_at > :before)
    )
ORDER BY finished_at
LIMIT :limit

-- name: remove_workflow
DELETE FROM workflows WHERE id = :id

-- name: remove_signals
DELETE FROM workflow_signals WHERE workflow_id = :id
