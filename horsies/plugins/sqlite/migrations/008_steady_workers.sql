-- Since when a worker has been steady, and since when no worker has known a task. sql/schema.sql explains the columns.

ALTER TABLE workers ADD COLUMN steady_since INTEGER NOT NULL DEFAULT 9223372036854775807;
ALTER TABLE tasks ADD COLUMN unknown_since INTEGER;
