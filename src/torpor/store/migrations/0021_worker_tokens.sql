-- Tokens that let in workers of one environment.

alter table api_keys
    add is_worker boolean not null default false,       -- create_key: workers of its environment come with it, and nobody else
    -- It opens nothing of the API, so it has no scopes, and nobody signs with it.
    add constraint api_keys_worker check (not is_worker or (scopes is null and sealed is null and not is_personal));
