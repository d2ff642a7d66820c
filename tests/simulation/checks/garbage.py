"""Nothing that somebody may still read is condemned: no image of a checkpoint that is usable or kept, no pack of an image that
isn't condemned itself. What is condemned stays so."""

TRIGGERS = """
create or replace function checks.condemned_image() returns trigger language plpgsql as $$
declare
    holder text;
begin
    if old.condemned_at is not null and new.condemned_at is null then
        perform checks.broken('garbage', format('the image %s was condemned and is no more', new.id));
    end if;
    select checkpoints.id into holder from checkpoints
    where checkpoints.image_id = new.id and checkpoints.state in ('usable', 'kept') limit 1;
    if new.condemned_at is not null and holder is not null then
        perform checks.broken('garbage', format('the image %s is condemned and %s refers to it', new.id, holder));
    end if;
    return null;
end $$;
create constraint trigger check_condemned_image after update on images deferrable initially deferred
    for each row when (new.condemned_at is distinct from old.condemned_at) execute function checks.condemned_image();
create or replace function checks.condemned_pack() returns trigger language plpgsql as $$
declare
    holder text;
begin
    select images.id into holder from image_packs join images on images.id = image_packs.image_id
    where image_packs.pack_id = new.id and images.condemned_at is null limit 1;
    if new.condemned_at is null or holder is not null then
        perform checks.broken('garbage', format('the pack %s: condemned %s, and the image %s refers to it', new.id,
                                                new.condemned_at, coalesce(holder, 'none')));
    end if;
    return null;
end $$;
create constraint trigger check_condemned_pack after update on packs deferrable initially deferred
    for each row when (new.condemned_at is distinct from old.condemned_at) execute function checks.condemned_pack();
create or replace function checks.reference() returns trigger language plpgsql as $$
begin
    if exists (select from images where images.id = new.image_id and images.condemned_at is not null) then
        perform checks.broken('garbage', format('%s refers to the image %s, which is condemned', new.id, new.image_id));
    end if;
    return null;
end $$;
create constraint trigger check_reference after insert on checkpoints deferrable initially deferred
    for each row execute function checks.reference();
"""

QUERIES = (
    """select checkpoints.id || ' is ' || checkpoints.state || ' and its image is ' ||
              case when images.id is null then 'not known' else 'condemned' end
       from checkpoints left join images on images.id = checkpoints.image_id
       where checkpoints.state in ('usable', 'kept') and checkpoints.digest <> ''
         and (images.id is null or images.condemned_at is not null)""",
    """select 'the pack ' || pack_id || ' of the image ' || image_id || ' is condemned'
       from image_packs join images on images.id = image_id join packs on packs.id = pack_id
       where images.condemned_at is null and packs.condemned_at is not null""",
)
