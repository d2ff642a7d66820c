-- Sessions tell where they are from, and accounts may be those of an OpenID provider.

alter table sessions
    add address text not null default '',      -- of the browser when it signed in
    add agent text not null default '',        -- what it said it is, cut
    add ends_at timestamptz;                   -- it is over then, however much it is used; null: never so

alter table accounts
    alter password_hash drop not null,         -- null: the provider says who it is
    add issuer text,                           -- the provider's
    add subject text,                          -- who it is to the provider, for ever: an e-mail address may become another's
    add constraint accounts_way_in check ((password_hash is null) = (subject is not null) and (issuer is null) = (subject is null));
create unique index accounts_subject on accounts (issuer, subject) where subject is not null;      -- enter
