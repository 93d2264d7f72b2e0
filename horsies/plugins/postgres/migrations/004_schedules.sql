-- Where each schedule stands. sql/schema.sql explains the columns.

CREATE TABLE IF NOT EXISTS {schema}.schedules (
    name text PRIMARY KEY,
    timing text NOT NULL,
    next_slot timestamptz,
    paused_at timestamptz,
    last_slot timestamptz,
    last_task_id uuid,
    problem text
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);
