-- Variables that all runs of an environment have.

create table env_vars (
    environment_id text not null references environments (id),
    name text not null,
    sealed bytea not null,                     -- AES-GCM of the value by a master key, bound to environment and name
    master text not null,                      -- fingerprint of that master key
    size_bytes int not null,                   -- of name and value: set_variables, change_variable keep the sum within bounds
    is_secret boolean not null,                -- the API never shows its value
    created_at timestamptz not null,
    updated_at timestamptz not null,
    -- variables, variable.
    primary key (environment_id, name)
);

-- Moves on with each change of them, so that workers know when to ask (dequeue, heartbeat).
alter table environments add variables_revision bigint not null default 0;
