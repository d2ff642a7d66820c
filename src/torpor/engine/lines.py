"""Who is next: the lines of an environment, each in its turn.

A line is a queue, or one concurrency key of a queue. Lines go round in the order of their names, beginning behind the
one that was served last; each gives one run before any gives a second one. So a line with 100,000 runs delays another's
single run by one run at most, and no line can be starved. (Trigger.dev draws lots with weights; a turn is as fair, and a
wait has a bound.)

The next line is one probe of the index away, however many runs stand in it or in others: what is looked at are lines,
and of those only as many as are needed plus those that are at their limit now, of which there are no more than runs at
work. Queues that are paused are passed by as a whole.
"""

from torpor.engine.slots import SOFT_LIMIT, Turn
from torpor.store.database import Transaction
from torpor.store.records import Environment, Run


def _query(which: str, takeable: str) -> str:
    """The next runs to hand out, locked. $1 environment, $2 and $3 the line served last, $4 how many; further
    parameters belong to `which` (rows of the index) and `takeable` (of those, what this worker can do).
    """
    in_line = f"runs.environment_id = $1 and runs.state = 'queued' and {which}"

    def first_line(condition: str) -> str:
        return f"""(select runs.queue, runs.concurrency_key from runs where {in_line} and {condition}
                    order by runs.queue, runs.concurrency_key limit 1)"""

    def walk(name: str, start: str, end: str) -> str:
        columns = f"line.queue, line.concurrency_key, coalesce(queues.is_paused, false), {SOFT_LIMIT}"
        limits = """join environments on environments.id = $1
                    left join queues on queues.environment_id = $1 and queues.name = line.queue"""
        after_last = "not last.is_paused and (runs.queue, runs.concurrency_key) > (last.queue, last.key)"
        after_queue = "last.is_paused and runs.queue > last.queue"
        return f"""
        {name} (queue, key, is_paused, slots) as (
            select {columns} from {first_line(f"{start} and {end}")} as line {limits}
            union all
            select {columns}
            from {name} as last,
                 lateral (select * from {first_line(f"{after_last} and {end}")} as this
                          union all
                          select * from {first_line(f"{after_queue} and {end}")} as this) as line {limits}
        )"""

    behind = "(runs.queue, runs.concurrency_key) > ($2, $3)"
    up_to = "(runs.queue, runs.concurrency_key) <= ($2, $3)"
    return f"""
    with recursive
    {walk("behind", behind, "true")},
    {walk("up_to", "true", up_to)},
    open_line as (
        -- `limit` makes the walks stop as soon as enough lines are found.
        select line.queue, line.key, free.slots, row_number() over () as turn
        from (select * from behind union all select * from up_to) as line,
             lateral (select case when line.slots is null then $4 else least($4, line.slots - (
                          select count(*) from (
                              select from runs where environment_id = $1 and queue = line.queue
                                  and concurrency_key = line.key and state in ('dequeued', 'executing')
                              limit line.slots) as held)) end as slots) as free,
             -- Not `exists`: that becomes a join with all that is queued.
             lateral (select from runs where {in_line} and runs.queue = line.queue
                      and runs.concurrency_key = line.key and {takeable}
                      order by runs.available_at, runs.id limit 1) as head
        where not line.is_paused and free.slots > 0
        limit $4
    ),
    picked as (
        select next.id, next.place, open_line.turn
        from open_line,
             lateral (select runs.id, row_number() over (order by runs.available_at, runs.id) as place
                      from (select runs.id, runs.available_at from runs
                            where {in_line} and runs.queue = open_line.queue
                              and runs.concurrency_key = open_line.key and {takeable}
                            order by runs.available_at, runs.id limit open_line.slots) as runs) as next
        order by next.place, open_line.turn limit $4
    )
    select runs.* from picked join runs on runs.id = picked.id
    where {in_line}
    order by picked.place, picked.turn
    -- Whoever holds one of these is about to change it: it is passed by, and found again if it stays queued.
    for no key update of runs skip locked"""


_CURRENT = """exists (select from tasks where tasks.environment_id = runs.environment_id and tasks.version = $5
                        and tasks.id = runs.task_id)"""
_FRESH = _query(
    "runs.checkpoint_id is null",
    f"""case when runs.locked_version is null then $5::text is not null and {_CURRENT}
             else runs.locked_version = any($6::text[]) end""",
)
_RESUMED = _query(
    "runs.checkpoint_id is not null and runs.image_store_id = $5",
    """not exists (select from checkpoints join refusals on refusals.image_id = checkpoints.image_id
                   where checkpoints.id = runs.checkpoint_id and refusals.fitness = $6)""",
)


async def next_fresh(
    tx: Transaction, environment: Environment, versions: list[str], turn: Turn, most: int
) -> list[Run]:
    """Runs to start that a worker with these versions can take, locked. The caller has the environment's turn."""
    if most < 1:
        return []
    current = environment.current_version if environment.current_version in versions else None
    if current is None and not await _is_locked_to(tx, environment.id, versions):
        return []
    rows = await tx.fetch(_FRESH, environment.id, *turn.fresh, most, current, versions)
    return await _served(tx, [Run.of(row) for row in rows], environment.id, "fresh")


async def next_resumed(
    tx: Transaction, environment: Environment, store_id: str, fitness: str, turn: Turn, most: int
) -> list[Run]:
    """Runs whose checkpoints are in that store, and that no worker of that fitness has refused, locked. The caller has the
    environment's turn.
    """
    if most < 1:
        return []
    rows = await tx.fetch(_RESUMED, environment.id, *turn.resumed, most, store_id, fitness)
    return await _served(tx, [Run.of(row) for row in rows], environment.id, "resumed")


async def _is_locked_to(tx: Transaction, environment_id: str, versions: list[str]) -> bool:
    """Whether some queued run insists on one of these versions."""
    return bool(
        await tx.fetchval(
            """select exists (select from runs where environment_id = $1 and state = 'queued'
                              and locked_version = any($2::text[]))""",
            environment_id,
            versions,
        )
    )


async def _served(tx: Transaction, runs: list[Run], environment_id: str, kind: str) -> list[Run]:
    """The next hand-out begins behind the line that gave the last of these."""
    if runs:
        await tx.execute(
            f"update turns set {kind}_queue = $2, {kind}_key = $3 where environment_id = $1",
            environment_id,
            runs[-1].queue,
            runs[-1].concurrency_key,
        )
    return runs
