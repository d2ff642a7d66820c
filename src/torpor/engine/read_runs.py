"""List runs, newest first, by whatever they are looked for with. Writes nothing.

A page must be quick in a history of millions, also when what fits is rare or old. So each filter has an index in the
order of the list, and the statement goes along it: for each value its newest runs, merged. Further filters are looked at
on the way: of several, one that leaves few is gone along.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime

from torpor.engine.pages import FIRST, Conditions, Listing, Page, listing, order, place
from torpor.engine.states import STATUS, RunState
from torpor.store.database import Transaction
from torpor.store.records import Run

MIN_SEARCHED_ID = len("run_") + 2
"""Characters from which on ids are searched by their beginning: what is shorter would fit too many."""
MAX_SEARCHED_TASKS = 100
FEW = 10_000
"""Of several filters, one that leaves fewer runs is gone along: so many are looked at in some hundredths of a second."""

Found = set[tuple[datetime, str]]


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs; what is not set doesn't filter. Of several values any, of several filters all must fit."""

    status: list[str] | None = None  # public names, see states.STATUS
    states: list[RunState] | None = None  # the same, told more exactly
    task_ids: list[str] | None = None
    versions: list[str] | None = None
    tags: list[str] | None = None
    is_test: bool | None = None
    presets: list[str] | None = None
    regions: list[str] | None = None  # values of the label `region` of their presets
    queues: list[str] | None = None  # whole names: `task/<task>`, or a declared one's
    batch_id: str | None = None  # also runs that an item of the batch has joined
    schedule_ids: list[str] | None = None
    bulk_id: str | None = None  # those that the bulk action canceled, or made
    search: str | None = None  # the beginning of an id or of a task's name, or a whole tag
    created_from: datetime | None = None
    created_to: datetime | None = None


async def runs(
    tx: Transaction, environment_id: str, where: RunFilter = RunFilter(), page: Page = FIRST
) -> Listing[Run]:
    """Runs, newest first. Hooks are none: they are part of another run's story."""
    where = await with_presets(tx, environment_id, where)
    at = None
    if page.after is not None or page.before is not None:
        at = await place(tx, "runs", page)
        if at is None:
            return Listing([], None, None)
    walk = _Walk(tx, environment_id, where, page, at)
    found = await (walk.searched(where.search) if where.search else walk.found())
    ids = [id for _, id in sorted(found, reverse=page.before is None)[: page.size + 1]]
    rows = await tx.fetch("select * from runs where id = any($1::text[])", ids)
    by_id = {row["id"]: row for row in rows}
    return listing([by_id[id] for id in ids if id in by_id], page, Run.of)


async def with_presets(tx: Transaction, environment_id: str, where: RunFilter) -> RunFilter:
    """The same filter, its regions said by the presets that are there."""
    if where.regions is None:
        return where
    rows = await tx.fetch(
        "select name from presets where environment_id = $1 and labels ->> 'region' = any($2::text[])",
        environment_id,
        where.regions,
    )
    names = {row["name"] for row in rows}
    presets = names if where.presets is None else names & {*where.presets}
    return replace(where, regions=None, presets=sorted(presets))


def conditions(environment_id: str, where: RunFilter, *, without: Collection[str] = ()) -> Conditions:
    """All of a filter that has no regions left, as conditions on `runs`; without those of columns that are gone along."""
    made = Conditions(environment_id)
    made.parts.append("hook is null")
    for column, values in _columns(where).items():
        if column not in without:
            made.add(f"{column} = any({{}}::text[])", values)
    if where.is_test is not None:
        made.parts.append("is_test" if where.is_test else "not is_test")
    if where.batch_id is not None and "batch_id" not in without:
        made.add("(batch_id = {} or id in (select run_id from batch_items where batch_id = {}))", where.batch_id)
    if where.bulk_id is not None and "bulk_id" not in without:
        made.add("id in (select shown_id from bulk_runs where bulk_id = {} and shown_id is not null)", where.bulk_id)
    if where.tags is not None and "tags" not in without:
        made.parts.append("tags <> '{}'")  # the index has only those
        made.add("tags && {}::text[]", where.tags)
    made.add_if("created_at >= {}", where.created_from)
    made.add_if("created_at <= {}", where.created_to)
    return made


def _columns(where: RunFilter) -> dict[str, list[str]]:
    """What must have one of some values, by column."""
    states = where.states
    if where.status is not None:
        states = [state for state, name in STATUS.items() if name in where.status and (not states or state in states)]
    given = {
        "schedule_id": where.schedule_ids,
        "task_id": where.task_ids,
        "queue": where.queues,
        "version": where.versions,
        "state": states,
        "preset": where.presets,
    }
    return {column: values for column, values in given.items() if values is not None}


class _Walk:
    """One page's way through the runs. Each method finds up to a page and one more."""

    def __init__(
        self, tx: Transaction, environment_id: str, where: RunFilter, page: Page, at: tuple[datetime, str] | None
    ) -> None:
        self._tx = tx
        self._environment_id = environment_id
        self._where = where
        self._page = page
        self._at = at
        self._in_order = f"order by {order(page)} limit {page.size + 1}"

    async def found(self) -> Found:
        """Along the first filter that leaves few; where none does, along the one that is likely to leave least."""
        where, columns = self._where, _columns(self._where)
        if where.bulk_id is not None:
            return await self._of_bulk_action()
        if where.batch_id is not None:
            return await self._of_batch()
        ways: list[tuple[str, ...]] = [("schedule_id",)] if "schedule_id" in columns else []
        ways += [("tags",)] if where.tags is not None else []
        ways += [(column, "state") for column in ("task_id", "queue") if column in columns]
        ways += [(column,) for column in ("version", "state", "preset") if column in columns]
        for way in ways[: len(ways) * (len(ways) > 1)]:
            if await self._leaves_few(way):
                return await self._go(way)
        return await self._go(ways[0]) if ways else await self._newest(self._conditions())

    async def _leaves_few(self, way: tuple[str, ...]) -> bool:
        """Counted along the index, and no further than needed."""
        made = Conditions(self._environment_id)
        if way == ("tags",):
            each, at = f"unnest({made.value(self._where.tags)}::text[]) as wanted (tag)", "run_created_at"
            source, made.parts = "run_tags", ["environment = $1", "run_tags.tag = wanted.tag"]
        else:
            each, at = self._each_of(made, way), "created_at"
            source = "runs"
            made.parts.append("hook is null")
        counted = f"""select from {each} cross join lateral (
                          select from {source} where {" and ".join(made.parts)} order by {at} desc limit {FEW}) as run
                      limit {FEW}"""
        return (await self._tx.fetchval(f"select count(*) from ({counted}) as counted", *made.values) or 0) < FEW

    async def _go(self, way: tuple[str, ...]) -> Found:
        if way == ("tags",):
            return await self._tagged(self._where.tags or [], "tags")
        return await self._along(*way)

    async def searched(self, text: str) -> Found:
        """By the beginning of an id or of a task's name, or by a tag."""
        found: Found = set()
        if text.startswith("run_") and len(text) >= MIN_SEARCHED_ID:
            limits = self._conditions()
            limits.add("starts_with(id, {})", text)
            # Ids are of lower-case letters and digits, so these are limits in any collation.
            limits.add("id >= {}", text)
            limits.add("id < {}", text + "z" * 8)
            found |= await self._sorted(limits)
        tasks = await self._tx.fetch(
            "select distinct id from tasks where environment_id = $1 and starts_with(id, $2) limit $3",
            self._environment_id,
            text,
            MAX_SEARCHED_TASKS,
        )
        if task_ids := [
            row["id"] for row in tasks if self._where.task_ids is None or row["id"] in self._where.task_ids
        ]:
            found |= await self._with(task_ids=task_ids)._along("task_id", "state")
        return found | await self._tagged([text])

    def _with(self, **changes: list[str]) -> "_Walk":
        return _Walk(self._tx, self._environment_id, replace(self._where, **changes), self._page, self._at)

    def _conditions(self, *without: str) -> Conditions:
        made = conditions(self._environment_id, self._where, without=without)
        made.parts += self._beyond(made, "runs.created_at", "runs.id")
        return made

    def _beyond(self, made: Conditions, at: str, id: str) -> list[str]:
        """What lies beyond the cursor, by these columns."""
        if self._at is None:
            return []
        sign = ">" if self._page.before is not None else "<"
        return [f"({at}, {id}) {sign} ({made.value(self._at[0])}, {made.value(self._at[1])})"]

    def _here(self, made: Conditions, at: str, id: str) -> list[str]:
        """The same, and between which instants: for a table that has the order of the list, beside runs."""
        limits = ((">=", self._where.created_from), ("<=", self._where.created_to))
        between = [f"{at} {sign} {made.value(limit)}" for sign, limit in limits if limit is not None]
        return between + self._beyond(made, at, id)

    def _each_of(self, made: Conditions, columns: tuple[str, ...]) -> str:
        """Each combination of the values that these columns may have, and that a run has it."""
        wanted = _columns(self._where)
        values = [f"unnest({made.value(wanted.get(column, [*RunState]))}::text[])" for column in columns]
        made.parts += [f"runs.{column} = {column}s.value" for column in columns]
        return " cross join ".join(
            f"{value} as {column}s (value)" for column, value in zip(columns, values, strict=True)
        )

    async def _along(self, *columns: str) -> Found:
        """The index that begins with these columns, once for each combination of their values."""
        made = self._conditions(*columns)
        each = self._each_of(made, columns)
        return await self._fetch(
            f"""select created_at, id from {each} cross join lateral (
                    select created_at, id from runs where {" and ".join(made.parts)} {self._in_order}) as run
                {self._in_order}""",
            made,
        )

    async def _of_bulk_action(self) -> Found:
        made = self._conditions("bulk_id")
        made.add("bulk_id = {}", self._where.bulk_id)
        return await self._fetch(
            f"""select shown_at as created_at, shown_id as id from bulk_runs join runs on runs.id = bulk_runs.shown_id
                where {" and ".join(made.parts + self._here(made, "shown_at", "shown_id"))}
                {self._in_order}""",
            made,
        )

    async def _tagged(self, tags: list[str], *without: str) -> Found:
        """The list of each of these tags. A run may be in several."""
        made = self._conditions(*without)
        each = f"unnest({made.value(tags)}::text[])"
        here = ["environment = $1", "run_tags.tag = wanted.tag", *self._here(made, "run_created_at", "run_id")]
        return await self._fetch(
            f"""select distinct created_at, id from {each} as wanted (tag) cross join lateral (
                    select run_created_at as created_at, run_id as id from run_tags join runs on runs.id = run_tags.run_id
                    where {" and ".join(made.parts + here)} {self._in_order}) as run
                {self._in_order}""",
            made,
        )

    async def _of_batch(self) -> Found:
        """Those that its items have made, and those that they have joined."""
        own, joined = self._conditions("batch_id"), self._conditions("batch_id")
        own.add("batch_id = {}", self._where.batch_id)
        joined.add("id in (select run_id from batch_items where batch_id = {} and is_cached)", self._where.batch_id)
        return await self._newest(own) | await self._sorted(joined)

    async def _newest(self, made: Conditions) -> Found:
        """Along the list itself, or a part of it that has an index of its own."""
        return await self._fetch(
            f"select created_at, id from runs where {' and '.join(made.parts)} {self._in_order}", made
        )

    async def _sorted(self, made: Conditions) -> Found:
        """All that fit first, then their order: for what is found by an index without one."""
        return await self._fetch(
            f"""with fitting as materialized (select created_at, id from runs where {" and ".join(made.parts)})
                select created_at, id from fitting {self._in_order}""",
            made,
        )

    async def _fetch(self, query: str, made: Conditions) -> Found:
        return {(row["created_at"], row["id"]) for row in await self._tx.fetch(query, *made.values)}
