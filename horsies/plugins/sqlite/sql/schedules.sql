-- Schedules have a row once a scheduler, or whoever pauses one, has declared them.

-- name: schedules
SELECT name, timing, next_slot, paused_at, last_slot, last_task_id, problem FROM schedules

-- name: declare
-- A row if the schedule begins, or begins anew.
INSERT INTO schedules (name, timing, next_slot) VALUES (:name, :timing, :next_slot)
ON CONFLICT (name) DO UPDATE SET timing = excluded.timing, next_slot = excluded.next_slot, problem = NULL
WHERE timing <> excluded.timing
RETURNING name

-- name: standing_at
-- A row if the schedule stands where it is expected to, with the task it sent last.
SELECT last_task_id FROM schedules
WHERE name = :name AND timing = :timing AND next_slot = :slot AND paused_at IS NULL

-- name: move_on
-- What was sent last stays where nothing was sent this time.
UPDATE schedules SET
    next_slot = :next_slot,
    last_slot = coalesce(:last_slot, last_slot),
    last_task_id = coalesce(:last_task_id, last_task_id),
    problem = :problem
WHERE name = :name

-- name: pause_schedule
UPDATE schedules SET paused_at = :now WHERE name = :name AND paused_at IS NULL RETURNING name

-- name: resume_schedule
UPDATE schedules SET paused_at = NULL, next_slot = :next_slot WHERE name = :name AND paused_at IS NOT NULL
RETURNING name
