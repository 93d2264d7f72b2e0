-- Since when a worker has been steady, and since when no worker has known a task. sql/schema.sql explains the columns.

ALTER TABLE {schema}.workers ADD COLUMN steady_since timestamptz NOT NULL DEFAULT clock_timestamp();
ALTER TABLE {schema}.tasks ADD COLUMN unknown_since timestamptz;
