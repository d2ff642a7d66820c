-- The first schema. JSON that user code made (payload, output) is kept as text and passed on untouched; JSON that we
-- make ourselves is jsonb. Instants are timestamptz and come from the verbs' `now`, never from the database's clock.
-- Verbs lock rows with `for no key update`: nobody changes a key, and foreign key checks (`for key share`) of a child's
-- insert must not queue behind a parent's verb.

-- One namespace of tasks, runs and keys. register_version moves current_version; dequeue starts fresh attempts with it.
create table environments (
    id text primary key,
    slug text not null unique,                 -- ensure_environment finds it by this
    current_version text,                      -- null until a worker has reported a version
    created_at timestamptz not null
);

-- Secret keys, as sha256 only. read.environment_by_key looks one up at every public request.
create table api_keys (
    key_hash bytea primary key,
    environment_id text not null references environments,
    created_at timestamptz not null
);

-- One row per worker (a data directory), with the instance that speaks for it now. register_worker replaces the
-- instance; dequeue and heartbeat turn away any other.
create table workers (
    id text primary key,
    environment_id text not null references environments,
    instance_id text not null,
    host text not null,
    slots int not null,
    can_freeze boolean not null,
    facts jsonb not null,
    version text,                              -- what this instance has imported last: dequeue starts fresh attempts there
    hello_at timestamptz not null,
    seen_at timestamptz not null,
    expires_at timestamptz not null            -- silent for longer: shown as gone
);

-- What a version's tasks look like, without loading its code: trigger checks payloads against it, finish reads the
-- retry policy of the version that ran.
create table tasks (
    environment_id text not null references environments,
    version text not null,
    id text not null,
    file text not null,
    line int not null,
    is_async boolean not null,
    parameters text not null check (parameters in ('none', 'one', 'named')),  -- trigger: what a missing payload means
    payload_schema jsonb not null,
    retry jsonb not null,
    doc text,
    reported_at timestamptz not null,
    primary key (environment_id, version, id)
);

-- One request to perform a task. The row is the lock: every verb that acts on a run holds it.
create table runs (
    id text primary key,
    environment_id text not null references environments,
    task_id text not null,
    version text,                              -- dequeue: the version of its latest fresh attempt
    state text not null,
    payload text,                              -- JSON text; null: none was given
    output text,                               -- JSON text, when completed
    error jsonb,                               -- a TaskError, when it ended otherwise
    attempt int not null default 0,            -- number of the latest attempt, 0 before the first
    max_attempts int not null,
    lease int not null default 0,              -- moves on at each hand-out and each end of a lease
    lease_expires_at timestamptz,
    worker_id text,                            -- who holds the lease
    instance_id text,
    checkpoint_id text,                        -- the image that the next hand-out restores
    available_at timestamptz not null,         -- queued: its place in the line; delayed: when it is released
    due_at timestamptz,                        -- when the wait that woke it was answered
    rescues int not null default 0,            -- taken back this often without progress
    delay_until timestamptz,
    idempotency_key text,
    idempotency_key_options jsonb,
    tags text[] not null default '{}',
    metadata jsonb,
    is_test boolean not null default false,
    trigger_function text not null default 'trigger',
    parent_run_id text references runs,
    root_run_id text references runs,
    depth int not null default 0,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    started_at timestamptz,
    finished_at timestamptz,
    -- Every verb: there is no other state.
    constraint runs_state check (state in ('delayed', 'pending_version', 'queued', 'dequeued', 'executing', 'waiting',
        'suspended', 'completed', 'failed', 'canceled', 'crashed', 'timed_out', 'expired', 'system_failure')),
    -- finish, cancel, rescue, refuse: an end has its instant, and only an end.
    constraint runs_finished check ((finished_at is not null) = (state in ('completed', 'failed', 'canceled', 'crashed',
        'timed_out', 'expired', 'system_failure'))),
    -- dequeue gives the lease, heartbeat renews it, suspend, finish, cancel, rescue and refuse end it.
    constraint runs_leased check ((lease_expires_at is not null) = (state in ('dequeued', 'executing', 'waiting'))
        and (worker_id is null) = (lease_expires_at is null) and (instance_id is null) = (lease_expires_at is null)),
    -- suspend: a run without a process has an image to come back from.
    constraint runs_suspended check (state <> 'suspended' or checkpoint_id is not null),
    -- finish, cancel: what has ended is never restored.
    constraint runs_ended_drop_checkpoint check (finished_at is null or checkpoint_id is null),
    -- finish: an output belongs to a completed run.
    constraint runs_output check (output is null or state = 'completed'),
    -- dequeue, finish: attempts are numbered from 1 and never exceed what was allowed.
    constraint runs_attempts check (attempt >= 0 and max_attempts >= 1 and attempt <= max_attempts),
    -- dequeue: a run that is or was with a worker has a version and an attempt.
    constraint runs_started check (state not in ('dequeued', 'executing', 'waiting', 'suspended')
        or (version is not null and attempt >= 1))
);
-- dequeue: those to restore first, then by their place in the line.
create index runs_queued on runs (environment_id, (checkpoint_id is null), available_at, id) where state = 'queued';
-- fire_due: delayed runs to release; next_due.
create index runs_delayed on runs (available_at) where state = 'delayed';
-- rescue: leases that have run out.
create index runs_leases on runs (lease_expires_at) where lease_expires_at is not null;
-- register_worker: what the former instance held.
create index runs_held on runs (worker_id) where worker_id is not null;
-- read.runs: newest first.
create index runs_newest on runs (environment_id, created_at desc, id desc);
-- read.runs with a tag.
create index runs_tags on runs using gin (tags) where tags <> '{}';
-- read.children; also the foreign key.
create index runs_children on runs (parent_run_id) where parent_run_id is not null;

-- trigger: same key, same run, until it expires or that run fails. Apart from runs, so that a key can move to a new run
-- while the old one still shows what it was triggered with.
create table idempotency_keys (
    environment_id text not null references environments,
    task_id text not null,
    key text not null,
    run_id text not null references runs deferrable initially deferred,  -- the key is claimed before the run is made
    expires_at timestamptz not null,
    primary key (environment_id, task_id, key)
);

-- One try at a run. dequeue opens it (a restore continues it), finish, cancel, rescue and refuse close it.
create table attempts (
    run_id text not null references runs,
    number int not null,
    version text not null,
    worker_id text not null,
    lease int not null,                        -- the latest lease it ran under
    dequeued_at timestamptz not null,
    started_at timestamptz,
    finished_at timestamptz,
    outcome text,
    error jsonb,
    primary key (run_id, number),
    constraint attempts_outcome check (outcome in ('completed', 'failed', 'crashed', 'canceled', 'system_failure')),
    -- dequeue asks "is the latest attempt still open?": both say so, or neither.
    constraint attempts_finished check ((outcome is null) = (finished_at is null))
);

-- What a run is blocked on: completed once, first wins.
create table waitpoints (
    id text primary key,
    environment_id text not null references environments,
    kind text not null,
    status text not null default 'pending',
    due_at timestamptz,                        -- time: when it is over; token: when its time runs out
    awaited_run_id text references runs,       -- run: whose end completes it
    output text,                               -- JSON text
    error jsonb,                               -- a TaskError, when status is failed
    run_status text,                           -- run: its final public status
    tags text[] not null default '{}',
    idempotency_key text,
    idempotency_key_expires_at timestamptz,
    title text,                                -- token: the question of an approval
    context jsonb,
    created_by_run_id text references runs,
    completed_by text,
    created_at timestamptz not null,
    completed_at timestamptz,
    constraint waitpoints_kind check (kind in ('time', 'run', 'token')),
    constraint waitpoints_status check (status in ('pending', 'completed', 'timed_out', 'failed')),
    -- complete_waitpoint, fire_due: an answer has its instant.
    constraint waitpoints_completed check ((status = 'pending') = (completed_at is null)),
    -- fire_due: a time without a deadline would never fire.
    constraint waitpoints_time check (kind <> 'time' or due_at is not null),
    -- block: exactly the waitpoints of kind run stand for a run.
    constraint waitpoints_run check ((kind = 'run') = (awaited_run_id is not null))
);
-- block: one waitpoint per awaited run; finish and cancel find it.
create unique index waitpoints_awaited on waitpoints (awaited_run_id) where awaited_run_id is not null;
-- fire_due, next_due: what is due next.
create index waitpoints_due on waitpoints (due_at) where status = 'pending' and due_at is not null;
-- create_token: same key, same token. An expired key is taken off its token.
create unique index waitpoints_idempotency on waitpoints (environment_id, idempotency_key)
    where idempotency_key is not null;
-- read.tokens: newest first.
create index waitpoints_tokens on waitpoints (environment_id, created_at desc, id desc) where kind = 'token';

-- A run and a waitpoint, tied by block. Written only by who holds the run's row. Kept after delivery and detaching:
-- a process that comes back from an older image may ask again (collect, dequeue).
create table waits (
    run_id text not null references runs,
    wait_id text not null,                     -- made by the SDK: the same message ties once
    waitpoint_id text not null references waitpoints,
    created_at timestamptz not null,
    delivered_at timestamptz,                  -- its answer was handed to the process
    detached_at timestamptz,                   -- nobody waits for it any more
    primary key (run_id, wait_id)
);
-- complete_waitpoint: who is tied to it.
create index waits_of_waitpoint on waits (waitpoint_id) where detached_at is null;

-- The images of frozen process trees that the engine has accepted. A worker prunes what checkpoints.keep doesn't name.
create table checkpoints (
    id text primary key,
    run_id text not null references runs,
    worker_id text not null,                   -- whose disk it is on: only that worker can restore it
    attempt int not null,
    state text not null,
    reason text,                               -- why it is unusable
    open_waits text[] not null,                -- what the frozen process waits for: restored with the image
    size_bytes bigint not null,
    files_bytes bigint not null,
    dump_ms double precision not null,
    durable_ms double precision not null,
    rss_bytes bigint not null,
    facts jsonb not null,
    waiting_at jsonb not null,
    created_at timestamptz not null,
    constraint checkpoints_state check (state in ('current', 'previous', 'superseded', 'unusable')),
    -- refuse: what can't be restored says why.
    constraint checkpoints_reason check ((state = 'unusable') = (reason is not null))
);
-- suspend, refuse: one image to restore and one to fall back on per run; keep asks by these.
create unique index checkpoints_current on checkpoints (run_id) where state = 'current';
create unique index checkpoints_previous on checkpoints (run_id) where state = 'previous';
-- read.checkpoints.
create index checkpoints_of_run on checkpoints (run_id, created_at);

-- The story of a run, written by each verb in its own transaction; the dashboard draws only this.
create table events (
    id bigint generated always as identity primary key,
    run_id text not null references runs,
    at timestamptz not null,
    kind text not null,
    attempt int,
    data jsonb not null
);
-- read.story: what came after the event I know.
create index events_of_run on events (run_id, id);

-- What runs print and log. (lease, first_byte, nth) is the line's place in its process's output: a repeated report adds
-- nothing.
create table logs (
    id bigint generated always as identity primary key,
    run_id text not null references runs,
    lease int not null,
    first_byte bigint not null,
    nth int not null,
    at timestamptz not null,
    level text not null,
    message text not null,
    attributes jsonb not null,
    stream text not null,
    unique (run_id, lease, first_byte, nth)    -- append: on conflict do nothing
);
-- read.logs: what came after the line I know.
create index logs_of_run on logs (run_id, id);
