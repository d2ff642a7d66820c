-- Environments are renamed, and deleted.

alter table environments
    -- rename_environment: addresses that it had ('prod', 'shop/prod'). Pages lead on from them, and workers that are at work come by them.
    add former text[] not null default '{}',
    add renamed_at timestamptz,
    -- delete_environment: nobody comes in any more, its name is free, and remove_deleted takes its rows away in small steps.
    add deleted_at timestamptz;
drop index environments_name;
create unique index environments_name on environments (project, slug) where deleted_at is null;
