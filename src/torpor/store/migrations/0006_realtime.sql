-- Realtime feeds: who follows a run, a batch or a tag gets each change of a run once and misses none, from any server and
-- without a server that remembers him (server/feeds.py).

-- A reader gives back the snapshot of Postgres in which he last looked; what he is owed are the rows whose `changed_in` is
-- not visible there. Neither instants nor a counter would do: both are taken before the commit, so a change with a smaller
-- one may commit after a greater one was read, and is then missed. Which transactions a snapshot sees, Postgres knows
-- exactly.
alter table runs
    add changed_in xid8 not null default '0',  -- the transaction of the latest change that such a reader sees
    add stream_keys text[] not null default '{}';  -- output streams that were written to
-- '0', visible to all, is that of the rows there are: a constant default doesn't rewrite the table. New rows have their own.
alter table runs alter changed_in set default pg_current_xact_id();

-- A run can come into a batch long after it was made: its idempotency key stood for it.
alter table batch_items add added_in xid8 not null default '0';
alter table batch_items alter added_in set default pg_current_xact_id();

-- A trigger, because some thirty statements of the verbs change runs: one that forgot `changed_in` would be a change that
-- no reader hears of, and no other test would notice. It must also be decided by the values: a renewed lease or another
-- hand-out of the same state is no news. The conditions are looked at before the function is called, the columns before
-- the conditions, so that a heartbeat pays nothing at all. No index on changed_in: feeds read by id, batch or tag, and each
-- change of an indexed column would cost a write to every index of the row.
create function note_change() returns trigger language plpgsql as $$
begin
    new.changed_in := pg_current_xact_id();
    return new;
end $$;
create trigger runs_changed
    before update of state, started_at, finished_at, delay_until, ttl_s, error, tags, stream_keys, metadata, payload,
        payload_object, output, output_object on runs
    for each row when (
        old.state <> new.state
        or old.started_at is distinct from new.started_at
        or old.finished_at is distinct from new.finished_at
        or old.delay_until is distinct from new.delay_until
        or old.ttl_s is distinct from new.ttl_s
        or old.error is distinct from new.error
        or old.tags <> new.tags
        or old.stream_keys <> new.stream_keys
        or old.metadata is distinct from new.metadata
        or old.payload_object is distinct from new.payload_object
        or old.output_object is distinct from new.output_object
        or old.output is distinct from new.output
        or old.payload is distinct from new.payload  -- last: it may be long
    )
    execute function note_change();

-- Whose transaction numbers these are: after a restore into another cluster, a clone, or a return to an earlier point in
-- time they mean something else, and a reader from before begins anew. Some hosted Postgres don't tell their cluster's
-- number; the timeline and the database's own are told by all.
create function database_identity() returns text language plpgsql stable as $$
declare
    cluster text := '';
begin
    begin
        select system_identifier::text into cluster from pg_control_system();
    exception when insufficient_privilege or undefined_function or feature_not_supported then
        null;
    end;
    return concat_ws('.', cluster, left(pg_walfile_name(pg_current_wal_lsn()), 8),
        (select oid from pg_database where datname = current_database()));
end $$;
