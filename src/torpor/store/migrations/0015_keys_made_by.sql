-- Who has made a key, where that is known: a person at the dashboard.
alter table api_keys add created_by text;               -- create_key, rotate_key
