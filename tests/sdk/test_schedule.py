"""`@schedule` above `@task`, and the tick that the task gets."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from torpor import ScheduleTick, schedule, task
from torpor.cron import Pattern
from torpor.errors import PayloadError
from torpor.wire.runner import ScheduleManifest


def test_a_declared_schedule_travels_with_the_task() -> None:
    """C1: pattern, zone, window and policy are in the task's manifest."""

    @schedule("0 7 * * mon-fri", tz="Europe/Berlin", window="10m", catch_up="all")
    @task
    async def digest(tick: ScheduleTick) -> None: ...

    assert digest.manifest().schedule == ScheduleManifest("0 7 * * MON-FRI", "Europe/Berlin", "10m", "all")

    @task
    def plain() -> None: ...

    assert plain.manifest().schedule is None


def test_the_task_stays_what_it_is() -> None:
    """C1: it can be called, and triggered."""

    @schedule("@daily")
    @task
    def count(tick: ScheduleTick) -> int:
        return len(tick.upcoming)

    assert count(ScheduleTick(datetime(2026, 1, 1, tzinfo=UTC))) == 0
    assert count.id == "count"


@pytest.mark.parametrize(
    ("window", "text"), [(90, "90s"), (timedelta(minutes=5), "300s"), ("10%", "10%"), (None, None)]
)
def test_a_window_as_people_write_it(window: Any, text: str | None) -> None:
    """C5: text, seconds, a timedelta, a percentage, or none."""

    @schedule("@daily", window=window)
    @task
    def nightly() -> None: ...

    assert nightly.schedule == ScheduleManifest("0 0 * * *", "UTC", text, "last")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"cron": "61 * * * *"}, "field minute: 61 is more than 59"),
        ({"cron": "0 0 */15 * MON#4"}, "it never comes true"),
        ({"tz": "Europe/Berln"}, "did you mean Europe/Berlin?"),
        ({"window": "2d"}, "longer than 24h"),
        ({"window": "soon"}, "is not a duration"),
        ({"catch_up": "some"}, "not one of none, last, all"),
    ],
)
def test_what_cannot_be_is_refused_where_it_stands(arguments: dict[str, Any], told: str) -> None:
    """C1: at import, with the reason."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        schedule(**{"cron": "@daily", **arguments})
    assert told in str(caught.value)


def test_it_stands_above_a_task_once() -> None:
    with pytest.raises(TypeError, match="stands above @task"):

        @schedule("@daily")  # pyright: ignore[reportArgumentType]
        def plain() -> None: ...

    with pytest.raises(TypeError, match="has two @schedule"):

        @schedule("@daily")
        @schedule("@hourly")
        @task
        def twice() -> None: ...


def test_a_task_that_needs_something_else_cannot_be_scheduled() -> None:
    """C1: it takes a tick, or can do without."""
    with pytest.raises(TypeError, match="should take one parameter, a ScheduleTick, or be callable with nothing"):

        @schedule("@daily")
        @task
        def area(width: float, height: float) -> float:
            return width * height

    @schedule("@daily")
    @task
    def greet(name: str) -> None: ...

    with pytest.raises(TypeError, match="task 'greet' has a @schedule"):
        greet.manifest()

    @schedule("@daily")
    @task
    def report(days: int = 7, title: str = "") -> None: ...

    @schedule("@daily")
    @task
    def recent(days: int = 7) -> None: ...

    @schedule("@daily")
    @task
    def anything(tick: Any) -> None: ...

    for each in (report, recent, anything):
        assert each.manifest().schedule


def test_a_tick_comes_in_the_words_of_the_api() -> None:
    """C4: timestamp, lastTimestamp, timezone, scheduleId, externalId, upcoming."""

    @task
    def digest(tick: ScheduleTick) -> None: ...

    upcoming = Pattern.read("0 7 * * *", "Asia/Tokyo").upcoming(datetime(2026, 3, 1, tzinfo=UTC))
    payload = msgspec.json.encode(
        {
            "type": "IMPERATIVE",
            "timestamp": "2026-02-28T22:00:00Z",
            "lastTimestamp": "2026-02-27T22:00:00Z",
            "timezone": "Asia/Tokyo",
            "scheduleId": "sched_1",
            "externalId": "user_1",
            "upcoming": upcoming,
        }
    )
    tick = digest.signature.read(payload)["tick"]
    assert tick == ScheduleTick(
        timestamp=datetime(2026, 2, 28, 22, tzinfo=UTC),
        timezone="Asia/Tokyo",
        schedule_id="sched_1",
        last_timestamp=datetime(2026, 2, 27, 22, tzinfo=UTC),
        external_id="user_1",
        upcoming=upcoming,
    )
    assert tick.local.isoformat() == "2026-03-01T07:00:00+09:00"
    written = digest.signature.write((tick,), {})
    assert written is not None
    assert digest.signature.read(written)["tick"] == tick
    with pytest.raises(PayloadError):
        digest.signature.read(b'{"timestamp": "soon"}')


def test_a_tick_costs_no_pydantic_where_tasks_are_triggered() -> None:
    """A web application that imports scheduled tasks loads what it uses."""
    script = (
        "import sys; from torpor import schedule, task, ScheduleTick\n"
        "@schedule('@daily')\n@task\ndef digest(tick: ScheduleTick) -> None: ...\n"
        "print('pydantic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
