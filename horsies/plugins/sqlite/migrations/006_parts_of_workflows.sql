-- Workflows that are parts of others, what they tell each other, and deadlines. sql/schema.sql explains the columns.

ALTER TABLE workflows ADD COLUMN parent_id TEXT;
ALTER TABLE workflows ADD COLUMN root_id TEXT;
ALTER TABLE workflows ADD COLUMN good_until INTEGER;
ALTER TABLE workflows ADD COLUMN problem TEXT;

CREATE INDEX workflows_overdue ON workflows (good_until) WHERE finished_at IS NULL AND good_until IS NOT NULL;
CREATE INDEX workflows_sent ON workflows (sent_at, id) WHERE parent_id IS NULL;

CREATE TABLE workflow_signals (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    workflow_id TEXT NOT NULL,
    data BLOB NOT NULL
);

CREATE INDEX signals_of_workflow ON workflow_signals (workflow_id);
