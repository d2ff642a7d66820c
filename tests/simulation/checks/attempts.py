"""Attempts are numbered from 1 without gaps, never exceed what was allowed, and are over when their run is."""

TRIGGERS = """
create or replace function checks.attempts() returns trigger language plpgsql as $$
begin
    if new.attempt < old.attempt or new.attempt > old.attempt + 1 or new.attempt > new.max_attempts then
        perform checks.broken('attempts', format('%s: attempt %s of %s after %s', old.id, new.attempt, new.max_attempts,
                                                 old.attempt));
    elsif new.attempt > old.attempt and new.state <> 'dequeued' then
        perform checks.broken('attempts', format('%s: attempt %s began as the run became %s', old.id, new.attempt, new.state));
    end if;
    return null;
end $$;
create trigger check_attempts after update on runs for each row execute function checks.attempts();
create or replace function checks.one_attempt() returns trigger language plpgsql as $$
begin
    if old.outcome is not null and new.outcome is distinct from old.outcome then
        perform checks.broken('attempts', format('%s: attempt %s was over (%s) and has become %s', old.run_id, old.number,
                                                 old.outcome, new.outcome));
    end if;
    return null;
end $$;
create trigger check_one_attempt after update on attempts for each row execute function checks.one_attempt();
"""

QUERIES = (
    """select runs.id || ' is at attempt ' || runs.attempt || ' and has ' || count(attempts.number) || ' attempts'
       from runs left join attempts on attempts.run_id = runs.id group by runs.id
       having runs.attempt <> count(attempts.number) or runs.attempt <> coalesce(max(attempts.number), 0)""",
    """select runs.id || ' has ended and its attempt ' || attempts.number || ' has not'
       from runs join attempts on attempts.run_id = runs.id
       where runs.finished_at is not null and attempts.outcome is null""",
    """select id || ' worked for ' || active_ms || ' ms' from runs where active_ms < 0""",
)
