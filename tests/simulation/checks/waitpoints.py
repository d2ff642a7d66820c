"""A waitpoint is completed once, its answer never changes, and nobody sleeps over it."""

TRIGGERS = """
create or replace function checks.waitpoints() returns trigger language plpgsql as $$
begin
    if old.status <> 'pending' and (new.status, new.output, new.error, new.run_status, new.completed_at, new.completed_by)
            is distinct from (old.status, old.output, old.error, old.run_status, old.completed_at, old.completed_by) then
        perform checks.broken('waitpoints', format('%s was %s and has changed (%s)', old.id, old.status, new.status));
    end if;
    return null;
end $$;
create trigger check_waitpoints after update on waitpoints for each row execute function checks.waitpoints();
-- Nobody is, or falls, asleep over an answer.
create or replace function checks.asleep(run text) returns void language plpgsql as $$
declare
    answered text;
begin
    select waits.wait_id into answered from runs
        join waits on waits.run_id = runs.id join waitpoints on waitpoints.id = waits.waitpoint_id
    where runs.id = run and runs.state = 'suspended' and waits.detached_at is null and waits.delivered_at is null
      and (waitpoints.status <> 'pending' or waits.timed_out_at is not null) limit 1;
    if answered is not null then
        perform checks.broken('waitpoints', format('%s sleeps over the answer to %s', run, answered));
    end if;
end $$;
create or replace function checks.fell_asleep() returns trigger language plpgsql as $$
begin
    perform checks.asleep(new.id);
    return null;
end $$;
create constraint trigger check_fell_asleep after update on runs deferrable initially deferred
    for each row when (new.state = 'suspended' and old.state <> 'suspended') execute function checks.fell_asleep();
create or replace function checks.woken() returns trigger language plpgsql as $$
begin
    perform checks.asleep(run_id) from waits where waitpoint_id = new.id;
    return null;
end $$;
create constraint trigger check_woken after update on waitpoints deferrable initially deferred
    for each row when (old.status = 'pending' and new.status <> 'pending') execute function checks.woken();
"""

QUERIES = (
    # The answer of a run's waitpoint is that run's outcome.
    """select waitpoints.id || ' says ' || waitpoints.run_status || ' of ' || runs.id || ', which is ' || runs.state
       from waitpoints join runs on runs.id = waitpoints.awaited_run_id
       where waitpoints.status <> 'pending'
         and (lower(waitpoints.run_status) <> runs.state or waitpoints.output is distinct from runs.output
              or (waitpoints.status = 'completed') <> (runs.state = 'completed'))""",
    """select waitpoints.id || ' is pending although ' || runs.id || ' has ended'
       from waitpoints join runs on runs.id = waitpoints.awaited_run_id
       where waitpoints.status = 'pending' and runs.finished_at is not null""",
    # Nobody who has ended is still tied to anything.
    """select waits.run_id || ' has ended and still waits (' || waits.wait_id || ')'
       from waits join runs on runs.id = waits.run_id
       where waits.detached_at is null and runs.finished_at is not null""",
)
