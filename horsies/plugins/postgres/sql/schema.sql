-- Today's schema; the migrations lead to it, and a test proves that they agree.
--
--   tasks        one row for each task, from its send to the end of its retention; the last attempt lives in it
--   attempts     one row for each attempt that ended and was followed by another
--   workers      one row for each living worker: when it was last seen, and since when without a gap
--   leases       one row, 'leader': the worker that looks after what nobody holds, whether it may find others dead, until when
--   queues       one row for each queue that was ever paused: since when it is, or NULL
--   schedules    one row for each schedule: its timing, where it stands, what it sent last, and what is wrong with it
--   workflows    one row for each workflow: what it consists of, where it stands, and how it ended
--   migrations   which numbered files have been applied, and the oldest version whose code can use what they lead to
--
-- How a task moves (the status is for people, the phase is what the indexes go by):
--
--   phase 0 delayed   PENDING, due in the future      -> 1 by promote
--   phase 1 ready     PENDING, due                    -> 2 by claim, 3 when its deadline has passed
--   phase 2 held      CLAIMED, then RUNNING           -> 3 by finish, 0 or 1 by a retry, by giving back or by reaping
--   phase 3 done      COMPLETED, FAILED, CANCELLED, EXPIRED
--
-- Each partial index belongs to one phase, so CLAIMED -> RUNNING changes no indexed column and stays on its page (a HOT
-- update), for which the fillfactor leaves room.
--
-- Channels: {schema}_work carries ready:<queue> and delayed:<queue> where a queue got tasks, and cancel:<id> where a
-- running task is to be cancelled. {schema}_finished carries ids of tasks that ended, separated by commas.
-- An empty payload means: look for yourself.

CREATE SCHEMA IF NOT EXISTS {schema};

CREATE TABLE {schema}.migrations (
    version integer PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    readable_from integer
);

CREATE TABLE {schema}.tasks (
    id uuid PRIMARY KEY,
    phase smallint NOT NULL,
    status text NOT NULL,
    queue text NOT NULL,
    priority smallint NOT NULL,
    due_at timestamptz NOT NULL,
    deferred_from timestamptz,
    good_until timestamptz,
    sent_at timestamptz NOT NULL,
    task_name text NOT NULL,
    envelope bytea NOT NULL,
    sha bytea NOT NULL,
    claim_number bigint NOT NULL DEFAULT 0,
    worker_id text,
    attempt integer NOT NULL DEFAULT 0,
    retries integer NOT NULL DEFAULT 0,
    claimed_at timestamptz,
    started_at timestamptz,
    finished_at timestamptz,
    error_code text,
    result bytea,
    unique_key text,
    cancel_requested_at timestamptz,
    retry_after_crash float8,
    workflow_id uuid,
    advances boolean,
    unknown_since timestamptz,
    CONSTRAINT tasks_status_agrees_with_phase CHECK (
        CASE phase
            WHEN 0 THEN status = 'PENDING'
            WHEN 1 THEN status = 'PENDING'
            WHEN 2 THEN status IN ('CLAIMED', 'RUNNING')
            WHEN 3 THEN status IN ('COMPLETED', 'FAILED', 'CANCELLED', 'EXPIRED')
            ELSE false
        END
    ),
    CONSTRAINT tasks_held_by_somebody CHECK (phase <> 2 OR worker_id IS NOT NULL),
    CONSTRAINT tasks_done_at_some_time CHECK ((phase = 3) = (finished_at IS NOT NULL)),
    CONSTRAINT tasks_instants_in_calendar CHECK (
        least(
            due_at, deferred_from, good_until, sent_at, claimed_at, started_at, finished_at, cancel_requested_at,
            unknown_since
        ) >= '0001-01-01 00:00:00+00'
        AND greatest(
            due_at, deferred_from, good_until, sent_at, claimed_at, started_at, finished_at, cancel_requested_at,
            unknown_since
        ) < '10000-01-01 00:00:00+00'
    ),
    CONSTRAINT tasks_names_have_bounds CHECK (
        octet_length(queue) BETWEEN 1 AND 255 AND octet_length(task_name) BETWEEN 1 AND 255
        AND octet_length(unique_key) BETWEEN 1 AND 255 AND octet_length(worker_id) <= 1000
    ),
    CONSTRAINT tasks_numbers_have_bounds CHECK (
        priority BETWEEN 1 AND 100 AND attempt BETWEEN 0 AND 2000000000 AND retries BETWEEN 0 AND 2000000000
        AND claim_number BETWEEN 0 AND 4611686018427387904 AND retry_after_crash BETWEEN 0 AND 315360000000
    )
) WITH (
    fillfactor = 60,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0.05
);

-- due_at: when it may be claimed; giving back with a delay moves it and keeps the first due time in deferred_from.
-- attempt: how often user code has started. retries: how many of these were retries that count.
-- claim_number: grows with each claim by a random step and never resets; every write by a worker names it.
-- unique_key: of the tasks of one name that have not ended, at most one has it.
-- cancel_requested_at: somebody cancelled the task while it was running; it is not tried again.
-- retry_after_crash: the verdict stored at the start: seconds to the retry if the worker dies; NULL: the task FAILED.
-- advances: true from the insert of a workflow's task on, NULL for all others. On a task that has ended it is the mark of
-- an end that has not been followed up, and the advance that does so makes it NULL.
-- unknown_since: a worker gave the task back because it did not know the task or something the task needs; the start clears
-- it.

CREATE INDEX tasks_delayed ON {schema}.tasks (due_at) WHERE phase = 0;
CREATE INDEX tasks_ready ON {schema}.tasks (queue, priority, due_at, id) WHERE phase = 1;
CREATE INDEX tasks_held ON {schema}.tasks (worker_id) WHERE phase = 2;
CREATE INDEX tasks_deadlines ON {schema}.tasks (good_until) WHERE phase < 2 AND good_until IS NOT NULL;
CREATE UNIQUE INDEX tasks_unique ON {schema}.tasks (task_name, unique_key)
WHERE phase < 3 AND unique_key IS NOT NULL;
CREATE INDEX tasks_done ON {schema}.tasks (finished_at) WHERE phase = 3;
CREATE INDEX tasks_of_workflow ON {schema}.tasks (workflow_id) WHERE workflow_id IS NOT NULL;
CREATE INDEX tasks_unadvanced ON {schema}.tasks (workflow_id) WHERE phase = 3 AND advances;

CREATE TABLE {schema}.attempts (
    task_id uuid NOT NULL REFERENCES {schema}.tasks ON DELETE CASCADE,
    attempt integer NOT NULL,
    worker_id text NOT NULL,
    started_at timestamptz NOT NULL,
    finished_at timestamptz NOT NULL,
    error_code text,
    result bytea,
    PRIMARY KEY (task_id, attempt),
    CONSTRAINT attempts_instants_in_calendar CHECK (
        least(started_at, finished_at) >= '0001-01-01 00:00:00+00' AND greatest(started_at, finished_at) < '10000-01-01 00:00:00+00'
    )
);

CREATE TABLE {schema}.workers (
    worker_id text PRIMARY KEY,
    seen_at timestamptz NOT NULL,
    steady_since timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT workers_instants_in_calendar CHECK (
        least(seen_at, steady_since) >= '0001-01-01 00:00:00+00' AND greatest(seen_at, steady_since) < '10000-01-01 00:00:00+00'
    )
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);

CREATE TABLE {schema}.leases (
    name text PRIMARY KEY,
    holder text,
    watching boolean NOT NULL DEFAULT false,
    expires_at timestamptz NOT NULL,
    CONSTRAINT leases_expire CHECK (
        expires_at < '10000-01-01 00:00:00+00'
    )
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);
INSERT INTO {schema}.leases (name, expires_at) VALUES ('leader', '-infinity');

CREATE TABLE {schema}.queues (
    name text PRIMARY KEY,
    paused_at timestamptz,
    CONSTRAINT queues_instants_in_calendar CHECK (
        paused_at >= '0001-01-01 00:00:00+00' AND paused_at < '10000-01-01 00:00:00+00'
    )
);

-- timing: everything its slots follow from, as text; one with another timing begins anew.
-- next_slot: the first that has not been dealt with; NULL: there is none left.
-- last_slot, last_task_id: of the last task sent. problem: why nothing was sent for the slot last dealt with.

CREATE TABLE {schema}.schedules (
    name text PRIMARY KEY,
    timing text NOT NULL,
    next_slot timestamptz,
    paused_at timestamptz,
    last_slot timestamptz,
    last_task_id uuid,
    problem text,
    CONSTRAINT schedules_instants_in_calendar CHECK (
        least(next_slot, paused_at, last_slot) >= '0001-01-01 00:00:00+00' AND greatest(next_slot, paused_at, last_slot) < '10000-01-01 00:00:00+00'
    )
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);

-- sha: tells a replay of the start from another one. spec: what the workflow consists of. state: where each node stands,
-- and what follows from the ends of its tasks is written there in the transaction that removes their marks. parent_id: the
-- workflow that it is a part of; root_id: the one at the top, which is a part of none. problem: why it could not be
-- advanced when that was last tried.

CREATE TABLE {schema}.workflows (
    id uuid PRIMARY KEY,
    sha bytea NOT NULL,
    name text NOT NULL,
    version integer NOT NULL,
    spec bytea NOT NULL,
    state bytea NOT NULL,
    status text NOT NULL,
    sent_at timestamptz NOT NULL,
    finished_at timestamptz,
    error_code text,
    parent_id uuid,
    root_id uuid,
    good_until timestamptz,
    problem text,
    CONSTRAINT workflows_status_agrees_with_end CHECK (
        CASE WHEN finished_at IS NULL THEN status IN ('RUNNING', 'PAUSED')
        ELSE status IN ('COMPLETED', 'FAILED', 'CANCELLED', 'EXPIRED') END
    ),
    CONSTRAINT workflows_instants_in_calendar CHECK (
        least(sent_at, finished_at, good_until) >= '0001-01-01 00:00:00+00' AND greatest(sent_at, finished_at, good_until) < '10000-01-01 00:00:00+00'
    )
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);

CREATE INDEX workflows_done ON {schema}.workflows (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX workflows_overdue ON {schema}.workflows (good_until) WHERE finished_at IS NULL AND good_until IS NOT NULL;
CREATE INDEX workflows_sent ON {schema}.workflows (sent_at, id) WHERE parent_id IS NULL;

-- What workflows tell each other: written in an advance of one, and removed in the advance of the other that takes it.

CREATE TABLE {schema}.workflow_signals (
    workflow_id uuid NOT NULL,
    id bigint GENERATED ALWAYS AS IDENTITY,
    data bytea NOT NULL,
    PRIMARY KEY (workflow_id, id)
) WITH (autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);
