"""Slots: who may work now, by the limits of queues and of the environment.

A run holds a slot exactly while it is `dequeued` or `executing`. There is no counter beside the runs' states that could
disagree with them: slots in use are counted when one is wanted, by an index, and no further than the limit. A waiting
run, in memory or not, holds none.

    a line          a queue, or one concurrency key of a queue: each has the queue's limit for itself
    an environment  all its lines together: its limit times its burst factor; no line has more than its limit alone

Slots are taken by `dequeue` and `grant` only, under the lock of the environment's turn (`my_turn`), so two of them never
see the same free slot. Giving one back takes no lock: whoever counts before that commits sees one slot less, and is
woken by it.
"""

from dataclasses import dataclass

from torpor.engine.states import RunState
from torpor.store.database import CHANNEL, Transaction
from torpor.store.records import Environment, Run

HOLDING = frozenset({RunState.DEQUEUED, RunState.EXECUTING})
"""Who is in one of these states holds a slot."""
MANY = 1_000_000
"""As good as no limit."""

SOFT_LIMIT = """least(coalesce(queues.override_limit, queues.concurrency_limit), environments.concurrency_limit)"""
"""SQL: how many slots a line has; null: any number. No queue has more than the environment's own limit."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The lines that were served last, in an environment whose hand-outs wait for this one."""

    resumed: tuple[str, str]
    fresh: tuple[str, str]
    saving_run_id: str | None  # saving_up.py: this run is to get …
    saving_worker_id: str | None  # … the room that this worker has left
    short_of_room: list[str]  # workers that were too full for some queued run


async def my_turn(tx: Transaction, environment_id: str) -> Turn:
    """Lock out every other hand-out of this environment until this transaction ends."""
    row = await tx.fetchrow("select * from turns where environment_id = $1 for no key update", environment_id)
    assert row is not None, "made together with its environment"
    return Turn(
        (row["resumed_queue"], row["resumed_key"]),
        (row["fresh_queue"], row["fresh_key"]),
        row["saving_run_id"],
        row["saving_worker_id"],
        row["short_of_room"],
    )


async def room(tx: Transaction, environment: Environment) -> int:
    """How many more runs may work in this environment, whatever their lines."""
    if environment.is_paused:
        return 0
    if environment.concurrency_limit is None:
        return MANY
    most = int(environment.concurrency_limit * environment.burst_factor)
    free = await tx.fetchval(
        """select $2 - count(*) from (select from runs where environment_id = $1 and state in ('dequeued', 'executing')
                                      limit $2) as held""",
        environment.id,
        most,
    )
    return free or 0


async def is_limited(tx: Transaction, run: Run) -> bool:
    """Whether this run, which waits in memory, has to stand in line to go on."""
    return bool(
        await tx.fetchval(
            f"""select environments.is_paused or coalesce(queues.is_paused, false) or {SOFT_LIMIT} is not null
                from environments left join queues on queues.environment_id = environments.id and queues.name = $2
                where environments.id = $1""",
            run.environment_id,
            run.queue,
        )
    )


async def released(tx: Transaction, run: Run) -> None:
    """This run, shown as it was, gives its slot and its room back if it held them: where there are limits, or its worker was
    too full for somebody, others should look again."""
    if run.state not in HOLDING:
        return
    await tx.execute(
        f"""select pg_notify($3, json_build_array(note, json_build_object('environment_id', $1::text))::text)
            from environments join turns on turns.environment_id = environments.id
                 left join queues on queues.environment_id = environments.id and queues.name = $2,
                 unnest(array['work', 'grant']) as note
            where environments.id = $1
              and (({SOFT_LIMIT} is not null
                    and (note = 'work' or exists (select from runs where environment_id = $1 and ready_at is not null)))
                   or (note = 'work' and $4 = any(turns.short_of_room)))""",
        run.environment_id,
        run.queue,
        CHANNEL,
        run.worker_id,
    )
