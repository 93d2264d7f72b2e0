-- Today's schema; the migrations lead to it, and a test proves that they agree.
--
--   tasks      one row for each task, from its send to the end of its retention; the last attempt lives in it
--   attempts   one row for each attempt that ended and was followed by another
--   workers    one row for each living worker: when it was last seen, and since when without a gap
--   leases     one row, 'leader': the worker that looks after what nobody holds, whether it may find others dead, until when
--   queues     one row for each queue that was ever paused: since when it is, or NULL
--   schedules  one row for each schedule: its timing, where it stands, what it sent last, and what is wrong with it
--   workflows  one row for each workflow: what it consists of, where it stands, and how it ended
--   migrations one row for each migration from 7 on: the oldest version whose code can use what it leads to
--
-- How a task moves (the status is for people, the phase is what the indexes go by):
--
--   phase 0 delayed   PENDING, due in the future      -> 1 by promote
--   phase 1 ready     PENDING, due                    -> 2 by claim, 3 when its deadline has passed
--   phase 2 held      CLAIMED, then RUNNING           -> 3 by finish, 0 or 1 by a retry, by giving back or by reaping
--   phase 3 done      COMPLETED, FAILED, CANCELLED, EXPIRED
--
-- Instants (*_at, *_slot, deferred_from, good_until) are microseconds since 1970 in UTC.
--
-- due_at: when it may be claimed; giving back with a delay moves it and keeps the first due time in deferred_from.
-- attempt: how often user code has started. retries: how many of these were retries that count.
-- claim_number: grows with each claim and never resets; every write by a worker names it.
-- unique_key: of the tasks of one name that have not ended, at most one has it.
-- cancel_requested_at: somebody cancelled the task while it was running; it is not tried again.
-- retry_after_crash: the verdict stored at the start: seconds to the retry if the worker dies; NULL: the task FAILED.
-- advances: true from the insert of a workflow's task on, NULL for all others. On a task that has ended it is the mark of
-- an end that has not been followed up, and the advance that does so makes it NULL.
-- unknown_since: a worker gave the task back because it did not know the task or something the task needs; the start clears
-- it.
-- timing: everything a schedule's slots follow from, as text; one with another timing begins anew.
-- next_slot: the first that has not been dealt with; NULL: there is none left.
-- last_slot, last_task_id: of the last task sent. problem: why nothing was sent for the slot last dealt with.
-- A workflow's sha: tells a replay of the start from another one. spec: what it consists of. state: where each node
-- stands; what follows from the ends of its tasks is written there in the transaction that removes their marks. Its
-- parent_id: the workflow that it is a part of; root_id: the one at the top, which is a part of none. problem: why it could
-- not be advanced when that was last tried. A signal is what workflows tell each other: written in an advance of one, and
-- removed in the advance of the other that takes it.

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

CREATE TABLE workers (
    worker_id TEXT NOT NULL PRIMARY KEY,
    seen_at INTEGER NOT NULL,
    steady_since INTEGER NOT NULL DEFAULT 253402300799999999,
    CONSTRAINT workers_instants_in_calendar CHECK (
        seen_at BETWEEN -62135596800000000 AND 253402300799999999
        AND steady_since BETWEEN -62135596800000000 AND 253402300799999999
    )
) STRICT, WITHOUT ROWID;

CREATE TABLE leases (
    name TEXT NOT NULL PRIMARY KEY,
    holder TEXT,
    watching INTEGER NOT NULL DEFAULT 0,
    expires_at INTEGER NOT NULL,
    CONSTRAINT leases_expire CHECK (expires_at <= 253402300799999999)
) STRICT, WITHOUT ROWID;
INSERT INTO leases (name, holder, expires_at) VALUES ('leader', NULL, 0);

CREATE TABLE queues (
    name TEXT NOT NULL PRIMARY KEY,
    paused_at INTEGER,
    CONSTRAINT queues_instants_in_calendar CHECK (
        paused_at BETWEEN -62135596800000000 AND 253402300799999999
    )
) STRICT, WITHOUT ROWID;

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

CREATE INDEX workflows_done ON workflows (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX workflows_overdue ON workflows (good_until) WHERE finished_at IS NULL AND good_until IS NOT NULL;
CREATE INDEX workflows_sent ON workflows (sent_at, id) WHERE parent_id IS NULL;

CREATE TABLE workflow_signals (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    workflow_id TEXT NOT NULL,
    data BLOB NOT NULL
) STRICT;

CREATE INDEX signals_of_workflow ON workflow_signals (workflow_id);

CREATE TABLE migrations (
    version INTEGER PRIMARY KEY,
    readable_from INTEGER NOT NULL
);
