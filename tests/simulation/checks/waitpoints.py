"""A waitpoint is completed once, and its answer never changes."""

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
