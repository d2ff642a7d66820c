"""What has become of the runs of a period, as bars: above the list of runs.

What is over stays as it is. So of runs that are over, each bar is counted once, and again only when one of its others has
ended since, which the count of those tells: they are few, and are counted each time. The counts go along an index, but all of
it that is in the period: so no answer waits longer for them than BUDGET_S, begins with the newest bars, and says how far it
came; the part asks again at once, until the chart is whole.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import monotonic

from starlette.datastructures import QueryParams

from torpor.dashboard.shared import remembered, shared
from torpor.dashboard.states import LOOKS, TONES
from torpor.durations import parse_duration
from torpor.engine.read_counts import Bucket, run_counts
from torpor.engine.states import ENDS, RunState
from torpor.server.hub import Hub
from torpor.store.database import Transaction

PERIODS = {
    "1h": ("hour", timedelta(minutes=1)),
    "24h": ("24 hours", timedelta(minutes=30)),
    "7d": ("7 days", timedelta(hours=4)),
    "30d": ("30 days", timedelta(hours=12)),
}
"""What can be chosen: what it is called, and how long a bar is then."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BUDGET_S = 0.05
AT_ONCE = 4
"""So many bars are counted in one statement."""
MEMORY_S = 600.0
"""After so long a bar is counted again in any case: runs are deleted, too."""


@dataclass(frozen=True, slots=True)
class Bar:
    """What was made in a stretch of time: parts from the bottom up, as (tone, y, height) of a chart that is 100 high."""

    x: int
    since: datetime
    until: datetime
    counts: dict[str, int]
    parts: list[tuple[str, float, float]]


@dataclass(frozen=True, slots=True)
class Ended:
    """The runs of a bar that were over when it was counted, and how many were not."""

    at: float  # monotonic
    states: dict[RunState, int]
    living: int


@dataclass(frozen=True, slots=True)
class Chart:
    """`counted_to`: older bars are yet to be counted; None: it is whole."""

    bars: list[Bar]
    totals: dict[str, int]  # by tone
    tallest: int
    period: str
    counted_to: datetime | None
    ended: dict[datetime, Ended]


async def chart(here: Hub, environment_id: str, query: QueryParams, now: datetime) -> Chart:
    """Of the period and the tasks that are asked for."""
    period = query.get("period") if query.get("period") in PERIODS else "24h"
    assert period is not None
    task_ids = sorted(value for value in query.getlist("task") if value)
    key = ("chart", environment_id, period, *task_ids)
    before: Chart | None = remembered(here, key)

    async def make() -> Chart:
        async with here.database.transaction() as tx:
            return await _counted(tx, environment_id, period, task_ids or None, now, before.ended if before else {})

    return await shared(here, key, make, may_age=True)


async def _counted(
    tx: Transaction,
    environment_id: str,
    period: str,
    task_ids: list[str] | None,
    now: datetime,
    known: dict[datetime, Ended],
) -> Chart:
    bucket = PERIODS[period][1]
    since = now - parse_duration(period)
    since -= (since - EPOCH) % bucket

    async def count(since: datetime, until: datetime, are_over: bool) -> list[Bucket]:
        states = [state for state in RunState if (state in ENDS) is are_over]
        return await run_counts(
            tx, environment_id, since=since, until=until, bucket=bucket, task_ids=task_ids, states=states
        )

    living = await count(since, now, False)
    began = monotonic()
    ended: dict[datetime, Ended] = {}
    stale: list[Bucket] = []
    for each in living:
        found = known.get(each.since)
        if found is not None:
            ended[each.since] = found
        is_open = each.since + bucket > now
        if found is None or is_open or found.living != _sum(each) or began - found.at > MEMORY_S:
            stale.append(each)
    steps = 0
    while stale:
        # The newest that are left, as far as they stand side by side.
        some = [stale.pop()]
        while stale and len(some) < AT_ONCE and stale[-1].since + bucket == some[-1].since:
            some.append(stale.pop())
        over = await count(some[-1].since, some[0].since + bucket, True)
        for each, of_bar in zip(reversed(some), over, strict=True):
            ended[each.since] = Ended(monotonic(), of_bar.states, _sum(each))
        steps += 1
        if steps > 1 and monotonic() - began > BUDGET_S:  # the first is for the bar that is open, each time anew
            break
    return _drawn(living, ended, bucket, period)


def _sum(bucket: Bucket) -> int:
    return sum(bucket.states.values())


def _drawn(living: list[Bucket], ended: dict[datetime, Ended], bucket: timedelta, period: str) -> Chart:
    by_tone: list[dict[str, int]] = []
    for each in living:
        counts = dict.fromkeys(TONES, 0)
        over = ended[each.since].states if each.since in ended else {}
        for state, count in (each.states | over).items():
            counts[LOOKS[state].tone] += count
        by_tone.append(counts)
    tallest = max((sum(counts.values()) for counts in by_tone), default=0)
    bars = [
        Bar(x, each.since, each.since + bucket, counts, _stacked(counts, tallest))
        for x, (each, counts) in enumerate(zip(living, by_tone, strict=True))
    ]
    missing = [each.since for each in living if each.since not in ended]
    totals = {tone: sum(counts[tone] for counts in by_tone) for tone in TONES}
    return Chart(bars, totals, tallest, period, missing[-1] + bucket if missing else None, ended)


def _stacked(counts: dict[str, int], tallest: int) -> list[tuple[str, float, float]]:
    parts: list[tuple[str, float, float]] = []
    top = 100.0
    for tone in reversed(TONES):  # what is over lies at the bottom
        if counts[tone]:
            height = max(1.5, 100 * counts[tone] / tallest)
            top -= height
            parts.append((tone, top, height))
    return parts
