-- Where workflows stand, and which ends of their tasks have not been followed up.

-- name: start_workflows
-- The ids that were free.
INSERT INTO {schema}.workflows
    (id, sha, name, version, spec, state, status, sent_at, parent_id, root_id, good_until, finished_at)
SELECT
    given.id, given.sha, given.name, given.version, given.spec, given.state, given.status, given.sent_at,
    given.parent_id, given.root_id, given.good_until,
    CASE WHEN given.status NOT IN ('RUNNING', 'PAUSED') THEN coalesce(%(now)s::timestamptz, clock_timestamp()) END
FROM (
    SELECT
        unnest(%(ids)s::uuid[]) AS id, unnest(%(shas)s::bytea[]) AS sha, unnest(%(names)s::text[]) AS name,
        unnest(%(versions)s::bigint[]) AS version, unnest(%(specs)s::bytea[]) AS spec,
        unnest(%(states)s::bytea[]) AS state, unnest(%(statuses)s::text[]) AS status,
        unnest(%(sent_ats)s::timestamptz[]) AS sent_at, unnest(%(parent_ids)s::uuid[]) AS parent_id,
        unnest(%(root_ids)s::uuid[]) AS root_id, unnest(%(good_untils)s::timestamptz[]) AS good_until
) AS given
ON CONFLICT DO NOTHING
RETURNING id::text

-- name: workflow_sha
-- What the row holds whose id was present.
SELECT sha FROM {schema}.workflows WHERE id = %(id)s::uuid

-- name: workflow
-- One workflow, and the head of its spec.
SELECT
    id::text, sha, name, version, substring(spec FROM 1 FOR %(head)s::integer), state, status, sent_at, finished_at,
    error_code, parent_id::text, root_id::text, good_until, problem
FROM {schema}.workflows WHERE id = %(id)s::uuid

-- name: standing_workflow
-- One workflow, without what it consists of.
SELECT id::text, name, version, status, sent_at, finished_at, error_code, good_until, problem
FROM {schema}.workflows WHERE id = %(id)s::uuid

-- name: slices
-- Ranges of specs. The server reads no more of a spec than that, unless it has compressed it.
SELECT given.id::text, given.start, substring(workflow.spec FROM given.start::integer + 1 FOR given.length::integer)
FROM (
    SELECT
        unnest(%(ids)s::uuid[]) AS id, unnest(%(starts)s::bigint[]) AS start, unnest(%(lengths)s::bigint[]) AS length
) AS given
JOIN {schema}.workflows AS workflow ON workflow.id = given.id
ORDER BY given.id, given.start

-- name: workflows
-- The newest that are parts of no other, from one on that was seen.
SELECT id::text, name, version, status, sent_at, finished_at, error_code, good_until, problem
FROM {schema}.workflows
WHERE parent_id IS NULL
    AND (%(name)s::text IS NULL OR name = %(name)s::text)
    AND (%(statuses)s::text[] IS NULL OR status = ANY (%(statuses)s::text[]))
    AND (%(before)s::timestamptz IS NULL OR (sent_at, id) < (%(before)s::timestamptz, %(before_id)s::uuid))
ORDER BY sent_at DESC, id DESC
LIMIT %(limit)s::bigint

-- name: tasks_of
-- The tasks of one workflow.
SELECT id::text, status, error_code FROM {schema}.tasks WHERE workflow_id = %(id)s::uuid

-- name: running_tasks_of
SELECT id::text FROM {schema}.tasks WHERE workflow_id = %(id)s::uuid AND status = 'RUNNING'

-- name: lock_workflows
-- They stay locked, taken in the order of their ids, so that two advances with the same ones in hand wait for one another
-- and never lock up.
SELECT
    id::text, sha, name, version, substring(spec FROM 1 FOR %(head)s::integer), state, status, sent_at, finished_at,
    error_code, parent_id::text, root_id::text, good_until, problem,
    coalesce(finished_at IS NULL AND good_until <= coalesce(%(now)s::timestamptz, clock_timestamp()), false)
FROM {schema}.workflows
WHERE id = ANY (%(ids)s::uuid[])
ORDER BY workflows.id
FOR NO KEY UPDATE

-- name: lock_free_workflows
-- The same, but for those that somebody else has in hand, and for large ones, which are advanced by themselves.
SELECT
    id::text, sha, name, version, substring(spec FROM 1 FOR %(head)s::integer), state, status, sent_at, finished_at,
    error_code, parent_id::text, root_id::text, good_until, problem,
    coalesce(finished_at IS NULL AND good_until <= coalesce(%(now)s::timestamptz, clock_timestamp()), false)
FROM {schema}.workflows
WHERE id = ANY (%(ids)s::uuid[]) AND octet_length(state) <= %(largest)s::integer
ORDER BY workflows.id
FOR NO KEY UPDATE SKIP LOCKED

-- name: news
-- The ends that have not been followed up, and the signals, so many of each workflow. Under the lock, and a statement of
-- its own, so that it sees what those who held the lock before have left. Which of too many ends come first makes no
-- difference; signals keep their order.
SELECT
    given.id::text, ended.id::text, ended.status, ended.error_code, ended.result, NULL::bigint AS number,
    ended.finished_at
FROM (SELECT unnest(%(ids)s::uuid[]) AS id) AS given
CROSS JOIN LATERAL (
    SELECT id, status, error_code, finished_at, CASE WHEN starts_with(task_name, 'horsies.') THEN result END AS result
    FROM {schema}.tasks
    WHERE phase = 3 AND advances AND workflow_id = given.id
    LIMIT %(limit)s::bigint
) AS ended
UNION ALL
SELECT given.id::text, NULL, NULL, NULL, told.data, told.id, NULL
FROM (SELECT unnest(%(ids)s::uuid[]) AS id) AS given
CROSS JOIN LATERAL (
    SELECT id, data FROM {schema}.workflow_signals
    WHERE workflow_id = given.id
    ORDER BY id
    LIMIT %(limit)s::bigint
) AS told
ORDER BY number, finished_at, 2

-- name: step
-- What has ended keeps its status, its end and its code; its state is written, since ends may come late. The ends that
-- this follows up are marked no longer, and the signals that it takes are gone.
WITH {clock},
written AS (
    UPDATE {schema}.workflows AS workflow SET
        state = given.state,
        problem = NULL,
        status = CASE WHEN before.finished_at IS NULL THEN given.status ELSE before.status END,
        error_code = CASE WHEN before.finished_at IS NULL THEN given.error_code ELSE before.error_code END,
        finished_at = CASE
            WHEN before.finished_at IS NOT NULL THEN before.finished_at
            WHEN given.status NOT IN ('RUNNING', 'PAUSED') THEN clock.now
        END
    FROM clock CROSS JOIN (
        SELECT
            unnest(%(ids)s::uuid[]) AS id, unnest(%(states)s::bytea[]) AS state,
            unnest(%(statuses)s::text[]) AS status, unnest(%(error_codes)s::text[]) AS error_code
    ) AS given
    JOIN {schema}.workflows AS before ON before.id = given.id
    WHERE workflow.id = given.id
    RETURNING workflow.id, before.finished_at IS NULL AND workflow.finished_at IS NOT NULL AS ends
),
followed AS (
    UPDATE {schema}.tasks SET advances = NULL WHERE id = ANY (%(done)s::uuid[])
),
taken AS (
    DELETE FROM {schema}.workflow_signals AS signal
    USING (SELECT unnest(%(workflow_ids)s::uuid[]) AS workflow_id, unnest(%(heard)s::bigint[]) AS id) AS given
    WHERE signal.workflow_id = given.workflow_id AND signal.id = given.id
),
told AS MATERIALIZED ({notify_finished: written WHERE ends})
SELECT (SELECT count(*) FROM written), told.finished FROM told

-- name: signal
-- Not to what is not there.
INSERT INTO {schema}.workflow_signals (workflow_id, data)
SELECT given.id, given.data
FROM unnest(%(ids)s::uuid[], %(data)s::bytea[]) WITH ORDINALITY AS given (id, data, number)
WHERE EXISTS (SELECT FROM {schema}.workflows WHERE workflows.id = given.id)
ORDER BY given.number

-- name: unadvanced
-- Workflows that have marked ends or signals, or are overdue.
WITH marked AS (
    SELECT DISTINCT workflow_id FROM {schema}.tasks
    WHERE phase = 3 AND advances AND workflow_id <> ALL (%(skipped)s::uuid[])
    ORDER BY workflow_id
    LIMIT %(limit)s::bigint
),
told AS (
    SELECT DISTINCT workflow_id FROM {schema}.workflow_signals
    WHERE workflow_id <> ALL (%(skipped)s::uuid[])
    ORDER BY workflow_id
    LIMIT %(limit)s::bigint
),
overdue AS (
    SELECT id FROM {schema}.workflows
    WHERE finished_at IS NULL AND good_until <= coalesce(%(now)s::timestamptz, clock_timestamp())
        AND id <> ALL (%(skipped)s::uuid[])
    ORDER BY good_until
    LIMIT %(limit)s::bigint
)
SELECT id::text
FROM (SELECT workflow_id FROM marked UNION SELECT workflow_id FROM told UNION SELECT id FROM overdue) AS found (id)
ORDER BY found.id
LIMIT %(limit)s::bigint

-- name: note_problem
UPDATE {schema}.workflows SET problem = %(problem)s::text WHERE id = %(id)s::uuid
RETURNING id

-- name: old_workflows
-- What ended long ago and has no tasks left, the oldest first; not what is a part of one that has not.
SELECT id::text FROM {schema}.workflows
WHERE finished_at <= coalesce(%(now)s::timestamptz, clock_timestamp()) - make_interval(secs => %(finished_after)s::float8)
    AND id <> ALL (%(skipped)s::uuid[])
    AND NOT EXISTS (SELECT FROM {schema}.tasks WHERE tasks.workflow_id = workflows.id)
    AND NOT EXISTS (
        SELECT FROM {schema}.workflows AS root
        WHERE root.id = workflows.root_id AND coalesce(root.finished_at, 'infinity')
            > coalesce(%(now)s::timestamptz, clock_timestamp()) - make_interval(secs => %(finished_after)s::float8)
    )
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
),
unheard AS (
    DELETE FROM {schema}.workflow_signals WHERE workflow_id = ANY (ARRAY(SELECT id FROM gone))
)
SELECT count(*) FROM gone
