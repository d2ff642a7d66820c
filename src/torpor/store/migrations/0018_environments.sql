-- Which environment a browser looks at, for addresses that don't say it.
alter table sessions add environment_id text references environments;       -- look_at; null: the server's own
