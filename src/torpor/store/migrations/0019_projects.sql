-- Environments of several projects. A project is there as long as it has an environment.

alter table environments add project text not null default 'default';      -- ensure_environment
alter table environments alter project drop default;
-- ensure_environment finds it by this; a name may be used once in each project.
alter table environments drop constraint environments_slug_key;
create unique index environments_name on environments (project, slug);
