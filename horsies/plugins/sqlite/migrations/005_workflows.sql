-- Workflows, and which ends of their tasks have not been followed up. sql/schema.sql explains the columns.

ALTER TABLE tasks ADD COLUMN workflow_id TEXT;
ALTER TABLE tasks ADD COLUMN advances INTEGER;

CREATE INDEX tasks_of_workflow ON tasks (workflow_id) WHERE workflow_id IS NOT NULL;
CREATE INDEX tasks_unadvanced ON tasks (workflow_id) WHERE phase = 3 AND advances;

CREATE TABLE workflows (
    id TEXT NOT NULL PRIMARY KEY,
    sha BLOB NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    spec BLOB NOT NULL,
    state BLOB NOT NULL,
    status TEXT NOT NULL,
    sent_at INTEGER NOT NULL,
    finished_at INTEGER,
    error_code TEXT,
    CONSTRAINT workflows_status_agrees_with_end CHECK (
        CASE WHEN finished_at IS NULL THEN status IN ('RUNNING', 'PAUSED')
        ELSE status IN ('COMPLETED', 'FAILED', 'CANCELLED', 'EXPIRED') END
    )
);

CREATE INDEX workflows_done ON workflows (finished_at) WHERE finished_at IS NOT NULL;
