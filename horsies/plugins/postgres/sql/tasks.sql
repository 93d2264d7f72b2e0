-- Every statement on tasks. Each is one transaction, reads the clock once, and notifies from within itself.
--
-- Rows to change are picked as ctid = ANY(ARRAY(SELECT ... FOR NO KEY UPDATE SKIP LOCKED)): the sub-select runs once, so
-- its LIMIT is a true bound, and a row that changed since the statement began is passed over, never taken twice.
-- Phases stand as literals, because only so does the planner see that a partial index applies.
-- What notifies (see `parts.sql`) is joined to the result, since what a WITH query only reads is not run unless somebody
-- asks for it, and MATERIALIZED, or the join would call it again for each row.
-- Where tasks are named by id, the fence is their status and not their phase: it comes to the same, and leaves the planner
-- no index but that of the ids.
-- Arrays that belong together are unnested in a SELECT list, which takes them in step. Unnested in FROM each is first put
-- into a store of its own, which for a single row takes longer than anything else.

-- name: enqueue
-- PENDING, ready or delayed. A row whose id is present, or whose unique key is taken, is left alone. The answer says which
-- were inserted, where not all were. `workflow_ids` is empty where no task has one, which unnest takes for so many NULLs.
WITH {clock},
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
told AS MATERIALIZED ({notify_work: inserted})
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

-- name: place
-- Where the tables are: the database and the table by their numbers, and the server by the instant it started. The
-- catalogue answers without privileges on the schema, and where there is no such table.
SELECT concat_ws('/', base.oid, found.oid, extract(epoch FROM pg_postmaster_start_time()))
FROM pg_database AS base
LEFT JOIN pg_namespace AS space ON space.nspname = %(schema)s::text
LEFT JOIN pg_class AS found ON found.relnamespace = space.oid AND found.relname = 'tasks'
WHERE base.datname = current_database()

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
    RETURNING phase, queue
)
SELECT
    (SELECT count(*) FROM promoted),
    extract(epoch FROM (
        SELECT min(due_at) FROM {schema}.tasks
        WHERE phase = 0 AND due_at > (SELECT now FROM clock) AND due_at < '10000-01-01 00:00:00+00'
    ) - clock.now)::float8,
    told.queues
FROM clock CROSS JOIN ({notify_work: promoted}) AS told

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
-- What is `startable` goes on to RUNNING at once, with no verdict for a crash; but not what was deferred, whose first due
-- time a start restores.
-- The claim number grows by a random step. A part of the history can be taken back (a failover to an asynchronous standby,
-- a restored backup); then the same claim number is never given twice, and a write that belongs to the lost part fits no
-- row.
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
    SELECT queue, now, floor, since, room AS rows FROM served WHERE alone
    UNION ALL
    SELECT queue, now, floor, since, count(*) AS rows
    FROM (
        SELECT queue, now, floor, since
        FROM served
        CROSS JOIN LATERAL (
            SELECT priority, due_at, id FROM {schema}.tasks
            WHERE {claimable: served}
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
    GROUP BY 1, 2, 3, 4
),
taken AS (
    UPDATE {schema}.tasks SET
        phase = CASE WHEN {is_late} THEN 3 ELSE 2 END,
        status = CASE
            WHEN {is_late} THEN 'EXPIRED'
            WHEN {begins} THEN 'RUNNING'
            ELSE 'CLAIMED'
        END,
        finished_at = CASE WHEN {is_late} THEN now END,
        claimed_at = CASE WHEN {is_late} THEN NULL ELSE now END,
        started_at = CASE
            WHEN {is_late} THEN NULL
            WHEN {begins} THEN now
        END,
        worker_id = CASE WHEN {is_late} THEN NULL ELSE %(worker)s END,
        attempt = attempt + CASE
            WHEN {is_late} THEN 0
            ELSE ({begins})::int
        END,
        claim_number = claim_number + 1 + floor(random() * 2147483647)::bigint,
        retry_after_crash = NULL
    FROM alive
    WHERE ctid = ANY (ARRAY(
        SELECT next.ctid
        FROM share CROSS JOIN LATERAL (
            SELECT ctid FROM {schema}.tasks
            WHERE {claimable: share}
            ORDER BY priority, due_at, id
            LIMIT share.rows
            FOR NO KEY UPDATE SKIP LOCKED
        ) AS next
    ))
    RETURNING
        id, status, queue, priority, due_at, claim_number, envelope, sha, task_name, attempt, retries, good_until, now,
        unknown_since
),
told AS MATERIALIZED ({notify_finished: taken WHERE status = 'EXPIRED'})
SELECT
    id::text, status, queue, priority, due_at, claim_number, CASE WHEN status <> 'EXPIRED' THEN envelope END, sha,
    task_name, attempt, retries, good_until, now, unknown_since, finished
FROM taken CROSS JOIN told

-- name: start
-- CLAIMED -> RUNNING, or EXPIRED where the deadline has passed. A task that was deferred gets its first due time back.
-- What a crash leads to is stored, because whoever finds the worker dead knows neither tasks nor policies.
WITH {clock},
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
        unknown_since = NULL,
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
told AS MATERIALIZED ({notify_finished: started WHERE status = 'EXPIRED'})
SELECT started.id::text, started.claim_number, started.status, told.finished FROM started CROSS JOIN told

-- name: finish
-- RUNNING (for FAILED also CLAIMED) -> the end, or PENDING for another attempt where that can begin before the deadline.
-- What an end asks for is COMPLETE, FAIL, REFUSE (user code never began: no attempt is counted), RETRY, or INTERRUPT (at
-- once, and no retry is counted).
-- `verdict` reads what the update of a retry would overwrite: nobody else may change these columns while the claim holds,
-- but for a request to cancel. One that comes in between keeps the row of a retry from being written, and whoever asks
-- again sees it. What ends for good is not read twice.
-- The answer says which were written, where not all were.
WITH {clock},
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
told AS MATERIALIZED ({notify_finished: ended WHERE phase = 3}),
called AS MATERIALIZED ({notify_work: ended WHERE phase < 3 OR queue = ANY (%(capped)s::text[])})
SELECT
    CASE WHEN written.rows < cardinality(%(ids)s::uuid[]) THEN ARRAY(SELECT id::text FROM ended) END,
    CASE WHEN written.rows < cardinality(%(ids)s::uuid[]) THEN ARRAY(SELECT claim_number FROM ended) END,
    told.finished, called.queues
FROM told CROSS JOIN called CROSS JOIN (SELECT count(*) AS rows FROM ended) AS written

-- name: give_back
-- CLAIMED, or RUNNING without user code -> PENDING; a task that was RUNNING and is asked to be cancelled -> CANCELLED.
-- Without a delay the task keeps its place in the order. The first worker that does not know the task sets `unknown_since`,
-- and the start clears it.
WITH {clock},
returned AS (
    UPDATE {schema}.tasks AS task SET
        phase = CASE
            WHEN given.is_running AND task.cancel_requested_at IS NOT NULL THEN 3 WHEN given.delay > 0 THEN 0 ELSE 1
        END,
        status = CASE WHEN given.is_running AND task.cancel_requested_at IS NOT NULL THEN 'CANCELLED' ELSE 'PENDING' END,
        finished_at = CASE WHEN given.is_running AND task.cancel_requested_at IS NOT NULL THEN clock.now END,
        due_at = CASE
            WHEN given.delay > 0 THEN clock.now + make_interval(secs => given.delay) ELSE task.due_at
        END,
        deferred_from = CASE
            WHEN given.delay > 0 THEN coalesce(task.deferred_from, task.due_at) ELSE task.deferred_from
        END,
        unknown_since = CASE
            WHEN given.is_unknown THEN coalesce(task.unknown_since, clock.now) ELSE task.unknown_since
        END,
        worker_id = NULL,
        claimed_at = NULL,
        started_at = NULL,
        attempt = CASE WHEN given.is_running THEN task.attempt - 1 ELSE task.attempt END
    FROM clock CROSS JOIN (
        SELECT
            unnest(%(ids)s::uuid[]) AS id, unnest(%(claim_numbers)s::bigint[]) AS claim_number,
            unnest(%(delays)s::float8[]) AS delay, unnest(%(unknown)s::boolean[]) AS is_unknown,
            unnest(%(running)s::boolean[]) AS is_running
    ) AS given
    WHERE task.id = given.id AND task.claim_number = given.claim_number AND task.worker_id = %(worker)s
        AND task.status = CASE WHEN given.is_running THEN 'RUNNING' ELSE 'CLAIMED' END
    RETURNING task.id, task.claim_number, task.queue, task.phase
),
told AS MATERIALIZED ({notify_finished: returned WHERE phase = 3}),
called AS MATERIALIZED ({notify_work: returned WHERE phase < 3})
SELECT returned.id::text, returned.claim_number, told.finished, called.queues
FROM returned CROSS JOIN told CROSS JOIN called

-- name: give_back_unknown
-- Tasks that the worker holds and does not know, because the answer to a claim was lost -> PENDING. A task that such a claim
-- started never began; with a request to cancel it -> CANCELLED. A task that an earlier claim started did begin: `begun`
-- finds it.
WITH {clock},
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
            AND (status = 'CLAIMED' OR claimed_at > coalesce(%(heard_until)s::timestamptz, '-infinity'))
        FOR NO KEY UPDATE SKIP LOCKED
    ))
    RETURNING task.id, task.queue, task.phase
),
told AS MATERIALIZED ({notify_finished: returned WHERE phase = 3}),
called AS MATERIALIZED ({notify_work: returned WHERE phase = 1})
SELECT (SELECT count(*) FROM returned), told.finished, called.queues FROM told CROSS JOIN called

-- name: begun
-- Tasks that the worker holds and does not know although it had the answer to their claim: their ends were lost with a part
-- of the history. `reap` gives each the verdict that its start stored.
SELECT id::text, claim_number FROM {schema}.tasks
WHERE phase = 2 AND worker_id = %(worker)s AND id <> ALL (%(ids)s::uuid[])
    AND claimed_at <= %(heard_until)s::timestamptz

-- name: holdings
-- The tasks that the worker holds, each with whether its cancellation was requested.
SELECT id::text, claim_number, cancel_requested_at IS NOT NULL FROM {schema}.tasks
WHERE phase = 2 AND worker_id = %(worker)s

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
    RETURNING phase, queue
),
gone AS (DELETE FROM {schema}.workers WHERE worker_id = %(worker)s),
resigned AS (UPDATE {schema}.leases SET holder = NULL, expires_at = '-infinity' WHERE holder = %(worker)s)
SELECT (SELECT count(*) FROM returned), told.queues
FROM ({notify_work: returned}) AS told

-- name: sweep
-- PENDING -> EXPIRED, oldest deadline first: what a claim met in its way, and what is behind it.
WITH {clock},
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
FROM ({notify_finished: expired}) AS told

-- name: orphans
-- A worker is dead once its row in `workers` was deleted because the heartbeat was too old; a row that is being written is
-- passed over. The answer is what the dead hold, and what any other worker holds that is not registered. A claim's worker
-- was registered when it claimed, so a claim that this snapshot shows without its worker is an orphan for good: its number
-- is all that `reap` needs.
-- `finder` is the worker that asks, if it may find others dead at this instant, whatever it was told before: it holds the
-- lease, its own heartbeat is fresh, and it has been steady for as long as a heartbeat may be old. After an outage or a
-- lock of such length everybody's heartbeat is old, its own too.
WITH finder AS MATERIALIZED (
    SELECT clock.now - make_interval(secs => %(dead_after)s::float8) AS long_ago
    FROM (SELECT coalesce(%(now)s::timestamptz, clock_timestamp()) AS now) AS clock
    JOIN {schema}.workers AS me ON me.worker_id = %(worker)s
    JOIN {schema}.leases AS lease ON lease.name = 'leader' AND lease.holder = me.worker_id
    WHERE lease.expires_at > clock.now AND me.seen_at >= clock.now - make_interval(secs => %(gap)s::float8)
        AND me.steady_since <= clock.now - make_interval(secs => %(dead_after)s::float8)
),
buried AS (
    DELETE FROM {schema}.workers
    WHERE worker_id = ANY (ARRAY(
        SELECT worker_id FROM {schema}.workers
        WHERE seen_at <= (SELECT long_ago FROM finder)
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING worker_id
)
SELECT task.id::text, task.claim_number
FROM {schema}.tasks AS task
WHERE EXISTS (SELECT FROM finder) AND task.phase = 2 AND task.id <> ALL (%(skipped)s::uuid[]) AND (
    NOT EXISTS (SELECT FROM {schema}.workers AS worker WHERE worker.worker_id = task.worker_id)
    OR EXISTS (SELECT FROM buried WHERE buried.worker_id = task.worker_id)
)
LIMIT %(limit)s::bigint

-- name: reap
-- Orphans: CLAIMED -> PENDING or EXPIRED, RUNNING -> what its start said about a crash. The rows are locked and read
-- before anything is decided, so `orphan` is their newest version.
WITH {clock},
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
told AS MATERIALIZED ({notify_finished: reaped WHERE phase = 3}),
called AS MATERIALIZED ({notify_work: reaped})
SELECT (SELECT count(*) FROM reaped), told.finished, called.queues FROM told CROSS JOIN called

-- name: cancel
-- PENDING, CLAIMED -> CANCELLED; a RUNNING task keeps running and its worker is told. The answer has these tasks and their
-- statuses. Which of the others are there, `ended` says: joined here, n tasks would be looked for among n.
WITH {clock},
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
told AS MATERIALIZED ({notify_finished: asked WHERE status = 'CANCELLED'}),
called AS MATERIALIZED (
    SELECT count(pg_notify('{schema}_work', 'cancel:' || id::text)) AS workers FROM asked WHERE status = 'RUNNING'
)
SELECT ARRAY(SELECT id::text FROM asked), ARRAY(SELECT status FROM asked), told.finished, called.workers
FROM told CROSS JOIN called

-- name: ended
-- Which of these tasks have ended.
SELECT id::text FROM {schema}.tasks
WHERE id = ANY (%(ids)s::uuid[]) AND status IN ('COMPLETED', 'FAILED', 'CANCELLED', 'EXPIRED')

-- name: overdue
-- What is past its deadline and has not started: PENDING ones, the oldest deadline first, then those CLAIMED whose worker
-- has not come to start them.
WITH {clock}
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
WITH {clock},
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
FROM ({notify_finished: expired}) AS told

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
WITH {clock},
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

-- name: suspects
-- What a claim, a promotion or a sweep may have met that failed on some row: the rows each of them begins with.
WITH {clock}
SELECT ready.id::text
FROM unnest(%(queues)s::text[]) AS given (queue) CROSS JOIN LATERAL (
    SELECT id FROM {schema}.tasks
    WHERE phase = 1 AND queue = given.queue AND due_at <= (SELECT now FROM clock)
        AND id <> ALL (%(skipped)s::uuid[])
    ORDER BY priority, due_at, id
    LIMIT %(limit)s::bigint
) AS ready
UNION
(
    SELECT id::text FROM {schema}.tasks
    WHERE phase = 0 AND due_at <= (SELECT now FROM clock) AND id <> ALL (%(skipped)s::uuid[])
    ORDER BY due_at
    LIMIT %(limit)s::bigint
)
UNION
(
    SELECT id::text FROM {schema}.tasks
    WHERE phase < 2 AND good_until <= (SELECT now FROM clock) AND id <> ALL (%(skipped)s::uuid[])
    ORDER BY good_until
    LIMIT %(limit)s::bigint
)

-- name: rehearse
-- What a claim does to these rows, and all that it reads of them, for a transaction that is rolled back: whatever refuses
-- a row there refuses it here.
UPDATE {schema}.tasks SET
    phase = 2, status = 'RUNNING', worker_id = %(worker)s, claimed_at = clock_timestamp(), started_at = clock_timestamp(),
    attempt = attempt + 1, claim_number = claim_number + 2147483648
WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM {schema}.tasks WHERE id = ANY (%(ids)s::uuid[]) AND status = 'PENDING' FOR NO KEY UPDATE SKIP LOCKED
))
RETURNING
    id::text, queue, priority, due_at, claim_number, envelope, sha, task_name, attempt, retries, good_until, claimed_at,
    unknown_since

-- name: set_aside
-- PENDING, or CLAIMED by this worker -> FAILED, for a row that nothing else can be done with. What is out of bounds is cut
-- to the bounds, or the row could not be written at all.
WITH {clock},
failed AS (
    UPDATE {schema}.tasks AS task SET
        phase = 3, status = 'FAILED', finished_at = clock.now, error_code = 'WORKER_SERIALIZATION_ERROR', result = NULL,
        worker_id = NULL, claimed_at = NULL, started_at = NULL, deferred_from = NULL, unknown_since = NULL,
        cancel_requested_at = NULL, retry_after_crash = NULL,
        due_at = CASE
            WHEN due_at >= '0001-01-01 00:00:00+00' AND due_at < '10000-01-01 00:00:00+00' THEN due_at ELSE clock.now
        END,
        sent_at = CASE
            WHEN sent_at >= '0001-01-01 00:00:00+00' AND sent_at < '10000-01-01 00:00:00+00' THEN sent_at ELSE clock.now
        END,
        good_until = CASE
            WHEN good_until >= '0001-01-01 00:00:00+00' AND good_until < '10000-01-01 00:00:00+00' THEN good_until
        END,
        queue = CASE
            WHEN octet_length(queue) BETWEEN 1 AND 255 THEN queue ELSE coalesce(nullif(left(queue, 60), ''), '?')
        END,
        task_name = CASE
            WHEN octet_length(task_name) BETWEEN 1 AND 255 THEN task_name
            ELSE coalesce(nullif(left(task_name, 60), ''), '?')
        END,
        unique_key = CASE WHEN octet_length(unique_key) BETWEEN 1 AND 255 THEN unique_key END,
        priority = least(greatest(priority, 1), 100),
        attempt = least(greatest(attempt, 0), 2000000000),
        retries = least(greatest(retries, 0), 2000000000),
        claim_number = least(greatest(claim_number, 0), 4611686018427387904)
    FROM clock
    WHERE task.id = ANY (%(ids)s::uuid[])
        AND (task.status = 'PENDING' OR task.status = 'CLAIMED' AND task.worker_id = %(worker)s)
    RETURNING task.id
)
SELECT (SELECT count(*) FROM failed), told.finished
FROM (SELECT count(pg_notify('{schema}_finished', id::text)) AS finished FROM failed) AS told
