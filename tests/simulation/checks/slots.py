"""Slots: a run holds one exactly while it is dequeued or executing. No line and no environment has more than its limit
when one is taken, and none is left when all is over."""

TRIGGERS = """
create or replace function checks.slots() returns trigger language plpgsql as $$
declare
    held int;
    allowed int;
begin
    -- No queue has more than the environment's own limit.
    select least(coalesce(queues.override_limit, queues.concurrency_limit), environments.concurrency_limit) into allowed
        from environments left join queues on queues.environment_id = environments.id and queues.name = new.queue
        where environments.id = new.environment_id;
    if allowed is not null then
        select count(*) into held from runs where environment_id = new.environment_id and queue = new.queue
            and concurrency_key = new.concurrency_key and state in ('dequeued', 'executing');
        if held > allowed then
            perform checks.broken('slots', format('%s became %s: the line %s/%s has %s runs at work and may have %s',
                new.id, new.state, new.queue, new.concurrency_key, held, allowed));
        end if;
    end if;
    -- All queues together may have the limit times the burst factor.
    select floor(concurrency_limit * burst_factor)::int into allowed from environments where id = new.environment_id;
    if allowed is not null then
        select count(*) into held from runs where environment_id = new.environment_id
            and state in ('dequeued', 'executing');
        if held > allowed then
            perform checks.broken('slots', format('%s became %s: the environment has %s runs at work and may have %s',
                new.id, new.state, held, allowed));
        end if;
    end if;
    return null;
end $$;
create constraint trigger check_slots after update on runs deferrable initially deferred for each row
    when (new.state in ('dequeued', 'executing') and old.state not in ('dequeued', 'executing')) execute function checks.slots();
"""

QUERIES = ("select id || ' still holds a slot' from runs where state in ('dequeued', 'executing')",)
