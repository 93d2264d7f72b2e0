-- Workflows, and which ends of their tasks have not been followed up. sql/schema.sql explains the columns.

-- step: columns of tasks
ALTER TABLE {schema}.tasks
    ADD COLUMN IF NOT EXISTS workflow_id uuid,
    ADD COLUMN IF NOT EXISTS advances boolean;

-- step: tasks of a workflow (concurrently)
CREATE INDEX IF NOT EXISTS tasks_of_workflow ON {schema}.tasks (workflow_id) WHERE workflow_id IS NOT NULL;

-- step: ends to advance (concurrently)
CREATE INDEX IF NOT EXISTS tasks_unadvanced ON {schema}.tasks (workflow_id) WHERE phase = 3 AND advances;

-- step: workflows
CREATE TABLE IF NOT EXISTS {schema}.workflows (
    id uuid PRIMARY KEY,
    sha bytea NOT NULL,
    name text NOT NULL,
    version integer NOT NULL,
    spec bytea NOT NULL,
    state bytea NOT NULL,
    status text NOT NULL,
    sent_at timestamptz NOT NULL,
    finished_at timestamptz,
    error_code text,
    CONSTRAINT workflows_status_agrees_with_end CHECK (
        CASE WHEN finished_at IS NULL THEN status IN ('RUNNING', 'PAUSED')
        ELSE status IN ('COMPLETED', 'FAILED', 'CANCELLED', 'EXPIRED') END
    )
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);

CREATE INDEX IF NOT EXISTS workflows_done ON {schema}.workflows (finished_at) WHERE finished_at IS NOT NULL;
