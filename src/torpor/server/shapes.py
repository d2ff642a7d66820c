"""A run as a row of ElectricSQL's shape protocol, as @electric-sql/client 1.0.14 reads it; and what its offsets say.

Every value is text or null, and a schema tells the client what the text means. Offsets are ours to write: the client gives
them back as they are, so they hold all that the server would otherwise have to remember (`Position`).

    <xmax>_<database>_<xmin>_<created from>[_<running>…][.<last run>]

A number that is still `running` is written as its distance from xmin. With a last run the answer was one page of many.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

import msgspec

from torpor.durations import write_duration
from torpor.engine.read_feeds import Seen
from torpor.engine.states import RunState
from torpor.server import offload
from torpor.server.render_runs import task_run_error
from torpor.store.records import Run

S = RunState

STATUS = {
    S.DELAYED: "DELAYED",
    S.PENDING_VERSION: "PENDING_VERSION",
    S.QUEUED: "PENDING",
    S.DEQUEUED: "DEQUEUED",
    S.EXECUTING: "EXECUTING",
    S.WAITING: "WAITING_TO_RESUME",
    S.SUSPENDED: "WAITING_TO_RESUME",
    S.COMPLETED: "COMPLETED_SUCCESSFULLY",
    S.FAILED: "COMPLETED_WITH_ERRORS",
    S.CANCELED: "CANCELED",
    S.CRASHED: "CRASHED",
    S.TIMED_OUT: "TIMED_OUT",
    S.EXPIRED: "EXPIRED",
    S.SYSTEM_FAILURE: "SYSTEM_FAILURE",
}
"""The statuses of these rows are not those of the API: the client reads an unknown one as queued."""

KEPT = frozenset({"id", "friendlyId", "taskIdentifier", "status", "createdAt", "updatedAt"})
"""The client can't read a row without these, so they can't be skipped."""

MAX_RUNNING = 200
"""An offset stands in a URL. With more transactions at work than this, the later ones count as unseen: their changes may be
told twice, and none is missed."""

UP_TO_DATE = b'{"headers":{"control":"up-to-date"}}'

_encoder = msgspec.json.Encoder()
_LARGEST_INT4 = 2**31 - 1


@dataclass(frozen=True, slots=True)
class View:
    """How a subscriber wants his rows."""

    skipped: frozenset[str] = frozenset()
    is_old: bool = False  # a client from before there was a DEQUEUED


def _instant(instant: datetime | None) -> str | None:
    """UTC without saying so: the client appends a Z, and a second one would end the feed."""
    return instant and instant.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds")


def _array(texts: Collection[str]) -> str:
    """As Postgres writes an array. Every element is quoted, so that none can be read as something else.

    >>> _array(["a b", 'c"d'])
    '{"a b","c\\\\"d"}'
    """
    quoted = (text.replace("\\", "\\\\").replace('"', '\\"') for text in texts)
    return "{" + ",".join(f'"{text}"' for text in quoted) + "}"


def _queued_at(run: Run) -> datetime | None:
    return (
        None if run.state in (S.DELAYED, S.PENDING_VERSION) else max(run.created_at, run.delay_until or run.created_at)
    )


def _duration_ms(run: Run) -> str:
    if run.started_at is None:
        return "0"
    length = (run.finished_at or run.updated_at) - run.started_at
    return str(min(max(0, round(length.total_seconds() * 1000)), _LARGEST_INT4))


def _json(value: object) -> str | None:
    return None if value is None else _encoder.encode(value).decode()


def _packet(run: Run, field: Literal["payload", "output"]) -> str | None:
    return packet.data if (packet := offload.packet(run, field)) else None


def _packet_type(run: Run, field: Literal["payload", "output"]) -> str | None:
    return packet.data_type if (packet := offload.packet(run, field)) else None


_ENDED_BADLY = frozenset({S.FAILED, S.CANCELED, S.CRASHED, S.TIMED_OUT, S.EXPIRED, S.SYSTEM_FAILURE})

Column = tuple[dict[str, object], Callable[[Run], str | None]]

_TEXT: dict[str, object] = {"type": "text"}
_WHEN: dict[str, object] = {"type": "timestamp"}

COLUMNS: dict[str, Column] = {
    "id": (_TEXT, lambda run: run.id),
    "friendlyId": (_TEXT, lambda run: run.id),
    "taskIdentifier": (_TEXT, lambda run: run.task_id),
    "status": (_TEXT, lambda run: STATUS[RunState(run.state)]),
    "createdAt": (_WHEN, lambda run: _instant(run.created_at)),
    "updatedAt": (_WHEN, lambda run: _instant(run.updated_at)),
    "startedAt": (_WHEN, lambda run: _instant(run.started_at)),
    "delayUntil": (_WHEN, lambda run: _instant(run.delay_until)),
    "queuedAt": (_WHEN, lambda run: _instant(_queued_at(run))),
    "expiredAt": (_WHEN, lambda run: _instant(run.finished_at) if run.state == S.EXPIRED else None),
    "completedAt": (_WHEN, lambda run: _instant(run.finished_at)),  # the client ends by it: of every end
    "number": ({"type": "int4"}, lambda run: "0"),
    "isTest": ({"type": "bool"}, lambda run: "t" if run.is_test else "f"),
    "usageDurationMs": ({"type": "int4"}, _duration_ms),
    "costInCents": ({"type": "float8"}, lambda run: "0"),
    "baseCostInCents": ({"type": "float8"}, lambda run: "0"),
    "ttl": (_TEXT, lambda run: write_duration(run.ttl_s) if run.ttl_s else None),
    "payload": (_TEXT, lambda run: _packet(run, "payload")),
    "payloadType": (_TEXT, lambda run: _packet_type(run, "payload")),
    "metadata": (_TEXT, lambda run: _json(run.metadata)),
    "metadataType": (_TEXT, lambda run: "application/json"),
    "output": (_TEXT, lambda run: _packet(run, "output")),
    "outputType": (_TEXT, lambda run: _packet_type(run, "output")),
    "runTags": ({"type": "text", "dims": 1}, lambda run: _array(sorted(run.tags)) if run.tags else None),
    "error": ({"type": "jsonb"}, lambda run: _json(task_run_error(run)) if run.state in _ENDED_BADLY else None),
    "realtimeStreams": ({"type": "text", "dims": 1}, lambda run: _array(run.stream_keys)),
}
"""Name -> what the client is told of it, and its text in a run's row."""


def message(run: Run, view: View) -> bytes:
    """The run's row, whole. Always as an insert: where the client has the row already, it replaces it by this one."""
    value = {name: text(run) for name, (_, text) in COLUMNS.items() if name not in view.skipped}
    if view.is_old and value["status"] == "DEQUEUED":
        value["status"] = "EXECUTING"
    key = f'"public"."TaskRun"/"{run.id}"'
    return _encoder.encode({"key": key, "value": value, "headers": {"operation": "insert"}})


@lru_cache(256)
def schema(skipped: frozenset[str]) -> str:
    """What stands in the header that the client decodes rows by."""
    return _encoder.encode({name: told for name, (told, _) in COLUMNS.items() if name not in skipped}).decode()


# -- offsets ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Position:
    """How far a subscriber is. `after`: in the middle of a listing, behind this run; `seen` is what it will have shown."""

    seen: Seen
    created_from: datetime | None = None  # of a tag feed: no run that was made before
    after: str = ""

    def write(self) -> str:
        seen, running = self.seen, sorted(self.seen.running)
        xmax = seen.xmax
        if len(running) > MAX_RUNNING:
            xmax, running = running[MAX_RUNNING], running[:MAX_RUNNING]
        since = int(self.created_from.timestamp()) if self.created_from else 0
        numbers = [xmax, seen.database, seen.xmin, since, *(each - seen.xmin for each in running)]
        return "_".join(map(str, numbers)) + (f".{self.after}" if self.after else "")


_OFFSET = re.compile(rf"(\d{{1,18}}(?:_\d{{1,18}}){{3,{MAX_RUNNING + 3}}})(?:\.(\w{{1,64}}))?", re.ASCII)
_YEAR_9999 = 253402300799


def read_position(offset: str) -> Position | None:
    """What this offset says; None where it is not one of ours (`-1`, another server's): who sends it begins anew."""
    if not (parts := _OFFSET.fullmatch(offset)):
        return None
    xmax, database, xmin, since, *running = map(int, parts[1].split("_"))
    if xmin > xmax or since > _YEAR_9999:
        return None
    seen = Seen(database, xmin, xmax, frozenset(xmin + each for each in running))
    return Position(seen, datetime.fromtimestamp(since, UTC) if since else None, parts[2] or "")
