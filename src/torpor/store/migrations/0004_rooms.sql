-- Rooms: how much of a machine each run may use, which worker has it to give, and what was used.

-- Sizes of machine, as the server was told (TORPOR_MACHINES) when it came up. One that is no longer offered stays for the
-- runs that have it.
create table presets (
    environment_id text not null references environments,
    name text not null,
    cpu double precision not null,
    memory_bytes bigint not null,
    disk_bytes bigint not null,
    pids int not null,
    labels jsonb not null default '{}',        -- what a worker must have, besides
    is_default boolean not null default false, -- trigger: of runs whose task and trigger say nothing
    is_offered boolean not null default true,
    primary key (environment_id, name)
);
insert into presets (environment_id, name, cpu, memory_bytes, disk_bytes, pids, is_default)
    select id, name, cpu, gb * 1073741824, gb * 536870912, pids, name = 'small-1x'
    from environments,
         (values ('micro', 0.25, 0.25, 256), ('small-1x', 0.5, 0.5, 512), ('small-2x', 1, 1, 512), ('medium-1x', 1, 2, 1024),
                 ('medium-2x', 2, 4, 1024), ('large-1x', 4, 8, 2048), ('large-2x', 8, 16, 4096)) as built_in (name, cpu, gb, pids);
create unique index presets_default on presets (environment_id) where is_default;

alter table workers
    add cpu double precision,                  -- dequeue: what it has to give, oversubscription included; null: any amount
    add memory_bytes bigint,
    add labels jsonb not null default '{}';

alter table tasks add preset text;             -- null: the default one

alter table runs
    add preset text not null default 'small-1x',  -- trigger: decided with its queue; finish: a larger one after an OOM kill
    add cpu_ms double precision not null default 0,        -- used under earlier leases
    add lease_cpu_ms double precision not null default 0,  -- used under the latest one, as far as it was told
    add peak_memory_bytes bigint not null default 0,
    add frozen_ms double precision not null default 0,     -- without a process, before the latest freeze
    add frozen_since timestamptz,              -- suspend, move: there is only its image since then
    -- dequeue, end: a run with a process isn't frozen.
    add constraint runs_frozen check (frozen_since is null or state in ('suspended', 'queued'));
update runs set frozen_since = updated_at where state = 'suspended';

-- dequeue: the lines of each preset, so that runs for which a worker is too small are never read by it.
drop index runs_fresh, runs_resumed;
create index runs_fresh on runs (environment_id, preset, queue, concurrency_key, available_at, id)
    where state = 'queued' and checkpoint_id is null;
create index runs_resumed on runs (environment_id, image_store_id, preset, queue, concurrency_key, available_at, id)
    where state = 'queued' and checkpoint_id is not null;

alter table turns
    add saving_run_id text,                    -- dequeue: the run for which a worker saves up room …
    add saving_worker_id text,                 -- … and which worker
    add short_of_room text[] not null default '{}';  -- workers that were too full for some queued run: told when they have room
