"""List runs, newest first, by whatever they are looked for with. Writes nothing.

A page must be quick in a history of millions, also when what fits is rare or old. So each filter has an index in the
order of the list, and the statement goes along it: for each value its newest runs, merged. Further filters are looked at
on the way: of several, one that leaves few is gone along. Where none does and what fits is rare, the way may be as long as
the history; a page for people goes it in steps then, and says where it stopped (`looked_at`).
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import datetime
from time import monotonic

from torpor.engine.pages import FIRST, Conditions, Listing, Page, listing, order, place
from torpor.engine.states import STATUS, RunState
from torpor.store.database import Transaction
from torpor.store.records import Run

MIN_SEARCHED_ID = len("run_") + 2
"""Characters from which on ids are searched by their beginning: what is shorter would fit too many."""
MAX_SEARCHED_TASKS = 100
FEW = 10_000
"""Of several filters, the one that leaves fewest runs is gone along, if it leaves fewer than these."""
STEPS = (500, 1500, 3000, 3000, 3000)
"""So many runs are looked at for a page that may stop, a step after the other: together more than FEW."""
PATIENCE_S = 0.06
"""No step is begun after that: looking at runs that lie far apart takes ten times as long as at those beside each other."""

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
    found, _ = await looked_for(tx, environment_id, where, page, may_stop=False)
    return found


async def looked_for(
    tx: Transaction, environment_id: str, where: RunFilter, page: Page, *, may_stop: bool = True
) -> tuple[Listing[Run], datetime | None]:
    """The same, but it may stop before the page is full. Then it says at which instant, and the list goes on from there: to
    older ones, or to newer ones where the page is read backwards."""
    where = await with_presets(tx, environment_id, where)
    at = None
    if page.after is not None or page.before is not None:
        at = await place(tx, "runs", page)
        if at is None:
            return Listing([], None, None), None
    walk = _Walk(tx, environment_id, where, page, at, may_stop)
    found = await (walk.searched(where.search) if where.search else walk.found())
    backwards = page.before is not None
    stopped = (min if backwards else max)(walk.stops, default=None)
    if stopped is not None:  # what is beyond it comes with the next page
        found = {each for each in found if (each <= stopped if backwards else each >= stopped)}
    ids = [id for _, id in sorted(found, reverse=not backwards)[: page.size + 1]]
    rows = await tx.fetch("select * from runs where id = any($1::text[])", ids)
    by_id = {row["id"]: row for row in rows}
    made = listing([by_id[id] for id in ids if id in by_id], page, Run.of)
    if stopped is None or len(ids) > page.size:
        return made, None
    on = {"previous": stopped[1]} if backwards else {"next": stopped[1]}
    return replace(made, **on), stopped[0]


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
        self,
        tx: Transaction,
        environment_id: str,
        where: RunFilter,
        page: Page,
        at: tuple[datetime, str] | None,
        may_stop: bool = False,
    ) -> None:
        self._tx = tx
        self._environment_id = environment_id
        self._where = where
        self._page = page
        self._at = at
        self._may_stop = may_stop
        self.stops: list[tuple[datetime, str]] = []
        """Where it stopped looking, on each way that it didn't go to its end."""
        self._in_order = f"order by {order(page)} limit {page.size + 1}"

    async def found(self) -> Found:
        """Along the filter that leaves fewest; where none leaves few, along the one that is likely to leave least."""
        where, columns = self._where, _columns(self._where)
        if where.bulk_id is not None:
            return await self._of_bulk_action()
        if where.batch_id is not None:
            return await self._of_batch()
        ways: list[tuple[str, ...]] = [("schedule_id",)] if "schedule_id" in columns else []
        ways += [("tags",)] if where.tags is not None else []
        ways += [(column, "state") for column in ("task_id", "queue") if column in columns]
        ways += [(column,) for column in ("version", "state", "preset") if column in columns]
        if not ways:
            return await self._newest(self._conditions())
        left = [await self._leaves(way) for way in ways] if len(ways) > 1 else [0]
        return await self._go(ways[left.index(min(left))])

    async def _leaves(self, way: tuple[str, ...]) -> int:
        """How many runs, but no more than FEW. Counted along the index."""
        made = Conditions(self._environment_id)
        if way == ("tags",):
            each, at = f"unnest({made.value(self._where.tags)}::text[]) as wanted (tag)", "run_created_at"
            source, made.parts = "run_tags", ["environment = $1", "run_tags.tag = wanted.tag"]
        else:
            (each, has), at, source = self._each_of(made, way), "created_at", "runs"
            made.parts += ["hook is null", *has]
        made.add_if(f"{at} >= {{}}", self._where.created_from)
        made.add_if(f"{at} <= {{}}", self._where.created_to)
        counted = f"""select from {each} cross join lateral (
                          select from {source} where {" and ".join(made.parts)} order by {at} desc limit {FEW}) as run
                      limit {FEW}"""
        return await self._tx.fetchval(f"select count(*) from ({counted}) as counted", *made.values) or 0

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
            walk = self._with(task_ids=task_ids)
            found |= await walk._along("task_id", "state")
            self.stops += walk.stops
        return found | await self._tagged([text])

    def _with(self, **changes: list[str]) -> "_Walk":
        where = replace(self._where, **changes)
        return _Walk(self._tx, self._environment_id, where, self._page, self._at, self._may_stop)

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
        """The same, and between which instants: for a table that has the order of the list."""
        limits = ((">=", self._where.created_from), ("<=", self._where.created_to))
        between = [f"{at} {sign} {made.value(limit)}" for sign, limit in limits if limit is not None]
        return between + self._beyond(made, at, id)

    def _may_be_long(self, *without: str) -> bool:
        """More is asked for than this way tells: what fits may be rare on it."""
        where = self._where
        others = {"tags": where.tags, "batch_id": where.batch_id, "bulk_id": where.bulk_id, "is_test": where.is_test}
        asked = {*_columns(where), *(name for name, value in others.items() if value is not None)}
        return self._may_stop and not asked <= {*without}

    async def _in_steps(self, near: Callable[[Conditions, int], str], *without: str) -> Found:
        """Of the `near` ones, so many in order from the cursor on, those that fit; then of the next ones, until there are enough
        for a page, or too many were looked at."""
        found: Found = set()
        begin, far = self._at, "created_at desc, id desc" if self._page.before is not None else "created_at, id"
        end = monotonic() + PATIENCE_S
        for count in STEPS:
            made = conditions(self._environment_id, self._where, without=without)
            fits = " and ".join(made.parts)
            # A lookup for each, whatever the planner thinks of how many there are.
            rows = await self._tx.fetch(
                f"""with near as materialized ({near(made, count)})
                    select near.created_at, near.id, true as fits from near cross join lateral (
                        select from runs where runs.id = near.id and {fits} offset 0) as run
                    union all
                    (select created_at, id, false from near where (select count(*) from near) = {count}
                     order by {far} limit 1)""",
                *made.values,
            )
            found |= {(row["created_at"], row["id"]) for row in rows if row["fits"]}
            self._at = next(((row["created_at"], row["id"]) for row in rows if not row["fits"]), None)
            if self._at is None or len(found) > self._page.size or monotonic() > end:
                break
        if self._at is not None and len(found) <= self._page.size:
            self.stops.append(self._at)
        self._at = begin
        return found

    def _of_each(self, each: str, distinct: str, columns: str, source: str, parts: list[str], limit: int) -> str:
        """The newest of each, merged."""
        in_order = f"order by {order(self._page)} limit {limit}"
        return f"""select {distinct} created_at, id from {each} cross join lateral (
                       select {columns} from {source} where {" and ".join(parts)} {in_order}) as run {in_order}"""

    def _each_of(self, made: Conditions, columns: tuple[str, ...]) -> tuple[str, list[str]]:
        """Each combination of the values that these columns may have, and that a run has it."""
        wanted = _columns(self._where)
        values = [f"unnest({made.value(wanted.get(column, [*RunState]))}::text[])" for column in columns]
        each = [f"{value} as {column}s (value)" for column, value in zip(columns, values, strict=True)]
        return " cross join ".join(each), [f"runs.{column} = {column}s.value" for column in columns]

    async def _along(self, *columns: str) -> Found:
        """The index that begins with these columns, once for each combination of their values."""

        def near(made: Conditions, count: int) -> str:
            each, parts = self._each_of(made, columns)
            parts += ["environment_id = $1", "hook is null", *self._here(made, "runs.created_at", "runs.id")]
            return self._of_each(each, "", "created_at, id", "runs", parts, count)

        if self._may_be_long(*columns):
            return await self._in_steps(near, *columns)
        made = self._conditions(*columns)
        each, parts = self._each_of(made, columns)
        size = self._page.size + 1
        return await self._fetch(self._of_each(each, "", "created_at, id", "runs", made.parts + parts, size), made)

    async def _of_bulk_action(self) -> Found:
        def near(made: Conditions, count: int) -> str:
            parts = [f"bulk_id = {made.value(self._where.bulk_id)}", "shown_id is not null"]
            parts += self._here(made, "shown_at", "shown_id")
            return f"""select shown_at as created_at, shown_id as id from bulk_runs
                       where {" and ".join(parts)} order by {order(self._page)} limit {count}"""

        if self._may_be_long("bulk_id"):
            return await self._in_steps(near, "bulk_id")
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
        listed = "run_created_at as created_at, run_id as id"

        def parts(made: Conditions) -> list[str]:
            return ["environment = $1", "run_tags.tag = wanted.tag", *self._here(made, "run_created_at", "run_id")]

        def near(made: Conditions, count: int) -> str:
            each = f"unnest({made.value(tags)}::text[]) as wanted (tag)"
            return self._of_each(each, "distinct", listed, "run_tags", parts(made), count)

        if self._may_be_long(*without):
            return await self._in_steps(near, *without)
        made = self._conditions(*without)
        each = f"unnest({made.value(tags)}::text[]) as wanted (tag)"
        source, limit = "run_tags join runs on runs.id = run_tags.run_id", self._page.size + 1
        return await self._fetch(self._of_each(each, "distinct", listed, source, made.parts + parts(made), limit), made)

    async def _of_batch(self) -> Found:
        """Those that its items have made, and those that they have joined."""
        own, joined = self._conditions("batch_id"), self._conditions("batch_id")
        own.add("batch_id = {}", self._where.batch_id)

        def near(made: Conditions, count: int) -> str:
            parts = [f"batch_id = {made.value(self._where.batch_id)}", *self._here(made, "created_at", "id")]
            return f"select created_at, id from runs where {' and '.join(parts)} order by {order(self._page)} limit {count}"

        joined.add("id in (select run_id from batch_items where batch_id = {} and is_cached)", self._where.batch_id)
        is_long = self._may_be_long("batch_id")
        found = await (self._in_steps(near, "batch_id") if is_long else self._newest(own))
        return found | await self._sorted(joined)

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
