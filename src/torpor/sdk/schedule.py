"""`@schedule`: the clock triggers a task. What it declares travels with the version; the server keeps the time."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar
from zoneinfo import ZoneInfo

from torpor.cron import Pattern, Window
from torpor.errors import PayloadError
from torpor.wire.runner import ScheduleManifest

if TYPE_CHECKING:
    from torpor.sdk.task import Task

TaskT = TypeVar("TaskT", bound="Task[..., Any]")


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.title() for word in rest)


@dataclass(frozen=True)
class ScheduleTick:
    """What a scheduled task is given: which instant this is.

    Attributes:
        timestamp: the instant that the pattern names, in UTC, however late or far into the window the run starts.
        timezone: the schedule's zone.
        schedule_id: which schedule.
        last_timestamp: the tick before, if that became a run.
        external_id: as given to `Client.create_schedule`, such as whose schedule it is.
        upcoming: the next five ticks.

    Example:
        >>> from torpor import ScheduleTick, schedule, task
        >>> @schedule("0 7 * * MON-FRI", tz="Europe/Berlin")
        ... @task
        ... def digest(tick: ScheduleTick) -> str:
        ...     return f"the news of {tick.local:%A}"
        >>> digest(ScheduleTick(datetime(2026, 3, 30, 5, tzinfo=UTC), "Europe/Berlin"))  # in a unit test
        'the news of Monday'
    """

    timestamp: datetime
    timezone: str = "UTC"
    schedule_id: str = "sched_1234"
    last_timestamp: datetime | None = None
    external_id: str | None = None
    upcoming: list[datetime] = field(default_factory=list)

    # In payloads the names are those of the management API.
    __pydantic_config__: ClassVar[Any] = {
        "alias_generator": _camel,
        "populate_by_name": True,
        "json_schema_extra": {"description": "A tick of a schedule."},
    }

    @property
    def local(self) -> datetime:
        """`timestamp` as clocks in the schedule's zone show it."""
        return self.timestamp.astimezone(ZoneInfo(self.timezone))


def schedule(
    cron: str,
    *,
    tz: str = "UTC",
    window: str | float | timedelta | None = None,
    catch_up: Literal["none", "last", "all"] = "last",
) -> Callable[[TaskT], TaskT]:
    """Let the clock trigger a task. Stands above `@task`; the task takes a `ScheduleTick`, or nothing.

    Args:
        cron: minute, hour, day of month, month, day of week; or six fields with seconds first.
        tz: the IANA zone in which the pattern is meant.
        window: spread ticks over this much time, so that not everything happens on the hour: `"30m"`, or `"10%"` of the
            time until the next one. Each schedule has its own place in it. Default: exactly on time.
        catch_up: what becomes of ticks that came while no server was there: `"none"`, the `"last"` one, or `"all"`.

    Raises:
        ValueError: a pattern, zone, window or policy that can't be used; the message says why.
        TypeError: what stands below is no task, has a schedule already, or takes something else.

    Example:
        >>> from torpor import schedule, task
        >>> @schedule("*/30 * * * * *", window="5s")
        ... @task
        ... async def refresh() -> None: ...
        >>> @schedule("61 7 * * MON-FRI")
        ... @task
        ... async def digest() -> None: ...
        Traceback (most recent call last):
        ValueError: Invalid cron expression: '61 7 * * MON-FRI' (field minute: 61 is more than 59)
    """
    pattern = Pattern.read(cron, tz)
    if pattern.next(datetime.now(UTC)) is None:
        raise ValueError(f"Invalid cron expression: {cron!r} (it never comes true)")
    if isinstance(window, timedelta):
        window = window.total_seconds()
    window_text = window if window is None or isinstance(window, str) else f"{window:g}s"
    Window.read(window_text)
    if catch_up not in ("none", "last", "all"):
        raise ValueError(f"catch_up={catch_up!r} is not one of none, last, all")
    declared = ScheduleManifest(pattern.cron, pattern.timezone, window_text, catch_up)

    def declare(task: TaskT) -> TaskT:
        from torpor.sdk.task import Task

        if not isinstance(task, Task):
            raise TypeError(f"@schedule stands above @task, so that it has a task to schedule; this is {task!r}")
        if task.schedule is not None:
            raise TypeError(f"task {task.id!r} has two @schedule: make further ones with Client.create_schedule")
        if task.signature.rule == "named":
            _check_callable_with_nothing(task)
        task.schedule = declared
        return task

    return declare


def check_signature(task: "Task[..., Any]") -> None:
    """Can the clock trigger it? For those who have loaded pydantic anyway.

    Raises:
        TypeError: it takes neither a tick nor nothing.
    """
    tick = b'{"timestamp": "2026-03-30T05:00:00Z", "timezone": "UTC", "scheduleId": "sched_1234", "upcoming": []}'
    if task.signature.rule == "one":
        try:
            task.signature.read(tick)
        except PayloadError:
            _check_callable_with_nothing(task)


def _check_callable_with_nothing(task: "Task[..., Any]") -> None:
    try:
        task.signature.read(b"null")
    except PayloadError:
        raise TypeError(
            f"task {task.id!r} has a @schedule: it should take one parameter, a ScheduleTick, or be callable with nothing"
        ) from None
