-- Workflows that are parts of others, what they tell each other, and deadlines. sql/schema.sql explains the columns.

ALTER TABLE {schema}.workflows
    ADD COLUMN parent_id uuid,
    ADD COLUMN root_id uuid,
    ADD COLUMN good_until timestamptz,
    ADD COLUMN problem text;

CREATE INDEX workflows_overdue ON {schema}.workflows (good_until) WHERE finished_at IS NULL AND good_until IS NOT NULL;
CREATE INDEX workflows_sent ON {schema}.workflows (sent_at, id) WHERE parent_id IS NULL;

CREATE TABLE {schema}.workflow_signals (
    workflow_id uuid NOT NULL,
    id bigint GENERATED ALWAYS AS IDENTITY,
    data bytea NOT NULL,
    PRIMARY KEY (workflow_id, id)
) WITH (autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);
