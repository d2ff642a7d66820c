-- Keys as rows: several of an environment at once, with names, ends and scopes; and tokens that are good for one use.

-- A secret key may do everything, and clients sign public tokens with it (HS256): so it is kept, sealed by a master key,
-- beside the hash by which it is found. A scoped key may do what its scopes say; nobody signs with it, and of it there is
-- only the hash.
alter table api_keys
    add id text,
    add name text not null default '',
    add hint text not null default '',         -- its beginning and its end, to tell it from others
    add scopes text[],                         -- null: a secret key
    add sealed bytea,                          -- secret keys: AES-GCM of the text, bound to the hash
    add master text,                           -- fingerprint of the master key that sealed it
    add is_configured boolean not null default false,  -- configure_key: it is what TORPOR_SECRET_KEY says
    add last_used_at timestamptz,              -- touch_key: within the hour
    add expires_at timestamptz,                -- create_key; rotate_key: the end of the overlap
    add revoked_at timestamptz;
-- What there is came from TORPOR_SECRET_KEY. The next start of a server seals it.
update api_keys set id = 'apikey_' || substr(replace(gen_random_uuid()::text, '-', ''), 1, 24), name = 'TORPOR_SECRET_KEY',
    is_configured = true;
alter table api_keys
    alter id set not null,
    add constraint api_keys_id unique (id),
    -- create_key, rotate_key: nobody signs with a scoped key.
    add constraint api_keys_sealed check ((sealed is null) = (master is null) and (scopes is null or sealed is null));
-- api_keys, rotate_key, revoke_key; public tokens are verified with all of an environment.
create index api_keys_of_environment on api_keys (environment_id, id);

-- One-time tokens that were used, by the hash of what is signed of them. use_token writes a row in the transaction of
-- what the token was used for; it goes when the token would have run out.
create table used_tokens (
    token_hash bytea primary key,
    used_for text not null,                    -- the run or batch: the same request, said again, is no second use
    expires_at timestamptz not null
);
-- forget_tokens.
create index used_tokens_expiring on used_tokens (expires_at);
