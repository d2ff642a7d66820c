"""Schedules: clocks that trigger a task."""

from datetime import timedelta
from typing import Literal

import msgspec

from torpor.sdk.calls.call import Call, Json, duration, get, post, present, segment
from torpor.sdk.calls.doors import asked, listed
from torpor.sdk.calls.listings import Listing, Numbered


class Schedules:
    @asked
    def create_schedule(
        self,
        task_id: str,
        cron: str,
        *,
        deduplication_key: str,
        tz: str | None = None,
        external_id: str | None = None,
        window: str | float | timedelta | None = None,
        catch_up: Literal["none", "last", "all"] | None = None,
    ) -> Call[Json]:
        """Let the clock trigger a task. The same deduplication key changes the schedule that has it.

        Args:
            task_id: a task that takes a `ScheduleTick`, or nothing.
            cron: five fields, or six with seconds first.
            deduplication_key: the schedule's name, so that making it again makes no second one.
            tz: an IANA zone; default: UTC.
            external_id: given to the task with each tick, such as whose schedule it is.
            window: spread ticks over this much time, `"30m"` or `"10%"` of the time between them; default: exact.
            catch_up: what becomes of ticks that came while no server was there: `"none"`, `"last"` (the default) or `"all"`.

        Raises:
            Unprocessable: a field is wrong, or there is no such task; `error.message` says which and why.
        """
        fields = {"task": task_id, "cron": cron, "deduplication_key": deduplication_key, "tz": tz}
        fields |= {"external_id": external_id, "window": window, "catch_up": catch_up}
        return _write("POST", "/api/v1/schedules", fields)

    @asked
    def update_schedule(
        self,
        schedule_id: str,
        task_id: str,
        cron: str,
        *,
        tz: str | None = None,
        external_id: str | None = None,
        window: str | float | timedelta | None = None,
        catch_up: Literal["none", "last", "all"] | None = None,
    ) -> Call[Json]:
        """Change a schedule. What is left out is reset, as in `create_schedule`."""
        fields = {"task": task_id, "cron": cron, "tz": tz}
        fields |= {"external_id": external_id, "window": window, "catch_up": catch_up}
        return _write("PUT", _path(schedule_id), fields)

    @asked
    def schedule(self, schedule_id: str) -> Call[Json]:
        """One schedule, with its next five ticks."""
        return get(_path(schedule_id))

    @listed
    def schedules(self) -> Listing:
        """All schedules, newest first; also those that are declared in code."""
        return Numbered("/api/v1/schedules")

    @asked
    def delete_schedule(self, schedule_id: str) -> Call[Json]:
        """Remove a schedule; its runs stay."""
        return Call("DELETE", _path(schedule_id))

    @asked
    def activate_schedule(self, schedule_id: str) -> Call[Json]:
        """Let a schedule tick again, from now on."""
        return post(_path(schedule_id) + "/activate")

    @asked
    def deactivate_schedule(self, schedule_id: str) -> Call[Json]:
        """Put a schedule to rest until it is activated."""
        return post(_path(schedule_id) + "/deactivate")

    @asked
    def timezones(self) -> Call[list[str]]:
        """The IANA zones that the server knows."""
        return get("/api/v1/timezones").part("timezones")


def _write(method: str, path: str, fields: Json) -> Call[Json]:
    """Make (POST) or change (PUT) a schedule."""
    names = {
        "deduplication_key": "deduplicationKey",
        "external_id": "externalId",
        "tz": "timezone",
        "catch_up": "catchUp",
    }
    body = {names.get(name, name): value for name, value in present(fields).items()}
    body["window"] = duration(body.get("window"))
    return Call(method, path, body=msgspec.json.encode(body))


def _path(schedule_id: str) -> str:
    return f"/api/v1/schedules/{segment(schedule_id)}"
