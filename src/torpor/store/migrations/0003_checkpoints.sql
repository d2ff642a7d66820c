-- Checkpoints in an object store that many workers read: images, what they are made of, who can't use them, and keys.

-- What images are sealed with, wrapped by a master key that only servers have. Workers are given them unwrapped.
create table data_keys (
    id text primary key,
    environment_id text not null references environments,
    wrapped bytea not null,                    -- AES-GCM of 32 bytes; the id is the additional data
    master text not null,                      -- fingerprint of the master key that wraps it
    created_at timestamptz not null,
    retired_at timestamptz                     -- rotate: for reading only since then; null: the one to seal with
);
-- make_key, rotate: one to seal with. heartbeat names it.
create unique index data_keys_current on data_keys (environment_id) where retired_at is null;

-- What is stored of a frozen process tree. Checkpoints refer to it, those of forks as well; so does a warm image's row.
-- Without a reference for a while it is condemned, and never used again; its row goes after the object.
create table images (
    id text primary key,                       -- of the checkpoint that made it
    environment_id text not null references environments,
    store_id text not null,
    digest text not null,                      -- of its manifest object; empty for one that was never accepted
    key_id text not null,
    size_bytes bigint not null,
    created_at timestamptz not null,
    condemned_at timestamptz,
    told_at timestamptz,                       -- condemned: a worker was told to delete it
    deleted_at timestamptz                     -- it has; the row stays for a while, so that nothing refers to it again
);
create table packs (
    id text primary key,
    environment_id text not null references environments,
    store_id text not null,
    key_id text not null,
    size_bytes bigint not null,
    created_at timestamptz not null,
    condemned_at timestamptz,
    told_at timestamptz,
    deleted_at timestamptz
);
create table image_packs (
    image_id text not null references images on delete cascade,
    pack_id text not null references packs,
    primary key (image_id, pack_id)
);
-- condemn: does anything refer to this pack?
create index image_packs_of_pack on image_packs (pack_id);
-- condemned: what is to be deleted; forget_deleted: what was, long ago.
create index images_condemned on images (store_id, condemned_at) where condemned_at is not null;
create index packs_condemned on packs (store_id, condemned_at) where condemned_at is not null;
-- drop_keys: is anything sealed with it?
create index images_of_key on images (key_id) where condemned_at is null;
create index packs_of_key on packs (key_id) where condemned_at is null;
-- notice: walks what nobody has let go.
create index images_alive on images (id) where condemned_at is null;

-- A reference to this image has ended: condemn looks whether there are others, when the grace period is over. Written by
-- whoever drops a checkpoint, so that no verb of a run has to lock images.
create table let_go (
    id bigint generated always as identity primary key,
    image_id text not null,
    at timestamptz not null
);
create index let_go_at on let_go (at);
create index let_go_of_image on let_go (image_id);

-- Workers of this fitness can't use that image: dequeue and find_warm pass it by; give_up begins here.
create table refusals (
    image_id text not null,
    fitness text not null,
    reason text not null,
    at timestamptz not null,
    primary key (image_id, fitness)
);

-- Processes that have imported a version and wait for a run, frozen: workers thaw them instead of importing.
create table warm_images (
    image_id text primary key references images,
    environment_id text not null references environments,
    version text not null,
    store_id text not null,
    fitness text not null,                     -- of the worker that made it
    worker_id text not null,
    stored jsonb not null,                     -- the StoredCheckpoint, without its packs
    created_at timestamptz not null
);
-- find_warm: the newest.
create index warm_images_of_version on warm_images (environment_id, version, store_id, created_at);

alter table workers
    add store_id text,                         -- whose images it can read
    add fitness text;
-- An older worker has its images on its own disk.
update workers set store_id = 'worker:' || id, fitness = 'worker:' || id;
alter table workers alter store_id set not null, alter fitness set not null;
-- stranded, refuse: who reads that store?
create index workers_of_store on workers (store_id);

alter table environments
    add checkpoint_retention_s double precision not null default 86400;  -- end: as the server is set

alter table tasks
    add checkpoints jsonb not null default '{}';  -- a CheckpointPolicy

alter table checkpoints
    drop constraint checkpoints_state,
    drop constraint checkpoints_reason;
drop index checkpoints_current;
drop index checkpoints_previous;
alter table checkpoints
    add number int,                            -- its place among those of its run, from 1
    add image_id text,
    add kind text not null default 'wait',
    add name text,                             -- of a save point
    add store_id text,
    add digest text not null default '',
    add key_id text not null default '',
    add base text,
    add new_bytes bigint not null default 0,
    add shared_bytes bigint not null default 0,
    add kept_until timestamptz;                -- end: how long a fork may still begin there
update checkpoints set image_id = id, store_id = 'worker:' || worker_id,
    state = case when state in ('current', 'previous') then 'usable' when state = 'superseded' then 'dropped' else state end;
update checkpoints set number = numbered.number from
    (select id, row_number() over (partition by run_id order by created_at, id) as number from checkpoints) as numbered
    where checkpoints.id = numbered.id;
alter table checkpoints
    alter number set not null,
    alter image_id set not null,
    alter store_id set not null,
    -- usable: the run may be restored from it. kept: forks may, the run itself goes another way or is over. dropped: its
    -- image may be deleted. unusable: it can't be restored by anyone.
    add constraint checkpoints_state check (state in ('usable', 'kept', 'dropped', 'unusable')),
    -- fall_back: what can't be restored says why.
    add constraint checkpoints_reason check (state <> 'unusable' or reason is not null),
    add constraint checkpoints_kind check (kind in ('wait', 'named', 'auto', 'move')),
    add constraint checkpoints_name check ((kind = 'named') = (name is not null)),
    -- end, expire_checkpoints: of a run that is over none is usable, and what is kept has its time.
    add constraint checkpoints_kept_until check (kept_until is null or state in ('kept', 'dropped', 'unusable'));
-- accept: they are numbered. fall_back: the newest that is usable.
drop index checkpoints_of_run;
create unique index checkpoints_of_run on checkpoints (run_id, number);
-- condemn: does anything refer to this image? keep.
create index checkpoints_of_image on checkpoints (image_id) where state in ('usable', 'kept');
-- expire_checkpoints.
create index checkpoints_expiring on checkpoints (kept_until) where kept_until is not null and state = 'kept';
-- read.checkpoints_of_environment: newest first.
create index checkpoints_newest on checkpoints (created_at, id);

alter table runs
    add image_store_id text,                   -- queued with a checkpoint: workers that read this store can restore it
    add forked_from text,                      -- the run whose checkpoint this one began with
    add forked_checkpoint_id text;
update runs set image_store_id = (select store_id from checkpoints where checkpoints.id = runs.checkpoint_id)
    where checkpoint_id is not null;
drop index runs_resumed;
alter table runs drop column image_worker_id;
-- dequeue: the lines with runs to restore, by the store that has their images.
create index runs_resumed on runs (environment_id, image_store_id, queue, concurrency_key, available_at, id)
    where state = 'queued' and checkpoint_id is not null;
