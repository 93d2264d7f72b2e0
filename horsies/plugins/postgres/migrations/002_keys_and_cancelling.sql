-- Unique keys, requests to cancel, and what a crash leads to. sql/schema.sql explains the columns.

ALTER TABLE {schema}.tasks
    ADD COLUMN unique_key text,
    ADD COLUMN cancel_requested_at timestamptz,
    ADD COLUMN retry_after_crash float8;

CREATE UNIQUE INDEX tasks_unique ON {schema}.tasks (task_name, unique_key)
WHERE phase < 3 AND unique_key IS NOT NULL;

ALTER TABLE {schema}.attempts ALTER COLUMN result DROP NOT NULL;
