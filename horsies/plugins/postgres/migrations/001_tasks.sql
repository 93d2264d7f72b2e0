-- Tasks, the attempts that were followed by another, and the workers. sql/schema.sql explains the columns.

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
    CONSTRAINT tasks_done_at_some_time CHECK ((phase = 3) = (finished_at IS NOT NULL))
) WITH (
    fillfactor = 60,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0.05
);

CREATE INDEX tasks_delayed ON {schema}.tasks (due_at) WHERE phase = 0;
CREATE INDEX tasks_ready ON {schema}.tasks (queue, priority, due_at, id) WHERE phase = 1;
CREATE INDEX tasks_held ON {schema}.tasks (worker_id) WHERE phase = 2;
CREATE INDEX tasks_deadlines ON {schema}.tasks (good_until) WHERE phase < 2 AND good_until IS NOT NULL;

CREATE TABLE {schema}.attempts (
    task_id uuid NOT NULL REFERENCES {schema}.tasks ON DELETE CASCADE,
    attempt integer NOT NULL,
    worker_id text NOT NULL,
    started_at timestamptz NOT NULL,
    finished_at timestamptz NOT NULL,
    error_code text,
    result bytea NOT NULL,
    PRIMARY KEY (task_id, attempt)
);

CREATE TABLE {schema}.workers (
    worker_id text PRIMARY KEY,
    seen_at timestamptz NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);
