-- Every statement on tasks. Each is one transaction, reads the clock once, and notifies from within itself.
--
-- Rows to change are picked as ctid = ANY(ARRAY(SELECT ... FOR NO KEY UPDATE SKIP LOCKED)): the sub-select runs once, so
-- its LIMIT is a true bound, and a row that changed since the statement began is passed over, never taken twice.
-- Phases stand as literals, because only so does the planner see that a partial index applies.
-- pg_notify is joined to the result, since what a WITH query only reads is not run unless somebody asks for it, and
-- MATERIALIZED, or the join would call it again for each row. One payload holds 150 ids at most: beyond 8,000 bytes
-- pg_notify raises. Where tasks are named by id, the fence is their status and not their phase: it comes to the same,
-- and leaves the planner no index but that of the ids.
-- Arrays that belong together are unnested in a SELECT list, which takes them in step. Unnested in FROM each is first put
-- into a store of its own, which for a single row takes longer than anything else.

-- name: enqueue
-- PENDING, ready or delayed. A row whose id is present, or whose unique key is taken, is left alone. The answer says which
-- were inserted, where not all were. `workflow_ids` is empty where no task has one, which unnest takes for so many NULLs.
WITH clock AS MATERIALIZED (SELECT coalesce(%(now)s::timestamptz, clock_timestamp()) AS now),
inserted AS (
    INSERT INTO {schema}.tasks
        (id, phase, status, queue, priority, due_at, good_until, sent_at, task_name, envelope, sha, unique_key,
        workflow_id, advances)
    SELECT
        given.id, CASE WHEN given.due_in > 0 THEN 0 ELSE 1 END, 'PENDING', given.queue, given.priority,
        clock.now + make_interval(secs => greatest(given.due_in, 0)),
        given.good_until, given.sent_at, given.task_name, given.envelope, given.sha, given.unique_key,
        given.workflow_id, CASE WHEN given.workflow_id IS NOT NULL THEN true END
    FROM (
        SELECT
            unnest(%(ids)s::uuid[]) AS id, unnest(%(shas)s::bytea[]) AS sha,
            unnest(%(envelopes)s::bytea[]) AS envelope, unnest(%(names)s::text[]) AS task_name,
            unnest(%(queues)s::text[]) AS queue, unnest(%(priorities)s::bigint[]) AS priority,
            unnest(%(sent_ats)s::timestamptz[]) AS sent_at, unnest(%(due_ins)s::float8[]) AS due_in,
            unnest(%(good_untils)s::timestamptz[]) AS good_until, unnest(%(unique_keys)s::text[]) AS unique_key,
            unnest(%(workflow_ids)s::uuid[]) AS workflow_id
    ) AS given
    CROSS JOIN clock
    ON CONFLICT DO NOTHING
    RETURNING id, phase, queue
),
told AS MATERIALIZED (
    SELECT count(pg_notify('{schema}_work', notice)) AS queues
    FROM (
        SELECT DISTINCT CASE phase WHEN 0 THEN 'delayed:' ELSE 'ready:' END || queue AS notice FROM inserted
    ) AS notices
)
SELECT
    CASE WHEN (SELECT count(*) FROM inserted) < cardinality(%(ids)s::uuid[]) THEN ARRAY(SELECT id::text FROM inserted) END,
    told.queues
FROM told

-- name: standing
-- What stands in the way of rows that were not inserted: a row of the same id, or one that has the unique key.
SELECT given.id::text, present.sha, holder.id::text
FROM unnest(%(ids)s::uuid[], %(names)s::text[], %(unique_keys)s::text[]) AS given (id, task_name, unique_key)
LEFT JOIN {schema}.tasks AS present ON present.id = given.id
LEFT JOIN {schema}.tasks AS holder ON holder.phase < 3 AND holder.unique_key IS NOT NULL
    AND holder.task_name = given.task_name AND holder.unique_key = given.unique_key

-- name: promote
-- Delayed -> ready for what has fallen due, and the seconds to the next one. It does not wait for the disk, as `claim`.
WITH clock AS MATERIALIZED (
    SELECT coalesce(%(now)s::timestamptz, clock_timestamp()) AS now, set_config('synchronous_commit', 'off', true)
),
promoted AS (
    UPDATE {schema}.tasks SET phase = 1
    WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM {schema}.tasks
        WHERE phase = 0 AND due_at <= (SELECT now FROM clock)
        ORDER BY due_at
        LIMIT %(limit)s::bigint
        FOR NO KEY UPDATE SKIP LOCKED
    ))
    RETURNING queue
)
SELECT
    (SELECT count(*) FROM promoted),
    extract(epoch FROM (
        SELECT min(due_at) FROM {schema}.tasks WHERE phase = 0 AND due_at > (SELECT now FROM clock)
    ) - clock.now)::float8,
    told.queues
FROM clock CROSS JOIN (
    SELECT count(pg_notify('{schema}_work', 'ready:' || queue)) AS queues
    FROM (SELECT DISTINCT queue FROM promoted) AS names
) AS told

-- name: claim
-- PENDING -> CLAIMED or RUNNING, by a worker that is alive. What is past its deadline becomes EXPIRED, or with
-- `step_over` is left where it stands, which reaches what is behind any number of such tasks, at the price of looking at
-- each.
-- `floor` and `since` are the priority and the due time where the claim begins in a queue: what is before is not looked at.
-- `served` are the queues that are not paused, with the room that their caps leave; where there is a cap, claims take
-- turns by a lock that was taken before this statement began, so that what it counts is true.
-- `share` counts how many of the best rows each queue holds, locking none; then so many are locked in each queue. So a
-- claim locks no more rows than it takes, and claimers that meet share out what there is instead of waiting. Where one
-- queue is `alone`, and no cap is over all, nothing need be counted.
-- Tasks named in `without` are passed over, at the price of looking at each.
-- What is `startable` goes on to RUNNING at once, with no verdict for a crash; but not what was deferred, whose first due
-- time a start restores.
-- Of a worker whose claims start nothing they are `relaxed`, they do not wait for the disk: the commit of the start, which
-- user code waits for, brings them there as well, and one that a crash of the server undoes was never started, so that its
-- fence stops whoever still believes in it.
WITH clock AS MATERIALIZED (
    SELECT
        coalesce(%(now)s::timestamptz, clock_timestamp()) AS now,
        CASE WHEN %(relaxed)s::boolean THEN set_config('synchronous_commit', 'off', true) END
),
alive AS MATERIALIZED (
    SELECT clock.now FROM clock JOIN {schema}.workers
    ON worker_id = %(worker)s AND seen_at > clock.now - make_interval(secs => %(dead_after)s::float8)
),
served AS MATERIALIZED (
    SELECT
        given.queue, given.rank, alive.now, %(cluster_cap)s::bigint IS NULL AND count(*) OVER () = 1 AS alone,
        given.floor, coalesce(given.since, '-infinity') AS since,
        CASE
            WHEN given.cap IS NULL THEN %(limit)s::bigint
            ELSE greatest(
                least(%(limit)s::bigint, given.cap - (
                    SELECT count(*) FROM {schema}.tasks WHERE phase = 2 AND queue = given.queue
                )),
                0
            )
        END AS room
    FROM alive
    CROSS JOIN (
        SELECT
            unnest(%(queues)s::text[]) AS queue, unnest(%(ranks)s::bigint[]) AS rank,
            unnest(%(caps)s::bigint[]) AS cap, unnest(%(floors)s::bigint[]) AS floor,
            unnest(%(sinces)s::timestamptz[]) AS since
    ) AS given
    WHERE NOT EXISTS (
        SELECT FROM {schema}.queues WHERE name = given.queue AND paused_at IS NOT NULL
    )
),
share AS MATERIALIZED (
    SELECT queue, floor, since, room AS rows FROM served WHERE alone
    UNION ALL
    SELECT queue, floor, since, count(*) AS rows
    FROM (
        SELECT queue, floor, since
        FROM served
        CROSS JOIN LATERAL (
            SELECT priority, due_at, id FROM {schema}.tasks
            WHERE phase = 1 AND queue = served.queue AND due_at <= served.now
                AND (priority, due_at) >= (served.floor, served.since)
                AND (NOT %(step_over)s::boolean OR good_until IS NULL OR good_until > served.now)
                AND task_name <> ALL (%(without)s::text[])
            ORDER BY priority, due_at, id
            LIMIT served.room
        ) AS head
        WHERE NOT alone
        ORDER BY served.rank, head.priority, head.due_at, head.id
        LIMIT CASE
            WHEN %(cluster_cap)s::bigint IS NULL THEN %(limit)s::bigint
            ELSE greatest(
                least(%(limit)s::bigint, %(cluster_cap)s::bigint - (
                    SELECT count(*) FROM {schema}.tasks WHERE phase = 2
                )),
                0
            )
        END
    ) AS best
    GROUP BY 1, 2, 3
),
taken AS (
    UPDATE {schema}.tasks SET
        phase = CASE WHEN good_until <= now THEN 3 ELSE 2 END,
        status = CASE
            WHEN good_until <= now THEN 'EXPIRED'
            WHEN task_name = ANY (%(startable)s::text[]) AND deferred_from IS NULL THEN 'RUNNING'
            ELSE 'CLAIMED'
        END,
        finished_at = CASE WHEN good_until <= now THEN now END,
        claimed_at = CASE WHEN good_until <= now THEN NULL ELSE now END,
        started_at = CASE
            WHEN good_until <= now THEN NULL
            WHEN task_name = ANY (%(startable)s::text[]) AND deferred_from IS NULL THEN now
        END,
        worker_id = CASE WHEN good_until <= now THEN NULL ELSE %(worker)s END,
        attempt = attempt + CASE
            WHEN good_until <= now THEN 0
            ELSE (task_name = ANY (%(startable)s::text[]) AND deferred_from IS NULL)::int
        END,
        claim_number = claim_number + 1,
        retry_after_crash = NULL
    FROM alive
    WHERE ctid = ANY (ARRAY(
        SELECT next.ctid
        FROM alive CROSS JOIN share CROSS JOIN LATERAL (
            SELECT ctid FROM {schema}.tasks
            WHERE phase = 1 AND queue = share.queue AND due_at <= alive.now
                AND (priority, due_at) >= (share.floor, share.since)
                AND (NOT %(step_over)s::boolean OR good_until IS NULL OR good_until > alive.now)
                AND task_name <> ALL (%(without)s::text[])
            ORDER BY priority, due_at, id
            LIMIT share.rows
            FOR NO KEY UPDATE SKIP LOCKED
        ) AS next
    ))
    RETURNING
        id, status, queue, priority, due_at, claim_number, envelope, sha, task_name, attempt, retries, good_until,
        now - coalesce(deferred_from, due_at) AS overdue
),
told AS MATERIALIZED (
    SELECT count(pg_notify('{schema}_finished', ids)) AS finished
    FROM (
        SELECT string_agg(id::text, ',') AS ids
        FROM (SELECT id, row_number() OVER () - 1 AS n FROM taken WHERE status = 'EXPIRED') AS numbered
        GROUP BY n / 150
    ) AS notices
)
SELECT
    id::text, status, queue, priority, due_at, claim_number, CASE WHEN status <> 'EXPIRED' THEN envelope END, sha,
    task_name, attempt, retries, good_until, extract(epoch FROM overdue)::float8, finished
FROM taken CROSS JOIN told

-- name: start
-- CLAIMED -> RUNNING, or EXPIRED where the deadline has passed. A task that was deferred gets its first due time back.
-- What a crash leads to is stored, because whoever finds the worker dead knows neither tasks nor policies.
WITH clock AS MATERIALIZED (SELECT coalesce(%(now)s::timestamptz, clock_timestamp()) AS now),
started AS (
    UPDATE {schema}.tasks AS task SET
        phase = CASE WHEN task.good_until <= clock.now THEN 3 ELSE 2 END,
        status = CASE WHEN task.good_until <= clock.now THEN 'EXPIRED' ELSE 'RUNNING' END,
        finished_at = CASE WHEN task.good_until <= clock.now THEN clock.now END,
        claimed_at = CASE WHEN task.good_until <= clock.now THEN NULL ELSE task.claimed_at END,
        started_at = CASE WHEN task.good_until <= clock.now THEN NULL ELSE clock.now END,
        worker_id = CASE WHEN task.good_until <= clock.now THEN NULL ELSE task.worker_id END,
        attempt = CASE WHEN task.good_until <= clock.now THEN task.attempt ELSE task.attempt + 1 END,
        due_at = coalesce(task.deferred_from, task.due_at),
        deferred_from = NULL,
        retry_after_crash = given.retry_after_crash
    FROM clock CROSS JOIN (
        SELECT
            unnest(%(ids)s::uuid[]) AS id, unnest(%(claim_numbers)s::bigint[]) AS claim_number,
            unnest(%(retries_after_crash)s::float8[]) AS retry_after_crash
    ) AS given
    WHERE task.id = given.id AND task.claim_number = given.claim_number
        AND task.worker_id = %(worker)s AND task.status = 'CLAIMED'
    RETURNING task.id, task.claim_number, task.status
),
told AS MATERIALIZED (
    SELECT count(pg_notify('{schema}_finished', ids)) AS finished
    FROM (
        SELECT string_agg(id::text, ',') AS ids
        FROM (SELECT id, row_number() OVER () - 1 AS n FROM started WHERE status = 'EXPIRED') AS numbered
        GROUP BY n / 150
    ) AS notices
)
SELECT started.id::text, started.claim_number, started.status, told.finished FROM started CROSS JOIN told

-- name: finish
-- RUNNING (for FAILED also CLAIMED) -> the end, or PENDING for another attempt where that can begin before the deadline.
-- What an end asks for is COMPLETE, FAIL, REFUSE (user code never began: no attempt is counted), RETRY, or INTERRUPT (at
-- once, and no retry is counted).
-- `verdict` reads what the update of a retry would overwrite: nobody else may change these columns while the claim holds,
-- but for a request to cancel. One that comes in between keeps the row of a retry from being written, and whoever asks
-- again sees it. What ends for good is not read twice.
-- The answer says which were written, where not all were.
WITH clock AS MATERIALIZED (SELECT coalesce(%(now)s::timestamptz, clock_timestamp()) AS now),
asked AS (
    SELECT
        given.*, clock.now,
        clock.now + make_interval(secs => CASE given.verb WHEN 'RETRY' THEN greatest(given.retry_in, 0) ELSE 0 END)
            AS again_at
    FROM clock CROSS JOIN (
        SELECT
            unnest(%(ids)s::uuid[]) AS id, unnest(%(claim_numbers)s::bigint[]) AS claim_number,
            unnest(%(verbs)s::text[]) AS verb, unnest(%(results)s::bytea[]) AS result,
            unnest(%(error_codes)s::text[]) AS error_code, unnest(%(retry_ins)s::float8[]) AS retry_in
    ) AS given
),
verdict AS (
    SELECT
        asked.*, task.attempt, task.started_at,
        asked.verb IN ('RETRY', 'INTERRUPT') AND task.cancel_requested_at IS NULL
            AND (task.good_until IS NULL OR task.good_until > asked.again_at) AS again
    FROM asked LEFT JOIN {schema}.tasks AS task
    ON task.id = CASE WHEN asked.verb IN ('RETRY', 'INTERRUPT') THEN asked.id END
),
ended AS (
    UPDATE {schema}.tasks AS task SET
        phase = CASE WHEN NOT verdict.again THEN 3 WHEN verdict.again_at > verdict.now THEN 0 ELSE 1 END,
        status = CASE
            WHEN verdict.again THEN 'PENDING'
            WHEN verdict.verb = 'COMPLETE' THEN 'COMPLETED'
            WHEN task.cancel_requested_at IS NOT NULL THEN 'CANCELLED'
            ELSE 'FAILED'
        END,
        retries = CASE WHEN verdict.again AND verdict.verb = 'RETRY' THEN task.retries + 1 ELSE task.retries END,
        due_at = CASE WHEN verdict.again THEN verdict.again_at ELSE task.due_at END,
        worker_id = CASE WHEN NOT verdict.again THEN task.worker_id END,
        claimed_at = CASE WHEN NOT verdict.again THEN task.claimed_at END,
        started_at = CASE WHEN NOT verdict.again AND verdict.verb <> 'REFUSE' THEN task.started_at END,
        attempt = CASE
            WHEN verdict.verb = 'REFUSE' AND task.status = 'RUNNING' THEN task.attempt - 1 ELSE task.attempt
        END,
        finished_at = CASE WHEN NOT verdict.again THEN verdict.now END,
        error_code = CASE WHEN NOT verdict.again THEN verdict.error_code END,
        result = CASE WHEN NOT verdict.again THEN verdict.result END
    FROM verdict
    WHERE task.id = verdict.id AND task.claim_number = verdict.claim_number
        AND task.worker_id = %(worker)s
        AND (task.status = 'RUNNING' OR (task.status = 'CLAIMED' AND verdict.verb IN ('FAIL', 'REFUSE')))
        AND (task.cancel_requested_at IS NULL OR NOT verdict.again)
    RETURNING
        task.id, task.claim_number, task.queue, task.phase, verdict.attempt, verdict.started_at, verdict.now,
        verdict.error_code, verdict.result
),
recorded AS (
    INSERT INTO {schema}.attempts (task_id, attempt, worker_id, started_at, finished_at, error_code, result)
    SELECT id, attempt, %(worker)s, started_at, now, error_code, result FROM ended WHERE phase < 3
),
told AS MATERIALIZED (
    SELECT count(pg_notify('{schema}_finished', ids)) AS finished
    FROM (
        SELECT string_agg(id::text, ',') AS ids
        FROM (SELECT id, row_number() OVER () - 1 AS n FROM ended WHERE phase = 3) AS numbered
        GROUP BY n / 150
    ) AS notices
),
called AS MATERIALIZED (
    SELECT count(pg_notify('{schema}_work', notice)) AS queues
    FROM (
        SELECT DISTINCT CASE phase WHEN 0 THEN 'delayed:' ELSE 'ready:' END || queue AS notice
        FROM ended WHERE phase < 3 OR queue = ANY (%(capped)s::text[])
    ) AS notices
)
SELECT
    CASE WHEN written.rows < cardinality(%(ids)s::uuid[]) THEN ARRAY(SELECT id::text FROM ended) END,
    CASE WHEN written.rows < cardinality(%(ids)s::uuid[]) THEN ARRAY(SELECT claim_number FROM ended) END,
    told.finished, called.queues
FROM told CROSS JOIN called CROSS JOIN (SELECT count(*) AS rows FROM ended) AS written

-- name: give_back
-- CLAIMED -> PENDING. Without a delay the task keeps its place in the order.
WITH clock AS MATERIALIZED (SELECT coalesce(%(now)s::timestamptz, clock_timestamp()) AS now),
returned AS (
    UPDATE {schema}.tasks AS task SET
        phase = CASE WHEN given.delay > 0 THEN 0 ELSE 1 END,
        status = 'PENDING',
        due_at = CASE
            WHEN given.delay > 0 THEN clock.now + make_interval(secs => given.delay) ELSE task.due_at
        END,
        deferred_from = CASE
            WHEN given.delay > 0 THEN coalesce(task.deferred_from, task.due_at) ELSE task.deferred_from
        END,
        worker_id = NULL,
        claimed_at = NULL
    FROM clock CROSS JOIN (
        SELECT
            unnest(%(ids)s::uuid[]) AS id, unnest(%(claim_numbers)s::bigint[]) AS claim_number,
            unnest(%(delays)s::float8[]) AS delay
    ) AS given
    WHERE task.id = given.id AND task.claim_number = given.claim_number
        AND task.worker_id = %(worker)s AND task.status = 'CLAIMED'
    RETURNING task.id, task.claim_number, task.queue, task.phase
),
told AS MATERIALIZED (
    SELECT count(pg_notify('{schema}_work', notice)) AS queues
    FROM (
        SELECT DISTINCT CASE phase WHEN 0 THEN 'delayed:' ELSE 'ready:' END || queue AS notice FROM returned
    ) AS notices
)
SELECT returned.id::text, returned.claim_number, told.queues FROM returned CROSS JOIN told

-- name: give_back_unknown
-- What the worker holds without knowing, since the answer to a claim was lost -> PENDING. What that claim has started never
-- began; where somebody has asked to cancel it meanwhile -> CANCELLED.
WITH clock AS MATERIALIZED (SELECT coalesce(%(now)s::timestamptz, clock_timestamp()) AS now),
returned AS (
    UPDATE {schema}.tasks AS task SET
        phase = CASE WHEN task.cancel_requested_at IS NULL THEN 1 ELSE 3 END,
        status = CASE WHEN task.cancel_requested_at IS NULL THEN 'PENDING' ELSE 'CANCELLED' END,
        finished_at = CASE WHEN task.cancel_requested_at IS NOT NULL THEN clock.now END,
        worker_id = NULL,
        claimed_at = NULL,
        started_at = NULL,
        attempt = CASE task.status WHEN 'RUNNING' THEN task.attempt - 1 ELSE task.attempt END
    FROM clock
    WHERE task.ctid = ANY (ARRAY(
        SELECT ctid FROM {schema}.tasks
        WHERE phase = 2 AND worker_id = %(worker)s AND id <> ALL (%(ids)s::uuid[])
        FOR NO KEY UPDATE SKIP LOCKED
    ))
    RETURNING task.id, task.queue, task.phase
),
told AS MATERIALIZED (
    SELECT count(pg_notify('{schema}_finished', ids)) AS finished
    FROM (
        SELECT string_agg(id::text, ',') AS ids
        FROM (SELECT id, row_number() OVER () - 1 AS n FROM returned WHERE phase = 3) AS numbered
        GROUP BY n / 150
    ) AS notices
),
called AS MATERIALIZED (
    SELECT count(pg_notify('{schema}_work', 'ready:' || queue)) AS queues
    FROM (SELECT DISTINCT queue FROM returned WHERE phase = 1) AS names
)
SELECT (SELECT count(*) FROM returned), told.finished, called.queues FROM told CROSS JOIN called

-- name: leave
-- Everything still CLAIMED by the worker -> PENDING, found by the worker's name and not by what it remembers; then the
-- worker is gone, and what somebody had locked is an orphan.
WITH returned AS (
    UPDATE {schema}.tasks SET phase = 1, status = 'PENDING', worker_id = NULL, claimed_at = NULL
    WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM {schema}.tasks
        WHERE phase = 2 AND worker_id = %(worker)s AND status = 'CLAIMED'
        FOR NO KEY UPDATE SKIP LOCKED
    ))
    RETURNING queue
),
gone AS (DELETE FROM {schema}.workers WHERE worker_id = %(worker)s),
resigned AS (UPDATE {schema}.leases SET holder = NULL, expires_at = '-infinity' WHERE holder = %(worker)s)
SELECT (SELECT count(*) FROM returned), told.queues
FROM (
    SELECT count(pg_notify('{schema}_work', 'ready:' || queue)) AS queues
    FROM (SELECT DISTINCT queue FROM returned) AS names
) AS told

-- name: sweep
-- PENDING -> EXPIRED, oldest deadline first: what a claim met in its way, and what is behind it.
WITH clock AS MATERIALIZED (SELECT coalesce(%(now)s::timestamptz, clock_timestamp()) AS now),
expired AS (
    UPDATE {schema}.tasks AS task SET phase = 3, status = 'EXPIRED', finished_at = clock.now
    FROM clock
    WHERE task.ctid = ANY (ARRAY(
        SELECT ctid FROM {schema}.tasks
        WHERE phase < 2 AND good_until <= (SELECT now FROM clock)
        ORDER BY good_until
        LIMIT %(limit)s::bigint
        FOR NO KEY UPDATE SKIP LOCKED
    ))
    RETURNING task.id
)
SELECT (SELECT count(*) FROM expired), told.finished
FROM (
    SELECT count(pg_notify('{schema}_finished', ids)) AS finished
    FROM (
        SELECT string_agg(id::text, ',') AS ids
        FROM (SELECT id, row_number() OVER () - 1 AS n FROM expired) AS numbered
        GROUP BY n / 150
    ) AS notices
) AS told

-- name: orphans
-- Whoever's last heartbeat is too old is dead: registered no more, unless it is writing a heartbeat just now. The answer
-- is what the dead hold, and whoever else is not registered. A claim's worker was registered when it claimed, so a claim
-- that this snapshot shows without one is an orphan for good: its number is all that `reap` needs.
WITH buried AS (
    DELETE FROM {schema}.workers
    WHERE worker_id = ANY (ARRAY(
        SELECT worker_id FROM {schema}.workers
        WHERE seen_at
            <= coalesce(%(now)s::timestamptz, clock_timestamp()) - make_interval(secs => %(dead_after)s::float8)
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING worker_id
)
SELECT task.id::text, task.claim_number
FROM {schema}.tasks AS task
WHERE task.phase = 2 AND task.id <> ALL (%(skipped)s::uuid[]) AND (
    NOT EXISTS (SELECT FROM {schema}.workers AS worker WHERE worker.worker_id = task.worker_id)
    OR EXISTS (SELECT FROM buried WHERE buried.worker_id = task.worker_id)
)
LIMIT %(limit)s::bigint

-- name: reap
-- Orphans: CLAIMED -> PENDING or EXPIRED, RUNNING -> what its start said about a crash. The rows are locked and read
-- before anything is decided, so `orphan` is their newest version.
WITH clock AS MATERIALIZED (SELECT coalesce(%(now)s::timestamptz, clock_timestamp()) AS now),
orphan AS MATERIALIZED (
    SELECT
        task.id, task.status, task.worker_id, task.attempt, task.started_at, task.good_until,
        task.cancel_requested_at, clock.now,
        clock.now + make_interval(secs => task.retry_after_crash) AS again_at
    FROM clock
    CROSS JOIN unnest(%(ids)s::uuid[], %(claim_numbers)s::bigint[]) AS given (id, claim_number)
    JOIN {schema}.tasks AS task ON task.id = given.id AND task.claim_number = given.claim_number
    WHERE task.status IN ('CLAIMED', 'RUNNING')
    FOR NO KEY UPDATE OF task SKIP LOCKED
),
verdict AS (
    SELECT
        orphan.*,
        CASE
            WHEN status = 'CLAIMED' AND good_until <= now THEN 'EXPIRED'
            WHEN status = 'CLAIMED' THEN 'PENDING'
            WHEN cancel_requested_at IS NOT NULL THEN 'CANCELLED'
            WHEN again_at IS NOT NULL AND (good_until IS NULL OR good_until > again_at) THEN 'PENDING'
            ELSE 'FAILED'
        END AS becomes,
        status = 'RUNNING' AS was_running
    FROM orphan
),
reaped AS (
    UPDATE {schema}.tasks AS task SET
        phase = CASE
            WHEN verdict.becomes <> 'PENDING' THEN 3
            WHEN verdict.was_running AND verdict.again_at > verdict.now THEN 0
            ELSE 1
        END,
        status = verdict.becomes,
        retries = CASE
            WHEN verdict.becomes = 'PENDING' AND verdict.was_running THEN task.retries + 1 ELSE task.retries
        END,
        due_at = CASE
            WHEN verdict.becomes = 'PENDING' AND verdict.was_running THEN verdict.again_at ELSE task.due_at
        END,
        worker_id = CASE WHEN verdict.was_running AND verdict.becomes <> 'PENDING' THEN task.worker_id END,
        claimed_at = CASE WHEN verdict.was_running AND verdict.becomes <> 'PENDING' THEN task.claimed_at END,
        started_at = CASE WHEN verdict.becomes <> 'PENDING' THEN task.started_at END,
        finished_at = CASE WHEN verdict.becomes <> 'PENDING' THEN verdict.now END,
        error_code = CASE WHEN verdict.was_running AND verdict.becomes <> 'PENDING' THEN 'WORKER_CRASHED' END
    FROM verdict
    WHERE task.id = verdict.id
    RETURNING
        task.id, task.queue, task.phase, verdict.was_running, verdict.worker_id, verdict.attempt, verdict.started_at,
        verdict.now
),
recorded AS (
    INSERT INTO {schema}.attempts (task_id, attempt, worker_id, started_at, finished_at, error_code)
    SELECT id, attempt, worker_id, started_at, now, 'WORKER_CRASHED' FROM reaped WHERE was_running AND phase < 3
),
told AS MATERIALIZED (
    SELECT count(pg_notify('{schema}_finished', ids)) AS finished
    FROM (
        SELECT string_agg(id::text, ',') AS ids
        FROM (SELECT id, row_number() OVER () - 1 AS n FROM reaped WHERE phase = 3) AS numbered
        GROUP BY n / 150
    ) AS notices
),
called AS MATERIALIZED (
    SELECT count(pg_notify('{schema}_work', notice)) AS queues
    FROM (
        SELECT DISTINCT CASE phase WHEN 0 THEN 'delayed:' ELSE 'ready:' END || queue AS notice FROM reaped
    ) AS notices
)
SELECT (SELECT count(*) FROM reaped), told.finished, called.queues FROM told CROSS JOIN called

-- name: cancel
-- PENDING, CLAIMED -> CANCELLED; a RUNNING task keeps running and its worker is told. The answer is NULL for a task
-- that had ended, and missing for one that is not there.
WITH clock AS MATERIALIZED (SELECT coalesce(%(now)s::timestamptz, clock_timestamp()) AS now),
asked AS (
    UPDATE {schema}.tasks AS task SET
        phase = CASE task.status WHEN 'RUNNING' THEN 2 ELSE 3 END,
        status = CASE task.status WHEN 'RUNNING' THEN 'RUNNING' ELSE 'CANCELLED' END,
        worker_id = CASE task.status WHEN 'RUNNING' THEN task.worker_id END,
        claimed_at = CASE task.status WHEN 'RUNNING' THEN task.claimed_at END,
        finished_at = CASE task.status WHEN 'RUNNING' THEN NULL ELSE clock.now END,
        cancel_requested_at = coalesce(task.cancel_requested_at, clock.now)
    FROM clock
    WHERE task.id = ANY (ARRAY(
        SELECT id FROM {schema}.tasks
        WHERE id = ANY (%(ids)s::uuid[]) AND status IN ('PENDING', 'CLAIMED', 'RUNNING')
        ORDER BY id
        FOR NO KEY UPDATE
    )) AND task.status IN ('PENDING', 'CLAIMED', 'RUNNING')
    RETURNING task.id, task.status
),
told AS MATERIALIZED (
    SELECT count(pg_notify('{schema}_finished', ids)) AS finished
    FROM (
        SELECT string_agg(id::text, ',') AS ids
        FROM (SELECT id, row_number() OVER () - 1 AS n FROM asked WHERE status = 'CANCELLED') AS numbered
        GROUP BY n / 150
    ) AS notices
),
called AS MATERIALIZED (
    SELECT count(pg_notify('{schema}_work', 'cancel:' || id::text)) AS workers FROM asked WHERE status = 'RUNNING'
)
SELECT task.id::text, asked.status, told.finished, called.workers
FROM {schema}.tasks AS task LEFT JOIN asked ON asked.id = task.id CROSS JOIN told CROSS JOIN called
WHERE task.id = ANY (%(ids)s::uuid[])

-- name: overdue
-- What is past its deadline and has not started: PENDING ones, the oldest deadline first, then those CLAIMED whose worker
-- has not come to start them.
WITH clock AS MATERIALIZED (SELECT coalesce(%(now)s::timestamptz, clock_timestamp()) AS now)
(
    SELECT id::text FROM {schema}.tasks
    WHERE phase < 2 AND good_until <= (SELECT now FROM clock) AND id <> ALL (%(skipped)s::uuid[])
    ORDER BY good_until
    LIMIT %(limit)s::bigint
)
UNION ALL
(
    SELECT id::text FROM {schema}.tasks
    WHERE phase = 2 AND status = 'CLAIMED' AND good_until <= (SELECT now FROM clock)
        AND id <> ALL (%(skipped)s::uuid[])
    LIMIT %(limit)s::bigint
)
LIMIT %(limit)s::bigint

-- name: expire
-- PENDING, CLAIMED -> EXPIRED. The start of one that was CLAIMED finds its claim gone.
WITH clock AS MATERIALIZED (SELECT coalesce(%(now)s::timestamptz, clock_timestamp()) AS now),
expired AS (
    UPDATE {schema}.tasks AS task SET
        phase = 3, status = 'EXPIRED', worker_id = NULL, claimed_at = NULL, finished_at = clock.now
    FROM clock
    WHERE task.ctid = ANY (ARRAY(
        SELECT ctid FROM {schema}.tasks
        WHERE id = ANY (%(ids)s::uuid[]) AND status IN ('PENDING', 'CLAIMED') AND good_until <= (SELECT now FROM clock)
        FOR NO KEY UPDATE SKIP LOCKED
    ))
    RETURNING task.id
)
SELECT (SELECT count(*) FROM expired), told.finished
FROM (
    SELECT count(pg_notify('{schema}_finished', ids)) AS finished
    FROM (
        SELECT string_agg(id::text, ',') AS ids
        FROM (SELECT id, row_number() OVER () - 1 AS n FROM expired) AS numbered
        GROUP BY n / 150
    ) AS notices
) AS told

-- name: old
-- What ended long ago, the oldest first; not what is of a workflow that has not, or of a part of one.
WITH clock AS MATERIALIZED (
    SELECT coalesce(%(now)s::timestamptz, clock_timestamp()) - make_interval(secs => %(finished_after)s::float8) AS before
)
SELECT id::text FROM {schema}.tasks
WHERE phase = 3 AND finished_at <= (SELECT before FROM clock) AND id <> ALL (%(skipped)s::uuid[]) AND (
    workflow_id IS NULL OR NOT EXISTS (
        SELECT FROM {schema}.workflows AS workflow
        LEFT JOIN {schema}.workflows AS root ON root.id = workflow.root_id
        WHERE workflow.id = tasks.workflow_id AND (
            coalesce(workflow.finished_at, 'infinity') > (SELECT before FROM clock)
            OR coalesce(root.finished_at, 'infinity') > (SELECT before FROM clock) AND root.id IS NOT NULL
        )
    )
)
ORDER BY finished_at
LIMIT %(limit)s::bigint

-- name: prune
-- Ended tasks are removed, and their attempts with them.
WITH gone AS (
    DELETE FROM {schema}.tasks
    WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM {schema}.tasks
        WHERE id = ANY (%(ids)s::uuid[]) AND status IN ('COMPLETED', 'FAILED', 'CANCELLED', 'EXPIRED')
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING id
)
SELECT count(*) FROM gone

-- name: has_due
-- Whether anything PENDING and due is in these queues, promoted or not, locked or not; paused ones do not count.
WITH clock AS MATERIALIZED (SELECT coalesce(%(now)s::timestamptz, clock_timestamp()) AS now),
served AS MATERIALIZED (
    SELECT queue FROM unnest(%(queues)s::text[]) AS given (queue)
    WHERE NOT EXISTS (
        SELECT FROM {schema}.queues WHERE name = given.queue AND paused_at IS NOT NULL
    )
)
SELECT EXISTS (
    SELECT FROM served CROSS JOIN LATERAL (
        SELECT FROM {schema}.tasks
        WHERE phase = 1 AND queue = served.queue AND due_at <= (SELECT now FROM clock)
        LIMIT 1
    ) AS ready
) OR EXISTS (
    SELECT FROM {schema}.tasks
    WHERE phase = 0 AND due_at <= (SELECT now FROM clock) AND queue = ANY (ARRAY(SELECT queue FROM served))
)

-- name: depths
-- How much of each queue is unfinished, and since when the first of what is due waits. Each part has its own index.
SELECT
    coalesce(depth.queue, declared.name), declared.paused_at, coalesce(depth.ready, 0), coalesce(depth.delayed, 0),
    coalesce(depth.claimed, 0), coalesce(depth.running, 0), depth.oldest_due_at
FROM (
    SELECT
        queue, sum(ready)::bigint AS ready, sum(delayed)::bigint AS delayed, sum(claimed)::bigint AS claimed,
        sum(running)::bigint AS running, min(due_at) AS oldest_due_at
    FROM (
        SELECT queue, count(*) AS ready, 0 AS delayed, 0 AS claimed, 0 AS running, min(due_at) AS due_at
        FROM {schema}.tasks WHERE phase = 1 GROUP BY queue
        UNION ALL
        SELECT queue, 0, count(*), 0, 0, NULL FROM {schema}.tasks WHERE phase = 0 GROUP BY queue
        UNION ALL
        SELECT
            queue, 0, 0, count(*) FILTER (WHERE status = 'CLAIMED'), count(*) FILTER (WHERE status = 'RUNNING'), NULL
        FROM {schema}.tasks WHERE phase = 2 GROUP BY queue
    ) AS part
    GROUP BY queue
) AS depth
FULL JOIN {schema}.queues AS declared ON declared.name = depth.queue

-- name: results
-- Where these tasks stand.
SELECT id::text, task_name, status, error_code, result FROM {schema}.tasks WHERE id = ANY (%(ids)s::uuid[])

-- name: read
-- One task with the attempts that went before its last, as parallel arrays.
SELECT
    task.id::text, task.task_name, task.queue, task.priority, task.status, task.attempt, task.retries, task.sent_at,
    coalesce(task.deferred_from, task.due_at), task.claimed_at, task.started_at, task.finished_at, task.good_until,
    task.worker_id, task.error_code, task.envelope, task.result, task.cancel_requested_at IS NOT NULL,
    past.attempts, past.worker_ids, past.started_ats, past.finished_ats, past.error_codes, past.results
FROM {schema}.tasks AS task CROSS JOIN LATERAL (
    SELECT
        coalesce(array_agg(attempt ORDER BY attempt), '{}') AS attempts,
        array_agg(worker_id ORDER BY attempt) AS worker_ids,
        array_agg(started_at ORDER BY attempt) AS started_ats,
        array_agg(finished_at ORDER BY attempt) AS finished_ats,
        array_agg(error_code ORDER BY attempt) AS error_codes,
        array_agg(result ORDER BY attempt) AS results
    FROM {schema}.attempts WHERE task_id = task.id
) AS past
WHERE task.id = %(id)s::uuid
