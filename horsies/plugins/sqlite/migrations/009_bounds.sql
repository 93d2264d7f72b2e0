-- Tables that take no value of another type, and bounds for what a person may write by hand.
-- readable_from: 7
--
-- Values are cast to the types of their columns, and cut to the bounds. A task with such a value that has not ended is
-- FAILED first: nobody can tell what it was to do.

UPDATE tasks SET
    phase = 3, status = 'FAILED', finished_at = CAST(strftime('%s', 'now') AS INTEGER) * 1000000,
    error_code = 'WORKER_SERIALIZATION_ERROR', result = NULL, worker_id = NULL, claimed_at = NULL
WHERE phase < 3 AND NOT (
    typeof(envelope) = 'blob' AND typeof(sha) = 'blob' AND typeof(queue) = 'text' AND typeof(task_name) = 'text'
    AND (typeof(due_at) = 'integer' AND due_at BETWEEN -62135596800000000 AND 253402300799999999)
    AND (deferred_from IS NULL
        OR typeof(deferred_from) = 'integer' AND deferred_from BETWEEN -62135596800000000 AND 253402300799999999)
    AND (good_until IS NULL
        OR typeof(good_until) = 'integer' AND good_until BETWEEN -62135596800000000 AND 253402300799999999)
    AND (typeof(sent_at) = 'integer' AND sent_at BETWEEN -62135596800000000 AND 253402300799999999)
    AND (claimed_at IS NULL
        OR typeof(claimed_at) = 'integer' AND claimed_at BETWEEN -62135596800000000 AND 253402300799999999)
    AND (started_at IS NULL
        OR typeof(started_at) = 'integer' AND started_at BETWEEN -62135596800000000 AND 253402300799999999)
    AND (cancel_requested_at IS NULL
        OR typeof(cancel_requested_at) = 'integer' AND cancel_requested_at BETWEEN -62135596800000000 AND 253402300799999999)
    AND (unknown_since IS NULL
        OR typeof(unknown_since) = 'integer' AND unknown_since BETWEEN -62135596800000000 AND 253402300799999999)
    AND length(CAST(queue AS BLOB)) BETWEEN 1 AND 255 AND length(CAST(task_name AS BLOB)) BETWEEN 1 AND 255
    AND typeof(priority) = 'integer' AND priority BETWEEN 1 AND 100
    AND typeof(attempt) = 'integer' AND attempt BETWEEN 0 AND 2000000000
    AND typeof(claim_number) = 'integer' AND claim_number BETWEEN 0 AND 4611686018427387904
);

-- Dropping tasks would remove the attempts that refer to them.
CREATE TEMP TABLE kept_attempts AS SELECT * FROM attempts;
DROP TABLE attempts;

ALTER TABLE tasks RENAME TO loose_tasks;
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
    unique_key TEXT,
    cancel_requested_at INTEGER,
    retry_after_crash REAL,
    workflow_id TEXT,
    advances INTEGER,
    unknown_since INTEGER,
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
    CONSTRAINT tasks_done_at_some_time CHECK ((phase = 3) = (finished_at IS NOT NULL)),
    CONSTRAINT tasks_instants_in_calendar CHECK (
        due_at BETWEEN -62135596800000000 AND 253402300799999999
        AND deferred_from BETWEEN -62135596800000000 AND 253402300799999999
        AND good_until BETWEEN -62135596800000000 AND 253402300799999999
        AND sent_at BETWEEN -62135596800000000 AND 253402300799999999
        AND claimed_at BETWEEN -62135596800000000 AND 253402300799999999
        AND started_at BETWEEN -62135596800000000 AND 253402300799999999
        AND finished_at BETWEEN -62135596800000000 AND 253402300799999999
        AND cancel_requested_at BETWEEN -62135596800000000 AND 253402300799999999
        AND unknown_since BETWEEN -62135596800000000 AND 253402300799999999
    ),
    CONSTRAINT tasks_names_have_bounds CHECK (
        length(CAST(queue AS BLOB)) BETWEEN 1 AND 255 AND length(CAST(task_name AS BLOB)) BETWEEN 1 AND 255
        AND length(CAST(unique_key AS BLOB)) BETWEEN 1 AND 255 AND length(CAST(worker_id AS BLOB)) <= 1000
    ),
    CONSTRAINT tasks_numbers_have_bounds CHECK (
        priority BETWEEN 1 AND 100 AND attempt BETWEEN 0 AND 2000000000 AND retries BETWEEN 0 AND 2000000000
        AND claim_number BETWEEN 0 AND 4611686018427387904 AND retry_after_crash BETWEEN 0 AND 315360000000
    )
) STRICT;
INSERT INTO tasks (
    id, phase, status, queue, priority, due_at, deferred_from, good_until, sent_at, task_name, envelope, sha,
    claim_number, worker_id, attempt, retries, claimed_at, started_at, finished_at, error_code, result, unique_key,
    cancel_requested_at, retry_after_crash, workflow_id, advances, unknown_since
)
SELECT
    CAST(id AS TEXT),
    CAST(phase AS INTEGER),
    CAST(status AS TEXT),
    iif(length(CAST(queue AS BLOB)) BETWEEN 1 AND 255, CAST(queue AS TEXT),
        coalesce(nullif(substr(CAST(queue AS TEXT), 1, 60), ''), '?')),
    min(max(CAST(priority AS INTEGER), 1), 100),
    min(max(CAST(due_at AS INTEGER), -62135596800000000), 253402300799999999),
    min(max(CAST(deferred_from AS INTEGER), -62135596800000000), 253402300799999999),
    min(max(CAST(good_until AS INTEGER), -62135596800000000), 253402300799999999),
    min(max(CAST(sent_at AS INTEGER), -62135596800000000), 253402300799999999),
    iif(length(CAST(task_name AS BLOB)) BETWEEN 1 AND 255, CAST(task_name AS TEXT),
        coalesce(nullif(substr(CAST(task_name AS TEXT), 1, 60), ''), '?')),
    CAST(envelope AS BLOB),
    CAST(sha AS BLOB),
    min(max(CAST(claim_number AS INTEGER), 0), 4611686018427387904),
    substr(CAST(worker_id AS TEXT), 1, 250),
    min(max(CAST(attempt AS INTEGER), 0), 2000000000),
    min(max(CAST(retries AS INTEGER), 0), 2000000000),
    min(max(CAST(claimed_at AS INTEGER), -62135596800000000), 253402300799999999),
    min(max(CAST(started_at AS INTEGER), -62135596800000000), 253402300799999999),
    min(max(CAST(finished_at AS INTEGER), -62135596800000000), 253402300799999999),
    CAST(error_code AS TEXT),
    CAST(result AS BLOB),
    iif(length(CAST(unique_key AS BLOB)) BETWEEN 1 AND 255, CAST(unique_key AS TEXT), NULL),
    min(max(CAST(cancel_requested_at AS INTEGER), -62135596800000000), 253402300799999999),
    min(max(CAST(retry_after_crash AS REAL), 0), 315360000000),
    CAST(workflow_id AS TEXT),
    CAST(advances AS INTEGER),
    min(max(CAST(unknown_since AS INTEGER), -62135596800000000), 253402300799999999)
FROM loose_tasks;
DROP TABLE loose_tasks;
CREATE INDEX tasks_delayed ON tasks (due_at) WHERE phase = 0;
CREATE INDEX tasks_ready ON tasks (queue, priority, due_at, id) WHERE phase = 1;
CREATE INDEX tasks_held ON tasks (worker_id) WHERE phase = 2;
CREATE INDEX tasks_deadlines ON tasks (good_until) WHERE phase < 2 AND good_until IS NOT NULL;
CREATE UNIQUE INDEX tasks_unique ON tasks (task_name, unique_key) WHERE phase < 3 AND unique_key IS NOT NULL;
CREATE INDEX tasks_done ON tasks (finished_at) WHERE phase = 3;
CREATE INDEX tasks_of_workflow ON tasks (workflow_id) WHERE workflow_id IS NOT NULL;
CREATE INDEX tasks_unadvanced ON tasks (workflow_id) WHERE phase = 3 AND advances;

CREATE TABLE attempts (
    task_id TEXT NOT NULL REFERENCES tasks ON DELETE CASCADE,
    attempt INTEGER NOT NULL,
    worker_id TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    finished_at INTEGER NOT NULL,
    error_code TEXT,
    result BLOB,
    PRIMARY KEY (task_id, attempt),
    CONSTRAINT attempts_instants_in_calendar CHECK (
        started_at BETWEEN -62135596800000000 AND 253402300799999999
        AND finished_at BETWEEN -62135596800000000 AND 253402300799999999
    )
) STRICT, WITHOUT ROWID;
INSERT INTO attempts (
    task_id, attempt, worker_id, started_at, finished_at, error_code, result
)
SELECT
    CAST(task_id AS TEXT),
    CAST(attempt AS INTEGER),
    CAST(worker_id AS TEXT),
    min(max(CAST(started_at AS INTEGER), -62135596800000000), 253402300799999999),
    min(max(CAST(finished_at AS INTEGER), -62135596800000000), 253402300799999999),
    CAST(error_code AS TEXT),
    CAST(result AS BLOB)
FROM kept_attempts;
DROP TABLE kept_attempts;

ALTER TABLE workers RENAME TO loose_workers;
CREATE TABLE workers (
    worker_id TEXT NOT NULL PRIMARY KEY,
    seen_at INTEGER NOT NULL,
    steady_since INTEGER NOT NULL DEFAULT 253402300799999999,
    CONSTRAINT workers_instants_in_calendar CHECK (
        seen_at BETWEEN -62135596800000000 AND 253402300799999999
        AND steady_since BETWEEN -62135596800000000 AND 253402300799999999
    )
) STRICT, WITHOUT ROWID;
INSERT INTO workers (
    worker_id, seen_at, steady_since
)
SELECT
    CAST(worker_id AS TEXT),
    min(max(CAST(seen_at AS INTEGER), -62135596800000000), 253402300799999999),
    min(max(CAST(steady_since AS INTEGER), -62135596800000000), 253402300799999999)
FROM loose_workers;
DROP TABLE loose_workers;

ALTER TABLE leases RENAME TO loose_leases;
CREATE TABLE leases (
    name TEXT NOT NULL PRIMARY KEY,
    holder TEXT,
    watching INTEGER NOT NULL DEFAULT 0,
    expires_at INTEGER NOT NULL,
    CONSTRAINT leases_expire CHECK (expires_at <= 253402300799999999)
) STRICT, WITHOUT ROWID;
INSERT INTO leases (
    name, holder, watching, expires_at
)
SELECT
    CAST(name AS TEXT),
    CAST(holder AS TEXT),
    CAST(watching AS INTEGER),
    min(max(CAST(expires_at AS INTEGER), -62135596800000000), 253402300799999999)
FROM loose_leases;
DROP TABLE loose_leases;

ALTER TABLE queues RENAME TO loose_queues;
CREATE TABLE queues (
    name TEXT NOT NULL PRIMARY KEY,
    paused_at INTEGER,
    CONSTRAINT queues_instants_in_calendar CHECK (
        paused_at BETWEEN -62135596800000000 AND 253402300799999999
    )
) STRICT, WITHOUT ROWID;
INSERT INTO queues (
    name, paused_at
)
SELECT
    CAST(name AS TEXT),
    min(max(CAST(paused_at AS INTEGER), -62135596800000000), 253402300799999999)
FROM loose_queues;
DROP TABLE loose_queues;

ALTER TABLE schedules RENAME TO loose_schedules;
CREATE TABLE schedules (
    name TEXT NOT NULL PRIMARY KEY,
    timing TEXT NOT NULL,
    next_slot INTEGER,
    paused_at INTEGER,
    last_slot INTEGER,
    last_task_id TEXT,
    problem TEXT,
    CONSTRAINT schedules_instants_in_calendar CHECK (
        next_slot BETWEEN -62135596800000000 AND 253402300799999999
        AND paused_at BETWEEN -62135596800000000 AND 253402300799999999
        AND last_slot BETWEEN -62135596800000000 AND 253402300799999999
    )
) STRICT, WITHOUT ROWID;
INSERT INTO schedules (
    name, timing, next_slot, paused_at, last_slot, last_task_id, problem
)
SELECT
    CAST(name AS TEXT),
    CAST(timing AS TEXT),
    min(max(CAST(next_slot AS INTEGER), -62135596800000000), 253402300799999999),
    min(max(CAST(paused_at AS INTEGER), -62135596800000000), 253402300799999999),
    min(max(CAST(last_slot AS INTEGER), -62135596800000000), 253402300799999999),
    CAST(last_task_id AS TEXT),
    CAST(problem AS TEXT)
FROM loose_schedules;
DROP TABLE loose_schedules;

ALTER TABLE workflows RENAME TO loose_workflows;
CREATE TABLE workflows (
    id TEXT NOT NULL PRIMARY KEY,
    sha BLOB NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    spec BLOB NOT NULL,
    state BLOB NOT NULL,
    status TEXT NOT NULL,
    sent_at INTEGER NOT NULL,
    finished_at INTEGER,
    error_code TEXT,
    parent_id TEXT,
    root_id TEXT,
    good_until INTEGER,
    problem TEXT,
    CONSTRAINT workflows_status_agrees_with_end CHECK (
        CASE WHEN finished_at IS NULL THEN status IN ('RUNNING', 'PAUSED')
        ELSE status IN ('COMPLETED', 'FAILED', 'CANCELLED', 'EXPIRED') END
    ),
    CONSTRAINT workflows_instants_in_calendar CHECK (
        sent_at BETWEEN -62135596800000000 AND 253402300799999999
        AND finished_at BETWEEN -62135596800000000 AND 253402300799999999
        AND good_until BETWEEN -62135596800000000 AND 253402300799999999
    )
) STRICT;
INSERT INTO workflows (
    id, sha, name, version, spec, state, status, sent_at, finished_at, error_code, parent_id, root_id, good_until,
    problem
)
SELECT
    CAST(id AS TEXT),
    CAST(sha AS BLOB),
    CAST(name AS TEXT),
    CAST(version AS INTEGER),
    CAST(spec AS BLOB),
    CAST(state AS BLOB),
    CAST(status AS TEXT),
    min(max(CAST(sent_at AS INTEGER), -62135596800000000), 253402300799999999),
    min(max(CAST(finished_at AS INTEGER), -62135596800000000), 253402300799999999),
    CAST(error_code AS TEXT),
    CAST(parent_id AS TEXT),
    CAST(root_id AS TEXT),
    min(max(CAST(good_until AS INTEGER), -62135596800000000), 253402300799999999),
    CAST(problem AS TEXT)
FROM loose_workflows;
DROP TABLE loose_workflows;
CREATE INDEX workflows_done ON workflows (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX workflows_overdue ON workflows (good_until) WHERE finished_at IS NULL AND good_until IS NOT NULL;
CREATE INDEX workflows_sent ON workflows (sent_at, id) WHERE parent_id IS NULL;

ALTER TABLE workflow_signals RENAME TO loose_workflow_signals;
CREATE TABLE workflow_signals (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    workflow_id TEXT NOT NULL,
    data BLOB NOT NULL
) STRICT;
INSERT INTO workflow_signals (
    id, workflow_id, data
)
SELECT
    CAST(id AS INTEGER),
    CAST(workflow_id AS TEXT),
    CAST(data AS BLOB)
FROM loose_workflow_signals;
DROP TABLE loose_workflow_signals;
CREATE INDEX signals_of_workflow ON workflow_signals (workflow_id);
