-- Bounds for what a person may write by hand: instants that a program can read, lengths and numbers that leave room.
-- readable_from: 7

-- step: tasks instants in calendar
ALTER TABLE {schema}.tasks
    DROP CONSTRAINT IF EXISTS tasks_instants_in_calendar,
    ADD CONSTRAINT tasks_instants_in_calendar CHECK (
        least(
            due_at, deferred_from, good_until, sent_at, claimed_at, started_at, finished_at, cancel_requested_at,
            unknown_since
        ) >= '0001-01-01 00:00:00+00'
        AND greatest(
            due_at, deferred_from, good_until, sent_at, claimed_at, started_at, finished_at, cancel_requested_at,
            unknown_since
        ) < '10000-01-01 00:00:00+00'
    ) NOT VALID;

-- step: tasks instants in calendar in all rows (validate)
ALTER TABLE {schema}.tasks VALIDATE CONSTRAINT tasks_instants_in_calendar;

-- step: tasks names have bounds
ALTER TABLE {schema}.tasks
    DROP CONSTRAINT IF EXISTS tasks_names_have_bounds,
    ADD CONSTRAINT tasks_names_have_bounds CHECK (
        octet_length(queue) BETWEEN 1 AND 255 AND octet_length(task_name) BETWEEN 1 AND 255
        AND octet_length(unique_key) BETWEEN 1 AND 255 AND octet_length(worker_id) <= 1000
    ) NOT VALID;

-- step: tasks names have bounds in all rows (validate)
ALTER TABLE {schema}.tasks VALIDATE CONSTRAINT tasks_names_have_bounds;

-- step: tasks numbers have bounds
ALTER TABLE {schema}.tasks
    DROP CONSTRAINT IF EXISTS tasks_numbers_have_bounds,
    ADD CONSTRAINT tasks_numbers_have_bounds CHECK (
        priority BETWEEN 1 AND 100 AND attempt BETWEEN 0 AND 2000000000 AND retries BETWEEN 0 AND 2000000000
        AND claim_number BETWEEN 0 AND 4611686018427387904 AND retry_after_crash BETWEEN 0 AND 315360000000
    ) NOT VALID;

-- step: tasks numbers have bounds in all rows (validate)
ALTER TABLE {schema}.tasks VALIDATE CONSTRAINT tasks_numbers_have_bounds;

-- step: attempts instants in calendar
ALTER TABLE {schema}.attempts
    DROP CONSTRAINT IF EXISTS attempts_instants_in_calendar,
    ADD CONSTRAINT attempts_instants_in_calendar CHECK (
        least(started_at, finished_at) >= '0001-01-01 00:00:00+00' AND greatest(started_at, finished_at) < '10000-01-01 00:00:00+00'
    ) NOT VALID;

-- step: attempts instants in calendar in all rows (validate)
ALTER TABLE {schema}.attempts VALIDATE CONSTRAINT attempts_instants_in_calendar;

-- step: workers instants in calendar
ALTER TABLE {schema}.workers
    DROP CONSTRAINT IF EXISTS workers_instants_in_calendar,
    ADD CONSTRAINT workers_instants_in_calendar CHECK (
        least(seen_at, steady_since) >= '0001-01-01 00:00:00+00' AND greatest(seen_at, steady_since) < '10000-01-01 00:00:00+00'
    ) NOT VALID;

-- step: workers instants in calendar in all rows (validate)
ALTER TABLE {schema}.workers VALIDATE CONSTRAINT workers_instants_in_calendar;

-- step: leases expire
ALTER TABLE {schema}.leases
    DROP CONSTRAINT IF EXISTS leases_expire,
    ADD CONSTRAINT leases_expire CHECK (
        expires_at < '10000-01-01 00:00:00+00'
    ) NOT VALID;

-- step: leases expire in all rows (validate)
ALTER TABLE {schema}.leases VALIDATE CONSTRAINT leases_expire;

-- step: queues instants in calendar
ALTER TABLE {schema}.queues
    DROP CONSTRAINT IF EXISTS queues_instants_in_calendar,
    ADD CONSTRAINT queues_instants_in_calendar CHECK (
        paused_at >= '0001-01-01 00:00:00+00' AND paused_at < '10000-01-01 00:00:00+00'
    ) NOT VALID;

-- step: queues instants in calendar in all rows (validate)
ALTER TABLE {schema}.queues VALIDATE CONSTRAINT queues_instants_in_calendar;

-- step: schedules instants in calendar
ALTER TABLE {schema}.schedules
    DROP CONSTRAINT IF EXISTS schedules_instants_in_calendar,
    ADD CONSTRAINT schedules_instants_in_calendar CHECK (
        least(next_slot, paused_at, last_slot) >= '0001-01-01 00:00:00+00' AND greatest(next_slot, paused_at, last_slot) < '10000-01-01 00:00:00+00'
    ) NOT VALID;

-- step: schedules instants in calendar in all rows (validate)
ALTER TABLE {schema}.schedules VALIDATE CONSTRAINT schedules_instants_in_calendar;

-- step: workflows instants in calendar
ALTER TABLE {schema}.workflows
    DROP CONSTRAINT IF EXISTS workflows_instants_in_calendar,
    ADD CONSTRAINT workflows_instants_in_calendar CHECK (
        least(sent_at, finished_at, good_until) >= '0001-01-01 00:00:00+00' AND greatest(sent_at, finished_at, good_until) < '10000-01-01 00:00:00+00'
    ) NOT VALID;

-- step: workflows instants in calendar in all rows (validate)
ALTER TABLE {schema}.workflows VALIDATE CONSTRAINT workflows_instants_in_calendar;
