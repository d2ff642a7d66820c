-- Workers that were asked to leave, and the disk that each works on.
alter table workers
    add drain_asked_at timestamptz,            -- of this instance: it is handed no more runs, and moves those that it has
    add disk_bytes bigint,                     -- the size of the disk that its data directory is on
    add disk_free_bytes bigint;                -- as of its last heartbeat
