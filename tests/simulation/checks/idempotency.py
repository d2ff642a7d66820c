"""One live run per idempotency key: a key goes to another run only when it has expired or its run has failed."""

from torpor.engine.idempotency import RELEASED_BY

_RELEASED = ", ".join(f"'{state}'" for state in RELEASED_BY)

TRIGGERS = f"""
create or replace function checks.keys() returns trigger language plpgsql as $$
declare
    former record;
    latter record;
begin
    -- A claim that is passed on in the same transaction, as to a debounced run, is judged by where it ends.
    if new.run_id = old.run_id or not exists (select from idempotency_keys as keys where keys.run_id = new.run_id
            and keys.environment_id = new.environment_id and keys.task_id = new.task_id and keys.key = new.key) then
        return null;
    end if;
    select * into former from runs where id = old.run_id;
    select * into latter from runs where id = new.run_id;
    if latter is null then
        perform checks.broken('idempotency', format('the key %s stands for %s, which is not there', new.key, new.run_id));
    elsif former.state not in ({_RELEASED}) and old.expires_at > latter.created_at then
        perform checks.broken('idempotency', format('the key %s went from %s (%s) to %s', new.key, old.run_id, former.state,
                                                    new.run_id));
    end if;
    return null;
end $$;
create constraint trigger check_keys after update on idempotency_keys deferrable initially deferred
    for each row execute function checks.keys();
create or replace function checks.live_key() returns trigger language plpgsql as $$
declare
    twin text;
begin
    select runs.id into twin from runs join idempotency_keys as keys on keys.run_id = runs.id
    where runs.environment_id = new.environment_id and runs.task_id = new.task_id and runs.id <> new.id
      and runs.idempotency_key = new.idempotency_key and keys.key = new.idempotency_key
      and runs.finished_at is null and keys.expires_at > new.created_at;
    if twin is not null then
        perform checks.broken('idempotency', format('%s and %s live under one key, %s', new.id, twin, new.idempotency_key));
    end if;
    return null;
end $$;
create constraint trigger check_live_key after insert on runs deferrable initially deferred
    for each row when (new.idempotency_key is not null) execute function checks.live_key();
"""

QUERIES = ()
