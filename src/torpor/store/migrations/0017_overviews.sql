-- What pages say of a whole history, however long it is: counts and sums that read the index of a part of it, and no run.

-- Whose it is. A run never changes its environment, and without this column sums over checkpoints would look up each one's run.
alter table checkpoints add environment_id text;
update checkpoints set environment_id = runs.environment_id from runs where runs.id = checkpoints.run_id;
alter table checkpoints alter environment_id set not null;
-- read_checkpoints: those that runs or forks may be restored from, by age; and their sums and the order of their sizes, for
-- which it has all there is to read. Most rows are of images that were dropped, which aren't in it.
drop index checkpoints_newest;
create index checkpoints_stored on checkpoints (environment_id, created_at, id)
    include (size_bytes, new_bytes, shared_bytes) where state in ('usable', 'kept');

-- read_totals.batch_states: what has become of a batch's runs, without reading them.
drop index runs_of_batch;
create index runs_of_batch on runs (batch_id, created_at desc, id desc) include (state) where batch_id is not null;
-- The same, and read_runs: items that have joined a run which was there.
create index batch_items_joined on batch_items (batch_id) where is_cached;

-- read_waiting: what somebody is asked and has not answered, questions first, then by when it is too late.
create index waitpoints_open on waitpoints (environment_id, (title is null), (coalesce(due_at, 'infinity')), id)
    where kind = 'token' and status = 'pending';
