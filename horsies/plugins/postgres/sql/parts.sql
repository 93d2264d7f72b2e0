-- Parts of the statements in the other files, where they stand in braces: {clock}, or {notify_work: rows}.

-- name: clock
-- The instant of the statement, read once.
clock AS MATERIALIZED (SELECT coalesce(%(now)s::timestamptz, clock_timestamp()) AS now)

-- name: notify_finished
-- Tells those who wait for the tasks in {rows}. Beyond 8,000 bytes pg_notify raises, so that one payload holds 150 ids.
SELECT count(pg_notify('{schema}_finished', ids)) AS finished
FROM (
    SELECT string_agg(id::text, ',') AS ids
    FROM (SELECT id, row_number() OVER () - 1 AS n FROM {rows}) AS numbered
    GROUP BY n / 150
) AS notices

-- name: notify_work
-- Tells the workers of the queues of the tasks in {rows}. A payload holds 1,000 characters of a queue's name, which is
-- longer than any that a worker serves.
SELECT count(pg_notify('{schema}_work', notice)) AS queues
FROM (
    SELECT DISTINCT left(CASE phase WHEN 0 THEN 'delayed:' ELSE 'ready:' END || queue, 1000) AS notice FROM {rows}
) AS notices

-- name: claimable
-- Which tasks a claim may take of the queue in {rows}. With `step_over` not those past their deadline.
phase = 1 AND queue = {rows}.queue AND due_at <= {rows}.now AND (priority, due_at) >= ({rows}.floor, {rows}.since)
    AND (NOT %(step_over)s::boolean OR good_until IS NULL OR good_until > {rows}.now)

-- name: is_late
-- Whether a task that is claimed is past its deadline.
good_until <= now

-- name: begins
-- Whether a claim starts a task that is not late. What was deferred gets its first due time back, by a start.
task_name = ANY (%(startable)s::text[]) AND deferred_from IS NULL
