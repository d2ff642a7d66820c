"""A batch's `pending` is what it should be: items yet to come, or whose runs have not ended."""

TRIGGERS = """
create or replace function checks.batch() returns trigger language plpgsql as $$
declare
    batch record;
    unended int;
    arrived int;
    missing int;
begin
    select * into batch from batches where id = new.id;
    if batch is null then return null; end if;
    select count(*), count(*) filter (where runs.id is not null and runs.finished_at is null) into arrived, unended
        from batch_items left join runs on runs.id = batch_items.run_id where batch_items.batch_id = new.id;
    missing := case when batch.is_sealed then 0 else batch.run_count - arrived end;
    if batch.pending <> unended + missing then
        perform checks.broken('batches', format('%s has %s pending; %s items have come, %s runs of them have not ended',
            new.id, batch.pending, arrived, unended));
    end if;
    return null;
end $$;
create constraint trigger check_batch after insert or update on batches deferrable initially deferred
    for each row execute function checks.batch();
"""

QUERIES = (
    "select id || ' still has ' || pending || ' pending' from batches where completed_at is null and is_sealed",
    "select id || ' is complete and nobody was told' from batches where completed_at is not null and settled_at is null",
    """select batches.id || ' counts a run that has not ended: ' || runs.id from batches
       join batch_items on batch_items.batch_id = batches.id join runs on runs.id = batch_items.run_id
       where batches.completed_at is not null and runs.finished_at is null""",
)
