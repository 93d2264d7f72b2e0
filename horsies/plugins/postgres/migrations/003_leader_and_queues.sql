-- Who leads, which queues are paused, and what ended when. sql/schema.sql explains the columns.

-- step: ended tasks (concurrently)
CREATE INDEX IF NOT EXISTS tasks_done ON {schema}.tasks (finished_at) WHERE phase = 3;

-- step: leases and queues
CREATE TABLE IF NOT EXISTS {schema}.leases (
    name text PRIMARY KEY,
    holder text,
    watching boolean NOT NULL DEFAULT false,
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);
INSERT INTO {schema}.leases (name, expires_at) VALUES ('leader', '-infinity') ON CONFLICT DO NOTHING;

CREATE TABLE IF NOT EXISTS {schema}.queues (
    name text PRIMARY KEY,
    paused_at timestamptz
);
