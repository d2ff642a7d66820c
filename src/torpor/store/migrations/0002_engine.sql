-- The complete engine: queues and slots, ttl, debounce, batches, schedules, hooks in a process of their own, time-outs.

-- What an environment allows. Triggers refer to this row by foreign key, so what changes at every hand-out is elsewhere.
alter table environments
    add concurrency_limit int,                 -- slots.py: runs that work at once; null: as many as workers take
    add burst_factor real not null default 1,  -- slots.py: all queues together may have the limit times this
    add is_paused boolean not null default false,
    add accepts_unknown_tasks boolean not null default false,  -- trigger: pending_version instead of a refusal
    add max_queued int,                        -- trigger: the most runs that one queue may hold; null: no such limit
    add constraint environments_limits check (concurrency_limit >= 0 and burst_factor >= 1 and max_queued >= 0);

-- Whose turn it was. dequeue holds this row: hand-outs of an environment come one after the other, so limits hold.
create table turns (
    environment_id text primary key references environments,
    resumed_queue text not null default '',    -- the line that gave the last run to restore
    resumed_key text not null default '',
    fresh_queue text not null default '',      -- the line that gave the last run to start
    fresh_key text not null default ''
);
insert into turns (environment_id) select id from environments;

-- Where runs line up: `task/<task id>` for each task, and those that are declared with Queue(...). A concurrency key
-- splits a queue: each value is a line of its own with the queue's limit.
create table queues (
    id text primary key,
    environment_id text not null references environments,
    name text not null,
    kind text not null,
    concurrency_limit int,                     -- as declared in code; null: none
    override_limit int,                        -- instead, set while running
    overridden_at timestamptz,
    is_paused boolean not null default false,  -- dequeue passes it by
    created_at timestamptz not null,
    constraint queues_kind check (kind in ('task', 'custom')),
    constraint queues_limits check (concurrency_limit >= 0 and override_limit >= 0),
    -- queues.override, reset: a limit that was set while running says when.
    constraint queues_overridden check ((override_limit is null) = (overridden_at is null))
);
create unique index queues_name on queues (environment_id, name);

-- What a version's task declares besides its payload.
alter table tasks
    add queue text,                            -- null: its own
    add ttl_s double precision,
    add max_duration_s double precision,
    add hooks text[] not null default '{}';    -- end: on_failure and on_cancel may need a process of their own

alter table runs
    add queue text,
    add concurrency_key text not null default '',  -- '': none
    add priority_s double precision not null default 0,  -- its head start: available_at is that much earlier
    add ttl_s double precision,                -- how long it may be queued before its first start
    add expires_at timestamptz,                -- expire: when that is over
    add debounce_key text,                     -- trigger: while delayed, another trigger with this key pushes it on
    add debounce_until timestamptz,            -- … but not beyond this
    add locked_version text,                   -- dequeue: only this version may start it
    add batch_id text,
    add batch_index int,
    add schedule_id text,
    add replayed_from text,
    add inherit_tags boolean not null default false,  -- trigger: its children get its tags
    add hook text,                             -- not a request of its own: performs this hook of the run `hook_of`
    add hook_of text references runs on delete cascade,
    add cancel_requested_at timestamptz,       -- cancel: its process was asked to end by itself
    add cancel_reason text,
    add max_duration_s double precision,
    add active_ms double precision not null default 0,  -- of the current attempt, without what it waited
    add active_since timestamptz,              -- executing since then; null: it doesn't work now
    add ready_at timestamptz,                  -- waiting in memory, answered, and in line for a slot (grant)
    add handed_out_at timestamptz,             -- dequeued: rescue takes back what doesn't start
    add handed_out_for int,                    -- dequeue: the worker's number of the request that this answered; rescue
    add heard int not null default 0,          -- block, collect, suspend: the latest report under this lease
    add image_worker_id text,                  -- queued with a checkpoint: the only worker that can restore it; null: any
    add asked jsonb,                           -- trigger: what was said where the task has defaults; release, match_versions
    add payload_object text,                   -- a payload too large for the row: its name in the object store
    add output_object text,
    -- end: hooks are performed for ends.
    add constraint runs_hook check ((hook is null) = (hook_of is null) and hook in ('on_failure', 'on_cancel')),
    -- block, grant: only who waits in memory can be in line for going on.
    add constraint runs_ready check (ready_at is null or state = 'waiting'),
    -- start, block, grant: only who executes is active.
    add constraint runs_active check (active_since is null or state = 'executing'),
    add constraint runs_batch check ((batch_id is null) = (batch_index is null));
update runs set queue = 'task/' || task_id;
-- Their release would take the task's own again.
update runs set asked = jsonb_build_object('max_attempts', max_attempts) where state = 'delayed';
update runs set image_worker_id = (select worker_id from checkpoints where checkpoints.id = runs.checkpoint_id)
    where checkpoint_id is not null;
update runs set handed_out_at = updated_at where state = 'dequeued';
alter table runs alter queue set not null;
-- An ended run is pruned while runs that it triggered are kept.
alter table runs drop constraint runs_parent_run_id_fkey, drop constraint runs_root_run_id_fkey;

drop index runs_queued;
-- dequeue: the lines with runs to start, each in its order; the next line is one probe away.
create index runs_fresh on runs (environment_id, queue, concurrency_key, available_at, id)
    where state = 'queued' and checkpoint_id is null;
-- dequeue: the same for runs to restore, by the worker that can.
create index runs_resumed on runs (environment_id, image_worker_id, queue, concurrency_key, available_at, id)
    where state = 'queued' and checkpoint_id is not null;
-- slots: who holds one. It is counted up to the limit only.
create index runs_slots on runs (environment_id, queue, concurrency_key) where state in ('dequeued', 'executing');
-- grant: who waits in memory for a slot.
create index runs_ready on runs (environment_id, ready_at, id) where ready_at is not null;
-- expire: queued runs whose time to start is over.
create index runs_expiring on runs (expires_at)
    where expires_at is not null and started_at is null and state in ('queued', 'pending_version');
-- trigger: the delayed run that a debounce key stands for.
create unique index runs_debounced on runs (environment_id, task_id, debounce_key)
    where state = 'delayed' and attempt = 0 and debounce_key is not null;
-- register_version: runs that waited for a version; stranded.
create index runs_pending_version on runs (environment_id, task_id) where state = 'pending_version';
-- cancel: runs that were asked to end and have not.
create index runs_canceling on runs (cancel_requested_at) where cancel_requested_at is not null and finished_at is null;
-- read.runs by batch, by schedule.
create index runs_of_batch on runs (batch_id) where batch_id is not null;
create index runs_of_schedule on runs (schedule_id, created_at) where schedule_id is not null;
create index runs_hooks on runs (hook_of) where hook_of is not null;
-- repair walks them in small steps; prune: which versions are in use.
create index runs_living on runs (id) where finished_at is null;
-- prune: what has been over for long.
create index runs_ended on runs (finished_at, id) where finished_at is not null;

-- prune: which objects of the object store are in use. Few rows have any.
create index runs_payload_objects on runs (payload_object) where payload_object is not null;
create index runs_output_objects on runs (output_object) where output_object is not null;

-- prune deletes a run's rows before the run itself. A token stays when somebody may still answer it.
alter table waitpoints drop constraint waitpoints_created_by_run_id_fkey,
    add constraint waitpoints_created_by_run_id_fkey foreign key (created_by_run_id) references runs on delete set null;
create index waitpoints_made_by on waitpoints (created_by_run_id) where created_by_run_id is not null;
create index waitpoints_done on waitpoints (completed_at) where completed_at is not null and kind = 'token';
create index idempotency_keys_of_run on idempotency_keys (run_id);
create index idempotency_keys_expiring on idempotency_keys (expires_at);
-- complete_waitpoint: who is tied to it; prune: who ever was.
drop index waits_of_waitpoint;
create index waits_of_waitpoint on waits (waitpoint_id);

alter table attempts drop constraint attempts_outcome;
alter table attempts add constraint attempts_outcome
    check (outcome in ('completed', 'failed', 'crashed', 'canceled', 'timed_out', 'expired', 'system_failure'));

-- Canceled runs whose children are yet to be canceled: cancel writes it, cascade works it off in small steps.
create table cascades (
    run_id text primary key references runs on delete cascade,
    created_at timestamptz not null
);

-- A wait may have a deadline of its own, whatever it waits for.
alter table waits
    add times_out_at timestamptz,
    add timed_out_at timestamptz;              -- fire_due: the deadline came first
-- fire_due, next_due: whose deadline is next.
create index waits_timing_out on waits (times_out_at)
    where times_out_at is not null and timed_out_at is null and detached_at is null;

alter table waitpoints
    add batch_id text,                         -- batch: whose end completes it
    add output_object text,                    -- an output too large for the row: its name in the object store
    drop constraint waitpoints_kind,
    add constraint waitpoints_kind check (kind in ('time', 'run', 'batch', 'token')),
    -- create_batch: exactly the waitpoints of kind batch stand for a batch.
    add constraint waitpoints_batch check ((kind = 'batch') = (batch_id is not null)),
    drop constraint waitpoints_time,
    -- fire_due: a time without a deadline would never fire.
    add constraint waitpoints_time check (kind <> 'time' or due_at is not null);
create index waitpoints_objects on waitpoints (output_object) where output_object is not null;
create unique index waitpoints_of_batch on waitpoints (batch_id) where batch_id is not null;

-- Many runs triggered together. Its waitpoint is there from the start; when the last run has ended, the timers complete
-- it (a run's end holds the batch's row last, so it may not take the waitpoint's).
create table batches (
    id text primary key,
    environment_id text not null references environments,
    waitpoint_id text not null references waitpoints,
    parent_run_id text,
    run_count int not null,                    -- as announced; if nothing was, as many as have come
    is_counted boolean not null default true,  -- it was announced: the last item to come seals the batch
    item_count int not null default 0,         -- items that have come
    pending int not null,                      -- items that are yet to come, or whose runs have not ended
    failed_items int not null default 0,       -- items that could not become a run
    is_sealed boolean not null default false,  -- all items have come
    is_aborted boolean not null default false, -- the rest never came
    idempotency_key text,
    idempotency_key_expires_at timestamptz,
    created_at timestamptz not null,
    updated_at timestamptz not null,           -- create_batch, add_items: abort_batches goes by it
    sealed_at timestamptz,
    completed_at timestamptz,                  -- nothing is pending any more
    settled_at timestamptz,                    -- its waitpoint is completed
    constraint batches_pending check (pending >= 0 and pending <= run_count and item_count <= run_count),
    -- add_items, end: complete means that nothing is left.
    constraint batches_completed check ((completed_at is not null) = (is_sealed and pending = 0))
);
create unique index batches_idempotency on batches (environment_id, idempotency_key) where idempotency_key is not null;
create unique index batches_waitpoint on batches (waitpoint_id);
-- repair: batches that wait for runs.
create index batches_pending on batches (id) where completed_at is null;
-- prune: what has been over for long.
create index batches_done on batches (completed_at) where completed_at is not null;
-- fire_due: batches whose waitpoint is to be completed.
create index batches_to_settle on batches (completed_at) where completed_at is not null and settled_at is null;
-- abort_batches: batches whose items never came.
create index batches_open on batches (updated_at) where not is_sealed;
-- read.batches: newest first.
create index batches_newest on batches (environment_id, created_at desc, id desc);

create table batch_items (
    batch_id text not null references batches on delete cascade,
    index int not null,
    task_id text not null,
    run_id text,                               -- null: it could not become a run
    is_cached boolean not null default false,  -- its idempotency key stood for a run that was there
    error text,
    primary key (batch_id, index),
    constraint batch_items_outcome check ((run_id is null) = (error is not null))
);
-- end: the batches in which this run counts.
create index batch_items_of_run on batch_items (run_id) where run_id is not null;

-- When a task is to be triggered by the clock.
create table schedules (
    id text primary key,
    environment_id text not null references environments,
    task_id text not null,
    kind text not null,
    deduplication_key text,                    -- imperative: the same key is the same schedule
    external_id text,
    cron text not null,
    timezone text not null,
    window_text text,                          -- each tick is moved within this much time ('30m', '10%'); null: exact
    catch_up text not null default 'last',     -- what is done about ticks that nobody was there for
    is_active boolean not null default true,
    next_tick_at timestamptz,                  -- the instant that the pattern names
    next_fire_at timestamptz,                  -- the same, moved within the window
    last_tick_at timestamptz,
    last_run_id text,
    problem text,                              -- why the newest tick that made no run made none, or there are no more
    problem_at timestamptz,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    constraint schedules_kind check (kind in ('declared', 'imperative')),
    constraint schedules_catch_up check (catch_up in ('none', 'last', 'all')),
    -- fire_schedules: an active one has a next tick, unless its pattern never comes true again.
    constraint schedules_next check ((next_tick_at is null) = (next_fire_at is null))
);
-- register_version: one declared schedule per task. create_schedule: the same key, the same schedule.
create unique index schedules_declared on schedules (environment_id, task_id) where kind = 'declared';
create unique index schedules_deduplicated on schedules (environment_id, deduplication_key)
    where deduplication_key is not null;
-- fire_schedules, next_tick.
create index schedules_due on schedules (next_fire_at) where is_active and next_fire_at is not null;
-- fire_schedules: those that a clock had run ahead with.
create index schedules_ahead on schedules (last_tick_at) where is_active and last_tick_at is not null;
-- read.schedules: newest first.
create index schedules_newest on schedules (environment_id, created_at desc, id desc);
