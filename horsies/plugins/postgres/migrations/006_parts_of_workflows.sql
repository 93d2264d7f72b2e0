-- Workflows that are parts of others, what they tell each other, and deadlines. sql/schema.sql explains the columns.

-- step: columns of workflows
ALTER TABLE {schema}.workflows
    ADD COLUMN IF NOT EXISTS parent_id uuid,
    ADD COLUMN IF NOT EXISTS root_id uuid,
    ADD COLUMN IF NOT EXISTS good_until timestamptz,
    ADD COLUMN IF NOT EXISTS problem text;

-- step: overdue workflows (concurrently)
CREATE INDEX IF NOT EXISTS workflows_overdue ON {schema}.workflows (good_until) WHERE finished_at IS NULL AND good_until IS NOT NULL;

-- step: workflows by age (concurrently)
CREATE INDEX IF NOT EXISTS workflows_sent ON {schema}.workflows (sent_at, id) WHERE parent_id IS NULL;

-- step: signals
CREATE TABLE IF NOT EXISTS {schema}.workflow_signals (
    workflow_id uuid NOT NULL,
    id bigint GENERATED ALWAYS AS IDENTITY,
    data bytea NOT NULL,
    PRIMARY KEY (workflow_id, id)
) WITH (autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);
