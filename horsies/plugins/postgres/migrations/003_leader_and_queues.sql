-- Who leads, which queues are paused, and what ended when. sql/schema.sql explains the columns.

CREATE INDEX tasks_done ON {schema}.tasks (finished_at) WHERE phase = 3;

CREATE TABLE {schema}.leases (
    name text PRIMARY KEY,
    holder text,
    watching boolean NOT NULL DEFAULT false,
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);
INSERT INTO {schema}.leases (name, expires_at) VALUES ('leader', '-infinity');

CREATE TABLE {schema}.queues (
    name text PRIMARY KEY,
    paused_at timestamptz
);
