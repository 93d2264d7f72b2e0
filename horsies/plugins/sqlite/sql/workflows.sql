-- Where workflows stand, and which ends of their tasks have not been followed up.

-- name: start_workflow
-- A row if the id was free.
INSERT INTO workflows (id, sha, name, version, spec, state, status, sent_at)
VALUES (:id, :sha, :name, :version, :spec, :state, :status, :sent_at)
ON CONFLICT (id) DO NOTHING
RETURNING id

-- name: workflow
-- One workflow.
SELECT id, sha, name, version, spec, state, status, sent_at, finished_at, error_code FROM workflows WHERE id = :id

-- name: tasks_of
-- The tasks of one workflow.
SELECT id, status, error_code FROM tasks WHERE workflow_id = :id

-- name: marked_ends
-- The ends that have not been followed up.
SELECT id, status, error_code FROM tasks WHERE phase = 3 AND advances AND workflow_id = :id ORDER BY finished_at, id

-- name: step
-- What has ended keeps its status, its end and its code; its state is written, since ends may come late.
UPDATE workflows SET
    state = :state,
    status = iif(finished_at IS NULL, :status, status),
    error_code = iif(finished_at IS NULL, :error_code, error_code),
    finished_at = iif(finished_at IS NULL AND :status NOT IN ('RUNNING', 'PAUSED'), :now, finished_at)
WHERE id = :id
RETURNING finished_at

-- name: advanced
-- This end has been followed up.
UPDATE tasks SET advances = NULL WHERE id = :id

-- name: unadvanced
-- Workflows that have marked ends.
SELECT DISTINCT workflow_id FROM tasks
WHERE phase = 3 AND advances AND workflow_id NOT IN (SELECT value FROM json_each(:skipped))
ORDER BY workflow_id
LIMIT :limit

-- name: old_workflows
-- What ended long ago and has no tasks left, the oldest first.
SELECT id FROM workflows
WHERE finished_at <= :before AND id NOT IN (SELECT value FROM json_each(:skipped))
    AND NOT EXISTS (SELECT 1 FROM tasks WHERE tasks.workflow_id = workflows.id)
ORDER BY finished_at
LIMIT :limit

-- name: remove_workflow
DELETE FROM workflows WHERE id = :id
