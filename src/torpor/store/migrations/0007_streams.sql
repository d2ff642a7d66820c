-- What a run shows while it works: metadata that it changes, and streams of what it makes; and what is sent to it.

alter table runs
    add metadata_lease int not null default 0,   -- report_metadata: under which lease the latest report came …
    add metadata_number int not null default 0,  -- … and its number: one that comes late, or again, changes nothing
    add metadata_requests text[] not null default '{}',  -- change_metadata: the latest ones, which may come again
    add given_metadata jsonb;                    -- replay: as it was before the first change; null: it was never changed

-- One stream of a run: output, which it makes, or input, which others send it. Who appends holds this row until the
-- commit, so numbers have no gaps and are committed in their order: a reader who has seen n misses none below it.
create table streams (
    id bigint generated always as identity primary key,
    run_id text not null references runs,
    direction text not null,
    key text not null,
    next_seq bigint not null default 0,
    size_bytes bigint not null default 0,      -- of the bodies that are kept; append refuses what goes over the limit
    oldest_at timestamptz,                     -- of the oldest chunk that is kept; null: none is
    constraint streams_direction check (direction in ('output', 'input'))
);
-- append, read_streams; prune_runs.
create unique index streams_of_run on streams (run_id, direction, key);
-- prune_streams.
create index streams_by_age on streams (oldest_at) where oldest_at is not null;

create table stream_chunks (
    stream_id bigint not null references streams,
    seq bigint not null,
    part_id text not null,                     -- made by who appends: a part that comes again adds nothing
    body text not null,                        -- JSON, as it came
    at timestamptz not null,
    primary key (stream_id, seq),              -- read_streams: what came behind the chunk that I know
    unique (stream_id, part_id)                -- append
);
