"""Each accepted trigger ends exactly once. Ends are final, and states change along legal edges only."""

from torpor.engine import EDGES, ENDS

_ENDS = ", ".join(f"'{state}'" for state in sorted(ENDS))
_EDGES = ", ".join(sorted({f"('{a}', '{b}')" for edges in EDGES.values() for a, b in edges}))

TRIGGERS = f"""
create or replace function checks.ends() returns trigger language plpgsql as $$
begin
    if old.state in ({_ENDS}) and (new.state, new.output, new.error, new.finished_at, new.lease)
            is distinct from (old.state, old.output, old.error, old.finished_at, old.lease) then
        perform checks.broken('ends', format('%s had ended as %s and has changed (%s)', old.id, old.state, new.state));
    elsif old.state <> new.state and (old.state, new.state) not in ({_EDGES}) then
        perform checks.broken('ends', format('%s: %s -> %s is no edge', old.id, old.state, new.state));
    end if;
    return null;
end $$;
create trigger check_ends after update on runs for each row execute function checks.ends();
"""

_LIST = _ENDS

QUERIES = (
    # No run waits for ever: this is asked when the world has been quiet for long.
    f"select id || ' never ended: it is ' || state from runs where state not in ({_LIST})",
    # Its story tells one end.
    f"""select runs.id || ' is ' || runs.state || ' and its story tells of these ends: '
               || coalesce(string_agg(events.kind, ', ' order by events.id), 'none')
        from runs left join events on events.run_id = runs.id and substr(events.kind, 5) in ({_LIST})
        where runs.state in ({_LIST}) group by runs.id, runs.state
        having count(events.id) <> 1 or min(events.kind) <> 'run.' || runs.state""",
)
