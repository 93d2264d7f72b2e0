-- Since when a worker has been steady, and since when no worker has known a task. sql/schema.sql explains the columns.
-- readable_from: 7

ALTER TABLE workers ADD COLUMN steady_since INTEGER NOT NULL DEFAULT 253402300799999999;
ALTER TABLE tasks ADD COLUMN unknown_since INTEGER;
