"""The tasks of the current version: where each stands in the code, what its runs do now, and what became of them in a day."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from torpor.dashboard.page import part, render
from torpor.dashboard.shared import shared
from torpor.dashboard.states import LOOKS
from torpor.engine import RunFilter, RunState, read, read_tasks
from torpor.engine.near import near
from torpor.engine.pages import Page
from torpor.engine.read_tasks import Doings
from torpor.server import auth
from torpor.server.errors import Refused
from torpor.server.hub import Hub, hub
from torpor.store.records import Task

BUCKETS, BUCKET = 24, timedelta(hours=1)
RECENT = 10


@dataclass(frozen=True, slots=True)
class Line:
    """A small chart: one bar for an hour, as (x, y, height of what has completed, height of what has not), 20 high."""

    bars: list[tuple[int, float, float, float]]
    completed: int
    failed: int


@dataclass(frozen=True, slots=True)
class Row:
    """A task, and what there is to tell of it in a line."""

    task: Task
    crons: list[str]
    doings: Doings
    line: Line
    is_paused: bool = False

    @property
    def summary(self) -> str | None:
        """The first line of its docstring."""
        return self.task.doc.strip().partition("\n")[0] if self.task.doc else None

    @property
    def now(self) -> list[tuple[str, str, int, list[str]]]:
        """What its runs do: (tone, word, how many, states that mean it), without what none does."""
        counts: dict[str, int] = {}
        for state, count in self.doings.living.items():
            counts[LOOKS[state].tone] = counts.get(LOOKS[state].tone, 0) + count
        return [
            (tone, word, counts[tone], [state.value for state in RunState if LOOKS[state].tone == tone])
            for tone, word in (
                ("running", "running"),
                ("frozen", "frozen"),
                ("waiting", "waiting"),
                ("queued", "queued"),
            )
            if counts.get(tone)
        ]


async def show(request: Request) -> Response:
    """All of them, or those whose name, file or docstring has what is searched for."""
    here, environment_id = hub(request), auth.environment(request).id
    searched = request.query_params.get("q", "").strip()
    rows = await _rows(here, environment_id)
    fitting = [row for row in rows if _fits(row.task, searched)] if searched else rows
    block = "table" if part(request) == "tasks" else None
    return render(request, "tasks.html", block=block, rows=fitting, count=len(rows), searched=searched)


def _fits(task: Task, searched: str) -> bool:
    text = "\n".join((task.id, task.file, task.doc or "")).lower()
    return all(word in text for word in searched.lower().split())


async def one(request: Request) -> Response:
    """A task: what it takes, how it is run, its versions, its newest runs."""
    here, environment_id = hub(request), auth.environment(request).id
    task_id: str = request.path_params["task_id"]
    (row,) = await _rows(here, environment_id, await known(here, environment_id, task_id))
    async with here.database.transaction() as tx:
        recent = await read.runs(tx, environment_id, RunFilter(task_ids=[task_id]), Page(RECENT))
        versions = await read_tasks.task_versions(tx, environment_id, task_id)
        machines = await read_tasks.preset_names(tx, environment_id)
    values: dict[str, Any] = {
        "row": row,
        "task": row.task,
        "recent": recent.items,
        "versions": versions,
        "default_machine": machines[0] if machines else None,
    }
    return render(request, "task.html", block="doings" if part(request) == "doings" else None, **values)


async def known(here: Hub, environment_id: str, task_id: str) -> Task:
    """The task as the current version has it; 404 with names that are like it."""
    async with here.database.transaction() as tx:
        task = await read.task(tx, environment_id, task_id)
        names = [] if task else [each.id for each in await read.tasks(tx, environment_id)]
    if task is None:
        alike = near(task_id, names)
        hint = f" Did you mean {', '.join(alike)}?" if alike else ""
        raise Refused(404, f"The current version has no task {task_id[:200]}.{hint}")
    return task


async def _rows(here: Hub, environment_id: str, only: Task | None = None) -> list[Row]:

    async def make() -> list[Row]:
        since = here.clock.now().replace(minute=0, second=0, microsecond=0) - BUCKET * (BUCKETS - 1)
        async with here.database.transaction() as tx:
            tasks = [only] if only else await read.tasks(tx, environment_id)
            crons = await read_tasks.crons(tx, environment_id)
            paused = await read_tasks.paused_queues(tx, environment_id)
            found = await read_tasks.doings(
                tx, environment_id, [task.id for task in tasks], since=since, bucket=BUCKET, buckets=BUCKETS
            )
        return [
            Row(
                task,
                crons.get(task.id, []),
                found[task.id],
                _line(found[task.id]),
                is_paused=(task.queue or f"task/{task.id}") in paused,
            )
            for task in tasks
        ]

    return await shared(here, ("tasks", environment_id, only.id if only else None), make, may_age=True)


def _line(doings: Doings) -> Line:
    """Completed below, failed above it. What was canceled is neither."""
    counts = [
        tuple(
            sum(count for state, count in each.items() if LOOKS[state].tone == tone) for tone in ("completed", "failed")
        )
        for each in doings.ends
    ]
    tallest = max((sum(each) for each in counts), default=0)
    bars: list[tuple[int, float, float, float]] = []
    for x, (completed, failed) in enumerate(counts):
        if completed + failed:
            good, bad = (max(1.5, 20 * count / tallest) if count else 0.0 for count in (completed, failed))
            bars.append((x, 20 - good - bad, good, bad))
    return Line(bars, sum(good for good, _ in counts), sum(bad for _, bad in counts))
