"""Give slots to runs that wait in memory and have their answer: they go on, where limits allow it."""

from datetime import datetime

from torpor.engine import active, slots
from torpor.engine.slots import SOFT_LIMIT
from torpor.store.database import Transaction
from torpor.store.records import Environment


async def grant(tx: Transaction, environment_id: str, *, now: datetime) -> int:
    """waiting -> executing, for runs that stand in line (`ready_at`), in the order in which they were answered.

    For a duty of the server, told by a `grant` note that a slot or a limit has changed. Their workers are told to collect
    the answers. Returns how many went on.
    """
    found = await tx.fetchval(
        "select exists (select from runs where environment_id = $1 and ready_at is not null)", environment_id
    )
    if not found:
        return 0
    await slots.my_turn(tx, environment_id)
    environment = Environment.of(await tx.fetchrow("select * from environments where id = $1", environment_id))
    return await grant_ready(tx, environment_id, await slots.room(tx, environment), now=now)


async def grant_ready(tx: Transaction, environment_id: str, most: int, *, now: datetime) -> int:
    """The same, at most so many. The caller has the environment's turn."""
    if most < 1:
        return 0
    rows = await tx.fetch(
        f"""with ready as (
                select id, queue, concurrency_key, ready_at,
                       row_number() over (partition by queue, concurrency_key order by ready_at, id) as place
                from runs where environment_id = $1 and ready_at is not null
            ),
            line as (
                select ready.queue, ready.concurrency_key, {SOFT_LIMIT} as slots, count(*) as standing
                from ready join environments on environments.id = $1
                     left join queues on queues.environment_id = $1 and queues.name = ready.queue
                where not coalesce(queues.is_paused, false)
                group by 1, 2, 3
            ),
            free as (
                select queue, concurrency_key, case when slots is null then standing else slots - (
                           select count(*) from (
                               select from runs where environment_id = $1 and runs.queue = line.queue
                                   and runs.concurrency_key = line.concurrency_key
                                   and state in ('dequeued', 'executing') limit line.slots) as held) end as slots
                from line
            )
            select runs.id, runs.worker_id, runs.lease
            from ready join free using (queue, concurrency_key) join runs on runs.id = ready.id
            where ready.place <= free.slots and runs.ready_at is not null
            order by ready.ready_at, ready.id limit $2
            for no key update of runs skip locked""",
        environment_id,
        most,
    )
    await tx.execute(
        f"""update runs set state = 'executing', ready_at = null, updated_at = $2, {active.begins("$2")}
            where id = any($1::text[])""",
        [row["id"] for row in rows],
        now,
    )
    for row in rows:
        await tx.notify("news", worker_id=row["worker_id"], run_id=row["id"], lease=row["lease"], kind="answered")
    await tx.notify_all("run", [{"run_id": row["id"]} for row in rows])
    return len(rows)
