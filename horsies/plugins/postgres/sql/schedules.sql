-- Schedules have a row once a scheduler, or whoever pauses one, has declared them.

-- name: schedules
-- All of them, each beside what time it is; a row of nothing but the time where there are none.
SELECT clock.now, name, timing, next_slot, paused_at, last_slot, last_task_id::text, problem
FROM (SELECT coalesce(%(now)s::timestamptz, clock_timestamp()) AS now) AS clock
LEFT JOIN {schema}.schedules ON true

-- name: declare
-- A row for each schedule that begins, or begins anew.
INSERT INTO {schema}.schedules AS schedule (name, timing, next_slot)
SELECT name, timing, next_slot
FROM unnest(%(names)s::text[], %(timings)s::text[], %(next_slots)s::timestamptz[]) AS new (name, timing, next_slot)
ORDER BY name
ON CONFLICT (name) DO UPDATE SET timing = excluded.timing, next_slot = excluded.next_slot, problem = NULL
WHERE schedule.timing <> excluded.timing
RETURNING name

-- name: standing_at
-- A row for each schedule that stands where it is expected to, with the task it sent last. All that are named stay locked,
-- taken in the order of their names, so that two schedulers with the same ones in hand wait for one another and never lock
-- up. Where they stand is looked at once they are locked: it is what whoever held them before has left.
WITH held AS MATERIALIZED (
    SELECT name, timing, next_slot, paused_at, last_task_id FROM {schema}.schedules
    WHERE name = ANY (%(names)s::text[])
    ORDER BY name
    FOR NO KEY UPDATE
)
SELECT held.name, held.last_task_id::text
FROM unnest(%(names)s::text[], %(timings)s::text[], %(slots)s::timestamptz[]) AS given (name, timing, slot)
JOIN held USING (name, timing)
WHERE held.next_slot = given.slot AND held.paused_at IS NULL

-- name: move_on
-- What was sent last stays where nothing was sent this time.
UPDATE {schema}.schedules AS schedule SET
    next_slot = given.next_slot,
    last_slot = coalesce(given.last_slot, schedule.last_slot),
    last_task_id = coalesce(given.last_task_id, schedule.last_task_id),
    problem = given.problem
FROM unnest(
    %(names)s::text[], %(next_slots)s::timestamptz[], %(last_slots)s::timestamptz[], %(last_task_ids)s::uuid[],
    %(problems)s::text[]
) AS given (name, next_slot, last_slot, last_task_id, problem)
WHERE schedule.name = given.name

-- name: pause_schedule
UPDATE {schema}.schedules SET paused_at = coalesce(%(now)s::timestamptz, clock_timestamp())
WHERE name = %(name)s AND paused_at IS NULL
RETURNING name

-- name: resume_schedule
UPDATE {schema}.schedules SET paused_at = NULL, next_slot = %(next_slot)s::timestamptz
WHERE name = %(name)s AND paused_at IS NOT NULL
RETURNING name
