-- Since when a worker has been steady, and since when no worker has known a task. sql/schema.sql explains the columns.
-- readable_from: 7

-- step: workers
ALTER TABLE {schema}.workers ADD COLUMN IF NOT EXISTS steady_since timestamptz NOT NULL DEFAULT clock_timestamp();

-- step: tasks
ALTER TABLE {schema}.tasks ADD COLUMN IF NOT EXISTS unknown_since timestamptz;
