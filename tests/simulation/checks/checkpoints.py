"""What an accepted checkpoint has saved is not performed again: a run with an image that can be used is handed out with
it, and with the newest."""

TRIGGERS = """
create or replace function checks.checkpoints() returns trigger language plpgsql as $$
declare
    usable text;
begin
    -- As it is when the transaction commits, not as it was when this row was written.
    select checkpoints.id into usable from checkpoints where run_id = new.id and state = 'usable'
        order by number desc limit 1;
    if (select checkpoint_id from runs where id = new.id) is distinct from usable then
        perform checks.broken('checkpoints', format('%s is %s and would come back from %s; the newest that it can use is %s',
            new.id, new.state, coalesce((select checkpoint_id from runs where id = new.id), 'nothing'),
            coalesce(usable, 'none')));
    end if;
    return null;
end $$;
create constraint trigger check_checkpoints after update on runs deferrable initially deferred
    for each row when (old.checkpoint_id is distinct from new.checkpoint_id or old.state is distinct from new.state)
    execute function checks.checkpoints();
"""

QUERIES = (
    """select checkpoints.id || ' is ' || checkpoints.state || ' although ' || runs.id || ' has ended'
       from checkpoints join runs on runs.id = checkpoints.run_id
       where runs.finished_at is not null and checkpoints.state = 'usable'""",
)
