"""What an accepted checkpoint has saved is not performed again: a run with an image that can be used is handed out with
it, and with the newest; and to a worker that can read it, and whose like hasn't refused it."""

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
create or replace function checks.routing() returns trigger language plpgsql as $$
declare
    elsewhere text;
    unfit text;
begin
    select format('its store %s is not that of %s', checkpoints.store_id, workers.id) into elsewhere
    from checkpoints, workers where checkpoints.id = new.checkpoint_id and workers.id = new.worker_id
      and workers.store_id <> checkpoints.store_id;
    select format('%s is of the fitness %s, which has refused its image', workers.id, workers.fitness) into unfit
    from checkpoints join refusals on refusals.image_id = checkpoints.image_id
    join workers on workers.fitness = refusals.fitness
    where checkpoints.id = new.checkpoint_id and workers.id = new.worker_id;
    if coalesce(elsewhere, unfit) is not null then
        perform checks.broken('routing', format('%s was handed out with %s: %s', new.id, new.checkpoint_id,
                                                coalesce(elsewhere, unfit)));
    end if;
    return null;
end $$;
create trigger check_routing after update on runs for each row
    when (new.state = 'dequeued' and old.state = 'queued' and new.checkpoint_id is not null) execute function checks.routing();
"""

QUERIES = (
    """select checkpoints.id || ' is ' || checkpoints.state || ' although ' || runs.id || ' has ended'
       from checkpoints join runs on runs.id = checkpoints.run_id
       where runs.finished_at is not null and checkpoints.state = 'usable'""",
)
