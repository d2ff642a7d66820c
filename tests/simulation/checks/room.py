"""Room: what a worker is handed fits into what it has to give, together with all that works there; and it has the labels. A run
goes on with a larger machine once."""

TRIGGERS = """
create or replace function checks.room() returns trigger language plpgsql as $$
declare
    worker workers%rowtype;
    cpus double precision;
    bytes bigint;
begin
    select * into worker from workers where id = new.worker_id;
    select sum(presets.cpu), sum(presets.memory_bytes) into cpus, bytes
        from runs join presets on presets.environment_id = runs.environment_id and presets.name = runs.preset
        where runs.worker_id = new.worker_id and runs.state in ('dequeued', 'executing');
    if cpus > worker.cpu + 1e-6 or bytes > worker.memory_bytes then
        perform checks.broken('room', format('%s was handed to %s, which has %s CPUs and %s bytes for %s and %s',
            new.id, worker.id, worker.cpu, worker.memory_bytes, cpus, bytes));
    end if;
    if not exists (select from presets where environment_id = new.environment_id and name = new.preset
                   and labels <@ worker.labels) then
        perform checks.broken('room', format('%s was handed to %s, which lacks labels of %s', new.id, worker.id, new.preset));
    end if;
    return null;
end $$;
create constraint trigger check_room after update on runs deferrable initially deferred for each row
    when (new.state = 'dequeued' and old.state <> 'dequeued') execute function checks.room();
"""

QUERIES = (
    "select id || ' is frozen and has ended' from runs where frozen_since is not null and finished_at is not null",
    """select run_id || ' was given a larger machine again, ' || (data->>'next_machine') from events
       where kind = 'run.out_of_memory' group by run_id, data->>'next_machine' having count(*) > 1""",
)
