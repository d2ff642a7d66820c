"""A lease number never goes back; it moves on at each hand-out and at each end of a lease, and never in between."""

TRIGGERS = """
create or replace function checks.lease() returns trigger language plpgsql as $$
declare
    was boolean := old.state in ('dequeued', 'executing', 'waiting');
    is_now boolean := new.state in ('dequeued', 'executing', 'waiting');
begin
    if new.lease < old.lease then
        perform checks.broken('lease', format('%s: lease %s after lease %s', old.id, new.lease, old.lease));
    elsif was and is_now and (new.lease, new.worker_id, new.instance_id)
            is distinct from (old.lease, old.worker_id, old.instance_id) then
        perform checks.broken('lease', format('%s: %s -> %s under another lease, %s then %s', old.id, old.state, new.state,
                                              old.lease, new.lease));
    elsif old.state in ('executing', 'waiting') and new.state = 'queued' and new.rescues > old.rescues
            and old.lease_expires_at > new.updated_at
            and exists (select from workers where workers.id = old.worker_id and workers.instance_id = old.instance_id) then
        perform checks.broken('lease', format('%s was taken back from %s, which had it until %s', old.id, old.worker_id,
                                              old.lease_expires_at));
    elsif was <> is_now and new.lease = old.lease then
        perform checks.broken('lease', format('%s: %s -> %s under the same lease %s', old.id, old.state, new.state, old.lease));
    end if;
    return null;
end $$;
create trigger check_lease after update on runs for each row execute function checks.lease();
"""

QUERIES = (
    # Who has ended, or has no process, has no holder either.
    """select id || ' is ' || state || ' and has a holder' from runs
       where (worker_id is not null or instance_id is not null or lease_expires_at is not null)
         and state not in ('dequeued', 'executing', 'waiting')""",
)
