"""Schedules and time zones: their types, and their routes."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from torpor.server.described.operation import (
    NUMBERED,
    Answer,
    Body,
    Flag,
    Given,
    Instant,
    Operation,
    PageNumber,
    Parameter,
    Resource,
    Shape,
)
from torpor.server.described.run_types import Cron


class ChangedSchedule(Given):
    task: str
    cron: Annotated[str, Meta(description="Five fields: minute, hour, day, month, weekday.")]
    external_id: str | None = None
    timezone: Annotated[str, Meta(description="An IANA name; UTC unless it is given.")] | None = None
    window: Annotated[str, Meta(description="Runs are spread over so long, such as `10m`.")] | None = None
    catch_up: (
        Annotated[
            Literal["none", "last", "all"],
            Meta(description="Which of the ticks that were missed are made up for. Torpor's own."),
        ]
        | None
    ) = None


class NewSchedule(ChangedSchedule, kw_only=True):
    deduplication_key: Annotated[
        str, Meta(min_length=1, max_length=2048, description="The same key is the same schedule: it is changed.")
    ]


class EnvironmentOfSchedule(Shape):
    id: str
    type: str


class Schedule(Shape, kw_only=True):
    """`catchUp`, `upcoming`, `last…` and `problem…` are Torpor's own."""

    id: str
    type: Annotated[Literal["IMPERATIVE", "DECLARATIVE"], Meta(description="`DECLARATIVE`: declared in code.")]
    task: str
    active: bool
    deduplication_key: str | UnsetType = UNSET
    external_id: str | UnsetType = UNSET
    generator: Cron
    timezone: str
    window: str | UnsetType = UNSET
    next_run: Annotated[Instant, Meta(description="The instant that the pattern names.")] | UnsetType = UNSET
    next_run_effective_at: Annotated[Instant, Meta(description="The same, moved within the window.")] | UnsetType = (
        UNSET
    )
    environments: list[EnvironmentOfSchedule]
    catch_up: str
    upcoming: list[Instant]
    last_timestamp: Instant | UnsetType = UNSET
    last_run_id: str | UnsetType = UNSET
    problem: str | UnsetType = UNSET
    problem_at: Instant | UnsetType = UNSET


class SchedulePage(Shape):
    data: list[Schedule]
    pagination: PageNumber


class ScheduleId(Shape):
    id: str


class Timezones(Shape):
    timezones: list[str]


SCHEDULE = {
    "id": "sched_7r2m",
    "type": "IMPERATIVE",
    "task": "digest",
    "active": True,
    "deduplicationKey": "digest-ada",
    "externalId": "ada",
    "generator": {"type": "CRON", "expression": "0 7 * * MON-FRI", "description": "At 07:00 on Monday through Friday"},
    "timezone": "Europe/Berlin",
    "window": "10m",
    "nextRun": "2026-03-02T06:00:00Z",
    "nextRunEffectiveAt": "2026-03-02T06:03:12Z",
    "environments": [{"id": "env_1", "type": "DEVELOPMENT"}],
    "catchUp": "last",
    "upcoming": ["2026-03-02T06:00:00Z", "2026-03-03T06:00:00Z"],
}
ASKED = {
    "task": "digest",
    "cron": "0 7 * * MON-FRI",
    "deduplicationKey": "digest-ada",
    "timezone": "Europe/Berlin",
    "externalId": "ada",
    "window": "10m",
    "catchUp": "last",
}
WRONG = {422: "A field is wrong: `param` says which. Or the task is unknown: `near` names similar ones."}
NO_SCHEDULE = {404: "There is no such schedule."}
IN_CODE = {422: "It is declared in code: change it there."}

RESOURCE = Resource(
    "Schedules",
    "Runs by the clock. What they mean is in [schedules](schedules.md).",
    {
        "POST /api/v1/schedules": Operation(
            "createSchedule",
            "Make a schedule, or change it.",
            "The same `deduplicationKey` is the same schedule: what is left out is reset.",
            body=Body(NewSchedule, ASKED, is_required=True),
            answers={200: Answer("The schedule as it is then.", Schedule, SCHEDULE)},
            refusals=WRONG,
        ),
        "GET /api/v1/schedules": Operation(
            "listSchedules",
            "List schedules, newest first; 20 per page unless it is given.",
            query=NUMBERED,
            answers={
                200: Answer(
                    "A page of schedules.",
                    SchedulePage,
                    {"data": [SCHEDULE], "pagination": {"currentPage": 1, "totalPages": 1, "count": 1}},
                )
            },
        ),
        "GET /api/v1/schedules/{schedule_id}": Operation(
            "retrieveSchedule",
            "Look at a schedule.",
            answers={200: Answer("The schedule.", Schedule, SCHEDULE)},
            refusals=NO_SCHEDULE,
        ),
        "PUT /api/v1/schedules/{schedule_id}": Operation(
            "updateSchedule",
            "Change a schedule.",
            "What is left out is reset; its key stays as it is. One that is declared in code is 422.",
            body=Body(ChangedSchedule, {"task": "digest", "cron": "0 8 * * *"}, is_required=True),
            answers={200: Answer("The schedule as it is then.", Schedule, SCHEDULE)},
            refusals=NO_SCHEDULE | WRONG,
        ),
        "DELETE /api/v1/schedules/{schedule_id}": Operation(
            "deleteSchedule",
            "Delete a schedule; its runs stay.",
            answers={200: Answer("It is gone.", ScheduleId, {"id": "sched_7r2m"})},
            refusals=NO_SCHEDULE | IN_CODE,
        ),
        "POST /api/v1/schedules/{schedule_id}/activate": Operation(
            "activateSchedule",
            "Let a schedule tick again, from now on.",
            answers={200: Answer("The schedule as it is then.", Schedule, SCHEDULE)},
            refusals=NO_SCHEDULE,
        ),
        "POST /api/v1/schedules/{schedule_id}/deactivate": Operation(
            "deactivateSchedule",
            "Let a schedule rest until it is activated.",
            "One that is declared in code rests over new versions too.",
            answers={
                200: Answer("The schedule as it is then.", Schedule, SCHEDULE | {"active": False, "upcoming": []})
            },
            refusals=NO_SCHEDULE,
        ),
        "GET /api/v1/timezones": Operation(
            "listTimezones",
            "The time zones that a schedule may have.",
            query=(Parameter("excludeUtc", Flag, "Leaves UTC out.", "false"),),
            answers={200: Answer("UTC first.", Timezones, {"timezones": ["UTC", "Africa/Abidjan"]})},
        ),
    },
)
