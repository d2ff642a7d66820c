-- Tokens of persons, and what they have done.

alter table api_keys
    add is_personal boolean not null default false,     -- create_key: `name` is whose it is
    -- Nobody signs with one, and it may do what a secret key may but for the care of keys.
    add constraint api_keys_personal check (not is_personal or (scopes is null and sealed is null));

alter table queues add overridden_by text;              -- queues.override: by whose personal token
