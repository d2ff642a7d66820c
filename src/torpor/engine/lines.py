"""Who is next: the lines of an environment, each in its turn.

A line is a queue, or one concurrency key of a queue. Lines go round in the order of their names, beginning behind the
one that was served last; each gives one run before any gives a second one. So a line with 100,000 runs delays another's
single run by one run at most, and no line can be starved. (Trigger.dev draws lots with weights; a turn is as fair, and a
wait has a bound.)

The next line is one probe of the index away for each preset that runs are queued with, however many runs stand in it or in
others. What is looked at are lines, and of those only as many as are needed plus those that are at their limit now (of
which there are no more than runs at work) or whose first run waits for room here. Queues that are paused are passed by as
a whole.

**Presets** (placement.py). Runs that could never fit this worker aren't in the lines as it sees them: the index leads past
them. One that would fit but for what works here now closes its line to this worker, and to no other: if the next ones were
let past it, it would wait as long as smaller ones come.
"""

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from torpor.engine.placement import Room
from torpor.engine.slots import SOFT_LIMIT, Turn
from torpor.store.database import Transaction
from torpor.store.records import Environment, Run

MOST_LOOKED_AT = 100
"""So many lines are looked at for a run that has waited for room for too long."""


@dataclass(frozen=True)
class _Lines:
    """Statements about the lines of runs to start, or of those to restore.

    $1 environment, $2 and $3 the line served last, $4 how many, $5 the presets whose lines are walked, $6 all presets that
    could fit this worker; further parameters belong to `which` (rows of the index) and `takeable` (of those, what this
    worker can do).
    """

    which: str
    takeable: str

    @cached_property
    def next(self) -> str:
        """The next runs to hand out, locked. $5: the presets that fit now."""
        return f"""
        with recursive
        {self._open("true", "")},
        picked as (
            select next.id, next.place, open_line.turn
            from open_line,
                 lateral (select runs.id, row_number() over (order by runs.available_at, runs.id) as place
                          from (select standing.id, standing.available_at
                                from {self._standing("open_line", "open_line.slots")} as standing
                                order by standing.available_at, standing.id limit open_line.slots) as runs) as next
            order by next.place, open_line.turn limit $4
        )
        select runs.* from picked join runs on runs.id = picked.id
        where {self._in_line}
        order by picked.place, picked.turn
        -- Whoever holds one of these is about to change it: it is passed by, and found again if it stays queued.
        for no key update of runs skip locked"""

    @cached_property
    def longing(self) -> str:
        """The first run of an open line, if it has been queued since $9 or before. $5: presets that don't fit now."""
        since = "head.available_at + make_interval(secs => head.priority_s) <= $9"
        return f"with recursive {self._open(since, f'limit {MOST_LOOKED_AT}')} select id from open_line"

    @cached_property
    def one(self) -> str:
        """The run $9, locked, if it is still the first of its line, and that is open. ($2 to $4 are given for nothing.)"""
        return f"""
        select runs.* from runs join environments on environments.id = $1
            left join queues on queues.environment_id = $1 and queues.name = runs.queue,
            lateral (select runs.queue as queue, runs.concurrency_key as key) as line,
            lateral (select standing.id from {self._standing("line", "1")} as standing
                     order by standing.available_at, standing.id limit 1) as head
        where {self._in_line} and runs.id = $9 and head.id = $9 and runs.preset = any($5::text[])
          and not coalesce(queues.is_paused, false) and not environments.is_paused
          and ($2::text, $3::text, $4::int) is not null
          and ({SOFT_LIMIT} is null or (
              select count(*) from runs as held where held.environment_id = $1 and held.queue = runs.queue
                  and held.concurrency_key = runs.concurrency_key and held.state in ('dequeued', 'executing')) < {SOFT_LIMIT})
        for no key update of runs skip locked"""

    @property
    def _in_line(self) -> str:
        return f"runs.environment_id = $1 and runs.state = 'queued' and {self.which}"

    def _open(self, heads: str, most: str) -> str:
        """The lines whose first run is of a preset in $5 and such as `heads` says, as CTEs that end in `open_line`."""
        behind = "(runs.queue, runs.concurrency_key) > ($2, $3)"
        up_to = "(runs.queue, runs.concurrency_key) <= ($2, $3)"
        return f"""
        {self._walk("behind", behind, "true")},
        {self._walk("up_to", "true", up_to)},
        open_line as (
            -- `limit` makes the walks stop as soon as enough lines are found.
            select line.queue, line.key, free.slots, row_number() over () as turn, head.id
            from (select * from behind union all select * from up_to {most}) as line,
                 lateral (select case when line.slots is null then $4 else least($4, line.slots - (
                              select count(*) from (
                                  select from runs where environment_id = $1 and queue = line.queue
                                      and concurrency_key = line.key and state in ('dequeued', 'executing')
                                  limit line.slots) as held)) end as slots) as free,
                 -- Not `exists`: that becomes a join with all that is queued.
                 lateral (select * from {self._standing("line", "1")} as standing
                          order by standing.available_at, standing.id limit 1) as head
            where not line.is_paused and free.slots > 0 and head.preset = any($5) and {heads}
            limit $4
        )"""

    def _walk(self, name: str, start: str, end: str) -> str:
        columns = f"line.queue, line.concurrency_key, coalesce(queues.is_paused, false), {SOFT_LIMIT}"
        limits = """join environments on environments.id = $1
                    left join queues on queues.environment_id = $1 and queues.name = line.queue"""
        after_last = "not last.is_paused and (runs.queue, runs.concurrency_key) > (last.queue, last.key)"
        after_queue = "last.is_paused and runs.queue > last.queue"
        return f"""
        {name} (queue, key, is_paused, slots) as (
            select {columns} from {self._first_line(f"{start} and {end}")} as line {limits}
            union all
            select {columns}
            from {name} as last,
                 lateral (select * from {self._first_line(f"{after_last} and {end}")} as this
                          union all
                          select * from {self._first_line(f"{after_queue} and {end}")} as this) as line {limits}
        )"""

    def _first_line(self, condition: str) -> str:
        return f"""(select found.queue, found.concurrency_key
                    from unnest($5::text[]) as walked (preset),
                         lateral (select runs.queue, runs.concurrency_key from runs
                                  where {self._in_line} and runs.preset = walked.preset and {condition}
                                  order by runs.queue, runs.concurrency_key limit 1) as found
                    order by found.queue, found.concurrency_key limit 1)"""

    def _standing(self, line: str, most: str) -> str:
        """The first runs of a line, of each preset that could fit."""
        return f"""(select first.* from unnest($6::text[]) as could (preset),
                         lateral (select runs.id, runs.preset, runs.available_at, runs.priority_s from runs
                                  where {self._in_line} and runs.preset = could.preset and runs.queue = {line}.queue
                                    and runs.concurrency_key = {line}.key and {self.takeable}
                                  order by runs.available_at, runs.id limit {most}) as first)"""


_FRESH = _Lines(
    "runs.checkpoint_id is null",
    """case when runs.locked_version is null then $7::text is not null and exists (
                select from tasks where tasks.environment_id = runs.environment_id and tasks.version = $7
                    and tasks.id = runs.task_id)
            else runs.locked_version = any($8::text[]) end""",
)
_RESUMED = _Lines(
    "runs.checkpoint_id is not null and runs.image_store_id = $7",
    """not exists (select from checkpoints join refusals on refusals.image_id = checkpoints.image_id
                   where checkpoints.id = runs.checkpoint_id and refusals.fitness = $8)""",
)


class Lines:
    """What a worker can do of what is queued: runs to restore, or runs to start. The caller has the environment's turn."""

    def __init__(
        self, lines: _Lines, kind: str, environment: Environment, turn: Turn, presets: set[str], who: list[Any]
    ):
        self._lines, self._kind, self._environment, self._turn = lines, kind, environment, turn
        self._presets, self._who = presets, who

    @classmethod
    def to_restore(
        cls, environment: Environment, turn: Turn, presets: set[str], store_id: str, fitness: str
    ) -> "Lines":
        """Runs of these presets whose checkpoints are in that store, and that no worker of that fitness has refused."""
        return cls(_RESUMED, "resumed", environment, turn, presets, [store_id, fitness])

    @classmethod
    async def to_start(
        cls, tx: Transaction, environment: Environment, turn: Turn, presets: set[str], versions: list[str]
    ) -> "Lines":
        """Runs of these presets that a worker with these versions can start."""
        current = environment.current_version if environment.current_version in versions else None
        if presets and current is None and not await _is_locked_to(tx, environment.id, versions):
            presets = set()
        return cls(_FRESH, "fresh", environment, turn, presets, [current, versions])

    async def next(self, tx: Transaction, room: Room, most: int) -> list[Run]:
        """The next ones, locked, and their room taken: at most so many, and no more than fit."""
        now = self._presets & room.fits
        if most < 1 or not now:
            return []
        rows = await self._ask(tx, self._lines.next, most, now, now | (self._presets & room.later))
        runs = room.take([Run.of(row) for row in rows])
        if runs:
            await self.served(tx, runs[-1])
        return runs

    async def served(self, tx: Transaction, last: Run) -> None:
        """The next hand-out begins behind the line that gave this one."""
        await tx.execute(
            f"update turns set {self._kind}_queue = $2, {self._kind}_key = $3 where environment_id = $1",
            self._environment.id,
            last.queue,
            last.concurrency_key,
        )

    async def longing(self, tx: Transaction, room: Room, since: datetime) -> str | None:
        """A run that has been queued since then, or for longer, and is kept from this worker by nothing but room."""
        later = self._presets & room.later
        if not later:
            return None
        rows = await self._ask(tx, self._lines.longing, 1, later, later | (self._presets & room.fits), since)
        return rows[0]["id"] if rows else None

    async def one(self, tx: Transaction, room: Room, run_id: str) -> Run | None:
        """That run, locked, if it is the first of one of these lines, and nothing but room keeps it from this worker."""
        could = sorted(self._presets & (room.fits | room.later))
        if not could:
            return None
        rows = await self._ask(tx, self._lines.one, 1, could, could, run_id)
        return Run.of(rows[0]) if rows else None

    async def _ask(self, tx: Transaction, query: str, most: int, walked: Any, could: Any, *more: Any) -> list[Any]:
        place = self._turn.resumed if self._kind == "resumed" else self._turn.fresh
        return await tx.fetch(
            query, self._environment.id, *place, most, sorted(walked), sorted(could), *self._who, *more
        )


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
