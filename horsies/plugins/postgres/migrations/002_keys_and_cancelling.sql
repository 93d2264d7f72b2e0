-- Unique keys, requests to cancel, and what a crash leads to. sql/schema.sql explains the columns.

-- step: columns of tasks
ALTER TABLE {schema}.tasks
    ADD COLUMN IF NOT EXISTS unique_key text,
    ADD COLUMN IF NOT EXISTS cancel_requested_at timestamptz,
    ADD COLUMN IF NOT EXISTS retry_after_crash float8;

-- step: unique keys (concurrently)
CREATE UNIQUE INDEX IF NOT EXISTS tasks_unique ON {schema}.tasks (task_name, unique_key)
WHERE phase < 3 AND unique_key IS NOT NULL;

-- step: attempts without a result
ALTER TABLE {schema}.attempts ALTER COLUMN result DROP NOT NULL;
