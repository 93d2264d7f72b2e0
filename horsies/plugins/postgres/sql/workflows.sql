-- Where workflows stand, and which ends of their tasks have not been followed up.

-- name: start_workflow
-- A row if the id was free.
INSERT INTO {schema}.workflows (id, sha, name, version, spec, state, status, sent_at)
VALUES (
    %(id)s::uuid, %(sha)s::bytea, %(name)s, %(version)s::bigint, %(spec)s::bytea, %(state)s::bytea, %(status)s,
    %(sent_at)s::timestamptz
)
ON CONFLICT DO NOTHING
RETURNING id

-- name: workflow_sha
-- What the row holds whose id was present.
SELECT sha FROM {schema}.workflows WHERE id = %(id)s::uuid

-- name: workflow
-- One workflow.
SELECT id::text, sha, name, version, spec, state, status, sent_at, finished_at, error_code
FROM {schema}.workflows WHERE id = %(id)s::uuid

-- name: tasks_of
-- The tasks of one workflow.
SELECT id::text, status, error_code FROM {schema}.tasks WHERE workflow_id = %(id)s::uuid

-- name: lock_workflows
-- They stay locked, taken in the order of their ids, so that two advances with the same ones in hand wait for one another
-- and never lock up.
SELECT id::text, sha, name, version, spec, state, status, sent_at, finished_at, error_code
FROM {schema}.workflows
WHERE id = ANY (%(ids)s::uuid[])
ORDER BY workflows.id
FOR NO KEY UPDATE

-- name: marked_ends
-- The ends that have not been followed up. Under the lock, and a statement of its own, so that it sees what those who
-- held the lock before have left.
SELECT workflow_id::text, id::text, status, error_code FROM {schema}.tasks
WHERE phase = 3 AND advances AND workflow_id = ANY (%(ids)s::uuid[])
ORDER BY workflow_id, finished_at, id

-- name: step
-- What has ended keeps its status, its end and its code; its state is written, since ends may come late.
WITH clock AS MATERIALIZED (SELECT coalesce(%(now)s::timestamptz, clock_timestamp()) AS now),
written AS (
    UPDATE {schema}.workflows AS workflow SET
        state = given.state,
        status = CASE WHEN before.finished_at IS NULL THEN given.status ELSE before.status END,
        error_code = CASE WHEN before.finished_at IS NULL THEN given.error_code ELSE before.error_code END,
        finished_at = CASE
            WHEN before.finished_at IS NOT NULL THEN before.finished_at
            WHEN given.status NOT IN ('RUNNING', 'PAUSED') THEN clock.now
        END
    FROM clock CROSS JOIN unnest(
        %(ids)s::uuid[], %(states)s::bytea[], %(statuses)s::text[], %(error_codes)s::text[]
    ) AS given (id, state, status, error_code)
    JOIN {schema}.workflows AS before ON before.id = given.id
    WHERE workflow.id = given.id
    RETURNING workflow.id, before.finished_at IS NULL AND workflow.finished_at IS NOT NULL AS ends
),
told AS MATERIALIZED (
    SELECT count(pg_notify('{schema}_finished', ids)) AS finished
    FROM (
        SELECT string_agg(id::text, ',') AS ids
        FROM (SELECT id, row_number() OVER () - 1 AS n FROM written WHERE ends) AS numbered
        GROUP BY n / 150
    ) AS notices
)
SELECT (SELECT count(*) FROM written), told.finished FROM told

-- name: advanced
-- These ends have been followed up.
UPDATE {schema}.tasks SET advances = NULL WHERE id = ANY (%(ids)s::uuid[])

-- name: unadvanced
-- Workflows that have marked ends.
SELECT workflow_id::text
FROM (
    SELECT DISTINCT workflow_id FROM {schema}.tasks
    WHERE phase = 3 AND advances AND workflow_id <> ALL (%(skipped)s::uuid[])
    ORDER BY workflow_id
    LIMIT %(limit)s::bigint
) AS found

-- name: old_workflows
-- What ended long ago and has no tasks left, the oldest first.
SELECT id::text FROM {schema}.workflows
WHERE finished_at <= coalesce(%(now)s::timestamptz, clock_timestamp()) - make_interval(secs => %(finished_after)s::float8)
    AND id <> ALL (%(skipped)s::uuid[])
    AND NOT EXISTS (SELECT FROM {schema}.tasks WHERE tasks.workflow_id = workflows.id)
ORDER BY finished_at
LIMIT %(limit)s::bigint

-- name: prune_workflows
WITH gone AS (
    DELETE FROM {schema}.workflows
    WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM {schema}.workflows
        WHERE id = ANY (%(ids)s::uuid[]) AND finished_at IS NOT NULL
            AND NOT EXISTS (SELECT FROM {schema}.tasks WHERE tasks.workflow_id = workflows.id)
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING id
)
SELECT count(*) FROM gone
