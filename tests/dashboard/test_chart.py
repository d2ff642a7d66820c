"""The chart of runs over time: counted in steps, and what is over only once."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from history import Site
from starlette.datastructures import QueryParams

from torpor.dashboard import chart as module
from torpor.dashboard.chart import Chart, chart
from torpor.store.database import Database

pytestmark = pytest.mark.anyio


@pytest.fixture
async def here(site: Site, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A server's memory, which forgets what may age at once."""
    monkeypatch.setattr(module, "BUDGET_S", 0.0)
    monkeypatch.setattr("torpor.dashboard.shared.SHARE", 0)
    database = await Database.connect(site.database_url)
    yield SimpleNamespace(database=database, shown={})
    await database.close()


async def whole(here: Any, environment_id: str, now: datetime) -> Chart:
    """As it is when it was asked for until it was whole."""
    found = await chart(here, environment_id, QueryParams("period=24h"), now)
    while found.counted_to is not None:
        before = found.counted_to
        found = await chart(here, environment_id, QueryParams("period=24h"), now)
        assert found.counted_to is None or found.counted_to < before
    return found


async def test_a_chart_is_counted_from_its_newest_bar_back_and_then_only_where_something_has_ended(
    site: Site, here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, environment_id = datetime.now(UTC), str(await site.database.fetchval("select id from environments"))
    first = await chart(here, environment_id, QueryParams("period=24h"), now)
    assert first.counted_to == first.bars[-2 * module.AT_ONCE].since
    full = await whole(here, environment_id, now)
    counted = await site.database.fetch(
        "select state, count(*) from runs where created_at >= $1 and hook is null group by state", full.bars[0].since
    )
    assert sum(full.totals.values()) == sum(row["count"] for row in counted)
    assert full.totals["completed"] == next(row["count"] for row in counted if row["state"] == "completed")

    asked: list[datetime] = []
    original = module.run_counts

    async def run_counts(*values: Any, since: datetime, **named: Any) -> Any:
        asked.append(since)
        return await original(*values, since=since, **named)

    monkeypatch.setattr(module, "run_counts", run_counts)
    monkeypatch.setattr(module, "BUDGET_S", 60.0)
    run_id = await site.database.fetchval("select id from runs where state = 'delayed' order by created_at limit 1")
    made_at = now - timedelta(hours=12)
    await site.database.execute("update runs set created_at = $2 where id = $1", run_id, made_at)
    moved = await whole(here, environment_id, now)
    assert moved.totals == full.totals
    asked.clear()
    await site.database.execute("update runs set state = 'canceled', finished_at = $2 where id = $1", run_id, now)
    ended = await whole(here, environment_id, now)
    assert ended.totals["canceled"] == full.totals["canceled"] + 1
    bar = next(bar for bar in ended.bars if bar.since <= made_at < bar.until)
    # What lives in all of it, the bar that is open, and the one in which a run has ended.
    assert sorted(asked) == sorted([ended.bars[0].since, ended.bars[-1].since, bar.since])
