-- Where each schedule stands. sql/schema.sql explains the columns.

CREATE TABLE schedules (
    name TEXT NOT NULL PRIMARY KEY,
    timing TEXT NOT NULL,
    next_slot INTEGER,
    paused_at INTEGER,
    last_slot INTEGER,
    last_task_id TEXT,
    problem TEXT
) WITHOUT ROWID;
