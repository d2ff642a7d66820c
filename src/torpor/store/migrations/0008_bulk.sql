-- Runs are listed by whatever one looks for them with, and many of them canceled or replayed at once.

-- read_runs: each filter has the newest runs of each of its values at hand. Hooks are not listed.
drop index runs_newest, runs_of_batch, runs_of_schedule;
create index runs_newest on runs (environment_id, created_at desc, id desc) where hook is null;
create index runs_of_task on runs (environment_id, task_id, state, created_at desc, id desc) where hook is null;
create index runs_of_queue on runs (environment_id, queue, state, created_at desc, id desc) where hook is null;
create index runs_of_version on runs (environment_id, version, created_at desc, id desc)
    where hook is null and version is not null;
-- … and counts.
create index runs_of_state on runs (environment_id, state, created_at desc, id desc) where hook is null;
create index runs_of_preset on runs (environment_id, preset, created_at desc, id desc) where hook is null;
create index runs_tests on runs (environment_id, created_at desc, id desc) where hook is null and is_test;
create index runs_of_batch on runs (batch_id, created_at desc, id desc) where batch_id is not null;
create index runs_of_schedule on runs (schedule_id, created_at desc, id desc) where schedule_id is not null;

-- read_runs: the list of each tag. A kind of index on runs, which are the truth: Postgres has none on the elements of an
-- array that is in an order. So it is kept by a trigger, which costs nothing where there are no tags.
create table run_tags (
    environment text not null,
    tag text not null,
    run_created_at timestamptz not null,
    run_id text not null,
    primary key (environment, tag, run_created_at, run_id)
);
insert into run_tags (environment, tag, run_created_at, run_id)
    select distinct environment_id, tag, created_at, id from runs, unnest(tags) as tag where hook is null;
create function list_tags() returns trigger language plpgsql as $$
begin
    if tg_op <> 'INSERT' then
        delete from run_tags
        where environment = old.environment_id and tag = any(old.tags) and run_created_at = old.created_at and run_id = old.id;
    end if;
    if tg_op <> 'DELETE' and new.hook is null then
        insert into run_tags (environment, tag, run_created_at, run_id)
            select distinct new.environment_id, tag, new.created_at, new.id from unnest(new.tags) as tag;
    end if;
    return null;
end $$;
create trigger runs_tagged after insert on runs for each row when (new.tags <> '{}') execute function list_tags();
create trigger runs_tagged_otherwise after update of tags on runs
    for each row when (old.tags <> new.tags) execute function list_tags();
create trigger runs_untagged after delete on runs for each row when (old.tags <> '{}') execute function list_tags();

-- Something that is done to many runs, one after the other, by the servers' duty.
create table bulk_actions (
    id text primary key,
    environment_id text not null references environments,
    kind text not null,
    name text,
    made_by text,                              -- the person, if it was made with a personal token
    total int not null,                        -- runs, chosen when it was made
    succeeded int not null default 0,
    failed int not null default 0,             -- work_off: those before the first that is yet to do are succeeded + failed
    created_at timestamptz not null,
    completed_at timestamptz,
    aborted_at timestamptz,
    constraint bulk_actions_kind check (kind in ('cancel', 'replay')),
    -- work_off, abort_bulk: it is over when all runs are done, or somebody has stopped it.
    constraint bulk_actions_counts check (succeeded >= 0 and failed >= 0 and succeeded + failed <= total),
    constraint bulk_actions_over check ((completed_at is not null) = (succeeded + failed = total or aborted_at is not null))
);
-- work_off: the oldest one that is yet to do.
create index bulk_actions_open on bulk_actions (created_at, id) where completed_at is null;
-- read_bulk: newest first.
create index bulk_actions_newest on bulk_actions (environment_id, created_at desc, id desc);
-- prune_bulk: what has been over for long.
create index bulk_actions_done on bulk_actions (completed_at) where completed_at is not null;

-- The runs of a bulk action, in the order in which they are worked off: the oldest first. Without foreign keys, which
-- would be looked up for each of a million rows; prune_bulk deletes them before their action.
create table bulk_runs (
    bulk_id text not null,
    place int not null,                        -- from 1
    run_id text not null,
    problem text,                              -- why it failed
    shown_id text,                             -- the run that was canceled, or that a replay has made
    shown_at timestamptz,                      -- when that one was made
    primary key (bulk_id, place)
);
-- read_runs: those of a bulk action, newest first.
create index bulk_runs_shown on bulk_runs (bulk_id, shown_at desc, shown_id desc) where shown_id is not null;

-- read_approvals: those that wait, and those that do not, each newest first.
create index waitpoints_asking on waitpoints (environment_id, created_at desc, id desc)
    where kind = 'token' and title is not null and status = 'pending';
create index waitpoints_asked on waitpoints (environment_id, created_at desc, id desc)
    where kind = 'token' and title is not null and status <> 'pending';
