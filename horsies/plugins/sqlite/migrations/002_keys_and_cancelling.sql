-- Unique keys, requests to cancel, and what a crash leads to. sql/schema.sql explains the columns.

ALTER TABLE tasks ADD COLUMN unique_key TEXT;
ALTER TABLE tasks ADD COLUMN cancel_requested_at INTEGER;
ALTER TABLE tasks ADD COLUMN retry_after_crash REAL;

CREATE UNIQUE INDEX tasks_unique ON tasks (task_name, unique_key) WHERE phase < 3 AND unique_key IS NOT NULL;

-- SQLite cannot drop a NOT NULL; the table is made anew.
ALTER TABLE attempts RENAME TO attempts_1;
CREATE TABLE attempts (
    task_id TEXT NOT NULL REFERENCES tasks ON DELETE CASCADE,
    attempt INTEGER NOT NULL,
    worker_id TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    finished_at INTEGER NOT NULL,
    error_code TEXT,
    result BLOB,
    PRIMARY KEY (task_id, attempt)
) WITHOUT ROWID;
INSERT INTO attempts SELECT * FROM attempts_1;
DROP TABLE attempts_1;
