-- Tasks, the attempts that were followed by another, and the workers. sql/schema.sql explains the columns.

CREATE TABLE tasks (
    id TEXT NOT NULL PRIMARY KEY,
    phase INTEGER NOT NULL,
    status TEXT NOT NULL,
    queue TEXT NOT NULL,
    priority INTEGER NOT NULL,
    due_at INTEGER NOT NULL,
    deferred_from INTEGER,
    good_until INTEGER,
    sent_at INTEGER NOT NULL,
    task_name TEXT NOT NULL,
    envelope BLOB NOT NULL,
    sha BLOB NOT NULL,
    claim_number INTEGER NOT NULL DEFAULT 0,
    worker_id TEXT,
    attempt INTEGER NOT NULL DEFAULT 0,
    retries INTEGER NOT NULL DEFAULT 0,
    claimed_at INTEGER,
    started_at INTEGER,
    finished_at INTEGER,
    error_code TEXT,
    result BLOB,
    CONSTRAINT tasks_status_agrees_with_phase CHECK (
        CASE phase
            WHEN 0 THEN status = 'PENDING'
            WHEN 1 THEN status = 'PENDING'
            WHEN 2 THEN status IN ('CLAIMED', 'RUNNING')
            WHEN 3 THEN status IN ('COMPLETED', 'FAILED', 'CANCELLED', 'EXPIRED')
            ELSE FALSE
        END
    ),
    CONSTRAINT tasks_held_by_somebody CHECK (phase <> 2 OR worker_id IS NOT NULL),
    CONSTRAINT tasks_done_at_some_time CHECK ((phase = 3) = (finished_at IS NOT NULL))
);

CREATE INDEX tasks_delayed ON tasks (due_at) WHERE phase = 0;
CREATE INDEX tasks_ready ON tasks (queue, priority, due_at, id) WHERE phase = 1;
CREATE INDEX tasks_held ON tasks (worker_id) WHERE phase = 2;
CREATE INDEX tasks_deadlines ON tasks (good_until) WHERE phase < 2 AND good_until IS NOT NULL;

CREATE TABLE attempts (
    task_id TEXT NOT NULL REFERENCES tasks ON DELETE CASCADE,
    attempt INTEGER NOT NULL,
    worker_id TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    finished_at INTEGER NOT NULL,
    error_code TEXT,
    result BLOB NOT NULL,
    PRIMARY KEY (task_id, attempt)
) WITHOUT ROWID;

CREATE TABLE workers (
    worker_id TEXT NOT NULL PRIMARY KEY,
    seen_at INTEGER NOT NULL
) WITHOUT ROWID;
