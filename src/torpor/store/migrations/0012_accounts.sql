-- Who looks at the dashboard: accounts with passwords, the browsers that are signed in, and links that sign one in.

create table accounts (
    id text primary key,
    name text not null,                        -- an e-mail address, or any other name
    password_hash text not null,               -- Argon2id, with its parameters
    created_at timestamptz not null
);
create unique index accounts_name on accounts (lower(name));        -- create_account, account_by_name

create table sessions (
    cookie_hash bytea primary key,             -- sha256 of the cookie: who reads this table can't be signed in by it
    account_id text references accounts on delete cascade,          -- null: by a link, so whoever holds a secret key
    created_at timestamptz not null,
    seen_at timestamptz not null,              -- true to some minutes
    expires_at timestamptz not null            -- moves on with each sight
);
create index sessions_account on sessions (account_id);             -- remove_account
create index sessions_expiry on sessions (expires_at);              -- forget_sessions

create table sign_in_links (
    token_hash bytea primary key,              -- sha256; the row goes with its use
    created_at timestamptz not null,
    expires_at timestamptz not null
);
