-- Which versions were registered, and when: what the tasks of a version can't say, since each worker that starts reports
-- them anew.

-- One row per version. register_version makes it; prune_versions deletes it after the version's tasks.
create table deployments (
    id text primary key,
    environment_id text not null references environments,
    version text not null,
    runtime_version text,                      -- the Python of the worker that reported it last; null: it didn't say
    created_at timestamptz not null,           -- when it was first reported
    deployed_at timestamptz not null,          -- when it became the current version, the last time
    unique (environment_id, version)           -- register_version: one row, however many workers report it
);
-- read.deployments: newest first.
create index deployments_newest on deployments (environment_id, created_at desc, id desc);
-- Of the versions there are, the last report is all that is known.
insert into deployments (id, environment_id, version, created_at, deployed_at)
    select 'deployment_' || substr(replace(gen_random_uuid()::text, '-', ''), 1, 24), environment_id, version,
        min(reported_at), max(reported_at)
    from tasks group by environment_id, version;
