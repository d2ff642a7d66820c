"""Order within a line (queue and key): a fresh run is never handed out before an older one that this worker could have
started, be it later when it has room."""

TRIGGERS = """
create or replace function checks.line() returns trigger language plpgsql as $$
declare
    older text;
begin
    select runs.id into older from runs join environments on environments.id = runs.environment_id
    where runs.environment_id = new.environment_id and runs.queue = new.queue and runs.concurrency_key = new.concurrency_key
      and runs.state = 'queued' and runs.checkpoint_id is null
      and (runs.available_at, runs.id) < (old.available_at, old.id)
      and coalesce(runs.locked_version, environments.current_version) = new.version
      and exists (select from tasks where tasks.environment_id = runs.environment_id and tasks.id = runs.task_id
                  and tasks.version = new.version)
      and (runs.expires_at is null or runs.expires_at > new.updated_at)
      and exists (select from presets, workers where presets.environment_id = runs.environment_id and presets.name = runs.preset
                  and workers.id = new.worker_id and presets.labels <@ workers.labels
                  and (workers.cpu is null or presets.cpu <= workers.cpu)
                  and (workers.memory_bytes is null or presets.memory_bytes <= workers.memory_bytes))
    limit 1;
    if older is not null then
        perform checks.broken('order', format('%s was handed out before %s, which stands before it in %s/%s',
            new.id, older, new.queue, new.concurrency_key));
    end if;
    return null;
end $$;
create constraint trigger check_line after update on runs deferrable initially deferred for each row
    when (new.state = 'dequeued' and old.state = 'queued' and new.checkpoint_id is null) execute function checks.line();
"""

QUERIES = ()
