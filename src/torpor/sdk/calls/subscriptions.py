"""Runs as they change: what is asked one after the other, and what the rows mean.

A subscription's steps are a generator: it yields a call, is sent what was `Told`, and yields runs, as dicts by the names
of `Client.run`. Where it is stands in the offset that each answer gives, so a connection that breaks, or a server that is
gone for a while, costs nothing but time.
"""

import contextlib
import json
import re
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from torpor.sdk.calls import sending
from torpor.sdk.calls.call import Call, Json, get, segment
from torpor.sdk.calls.doors import listed
from torpor.sdk.calls.listings import Listing
from torpor.sdk.calls.runs import one_run

if TYPE_CHECKING:
    import httpx2

HELD_S = 25.0
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0


@dataclass(frozen=True)
class Told:
    """An answer that has come in."""

    headers: Mapping[str, str]
    body: Any


Steps = Generator[Any, Any, None]
"""Yields a `Call`, to be sent what was `Told`, or a run, to be sent nothing."""


class Attempts(sending.Attempts):
    """Those at the calls of a subscription never end: it goes on when the server is back. A refusal is raised."""

    def _pause(self) -> float:
        self._made = min(self._made + 1, 20)
        return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * sending.PAUSE_FACTOR ** (self._made - 1))

    def answered(self, response: "httpx2.Response") -> float | None:
        pause = super().answered(response)
        if pause is None:
            self.value = Told(response.headers, self.value)
        return pause


class Subscription(Listing):
    """A listing of runs, each as often as it changes."""

    attempts = Attempts

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self.call = next(steps)

    def read(self, answer: Told) -> list[Json]:
        runs: list[Json] = []
        self.call = None
        with contextlib.suppress(StopIteration):
            step = self._steps.send(answer)
            while not isinstance(step, Call):
                runs.append(step)
                step = next(self._steps)
            self.call = step
        return runs


class Subscriptions:
    @listed
    def subscribe(self, run_id: str, *, skip: Iterable[str] = ()) -> Listing:
        """A run as it is, and again whenever it has changed, until it has ended: at most a few milliseconds later.

        Args:
            run_id: the run.
            skip: what isn't needed: `payload`, `output`, `metadata`.

        A server or a network that is away for a while is waited for.

        Raises:
            NotFound: there is no such run.

        Example:
            >>> for run in client.subscribe("run_1"):  # doctest: +SKIP
            ...     print(run["status"], run.get("metadata"))
        """
        return Subscription(_of_run(run_id, skip))

    @listed
    def subscribe_to_tag(
        self, tags: str | Iterable[str], *, period: str | timedelta = "", skip: Iterable[str] = ()
    ) -> Listing:
        """The runs with this tag, or all of these, each again whenever it has changed. It never ends by itself.

        Args:
            tags: one or several.
            period: how far back the first ones were made, a day at most, and unless it is given: `"1h"`.
            skip: as `subscribe`.
        """
        return Subscription(_tagged(tags, period, skip))

    @listed
    def subscribe_to_batch(self, batch_id: str, *, skip: Iterable[str] = ()) -> Listing:
        """The runs of a batch, each again whenever it has changed, until the batch is over. As `subscribe`."""
        return Subscription(_of_batch(batch_id, skip))


def _of_run(run_id: str, skip: Iterable[str]) -> Steps:
    """A run, until it has ended."""
    feed = _Feed(f"runs/{segment(run_id)}", {"skipColumns": skip})
    while True:
        for told in (yield from feed.answer()):
            yield told
            if told["isCompleted"]:
                return


def _tagged(tags: str | Iterable[str], period: str | timedelta, skip: Iterable[str]) -> Steps:
    """The runs that have all of these tags, for ever."""
    feed = _Feed("runs", {"tags": [tags] if isinstance(tags, str) else tags, "createdAt": period, "skipColumns": skip})
    while True:
        yield from (yield from feed.answer())


def _of_batch(batch_id: str, skip: Iterable[str]) -> Steps:
    """The runs of a batch, until all of it is over: its items have come, and their runs have ended."""
    feed = _Feed(f"batches/{segment(batch_id)}", {"skipColumns": skip})
    over: dict[str, bool] = {}
    while True:
        for told in (yield from feed.answer()):
            yield told
            over[told["id"]] = told["isCompleted"]
        if all(over.values()):
            whole = (yield get(f"/api/v2/batches/{segment(batch_id)}")).body
            # What the batch has been given since is still to come.
            if whole["status"] not in ("PENDING", "PROCESSING") and over.keys() >= {*whole["runs"]}:
                return


class _Feed:
    """Where a subscription is in one feed."""

    def __init__(self, path: str, query: Mapping[str, Any]) -> None:
        self._path = f"/realtime/v1/{path}"
        self._query = {name: value if isinstance(value, str | timedelta) else [*value] for name, value in query.items()}
        self._query = {name: value for name, value in self._query.items() if value}
        self._place: Json = {"offset": "-1"}
        self._schema: Json = {}

    def answer(self) -> Generator[Call[Any], Told, list[Json]]:
        """Ask once. None may have changed; then there are no runs."""
        is_live = "live" in self._place
        told = yield get(self._path, self._query | self._place, held_s=HELD_S if is_live else 0.0)
        self._schema = self._schema or json.loads(told.headers["electric-schema"])
        self._place = {"offset": told.headers["electric-offset"]}
        if "electric-up-to-date" in told.headers:
            self._place["live"] = True
        runs: list[Json] = []
        for message in told.body:
            if "value" in message:
                row = {name: _value(text, self._schema[name]) for name, text in message["value"].items()}
                run = _run(row)
                if "application/store" in (row.get("payloadType"), row.get("outputType")):
                    whole = (yield one_run(run["id"])).body
                    run |= {name: whole[name] for name in ("payload", "output") if name in run and name in whole}
                runs.append(run)
        return runs


# -- rows -------------------------------------------------------------------------------------------------------------

_STATUS = {
    "PENDING": "QUEUED",
    "WAITING_TO_RESUME": "WAITING",
    "COMPLETED_SUCCESSFULLY": "COMPLETED",
    "COMPLETED_WITH_ERRORS": "FAILED",
}
"""Rows call these by other names than the rest of the API."""

_FAILED = ("FAILED", "CRASHED", "SYSTEM_FAILURE", "EXPIRED", "TIMED_OUT")

_READERS: dict[str, Callable[[str], Any]] = {
    "text": str,
    "timestamp": lambda text: text + "Z",
    "int4": int,
    "float8": float,
    "bool": lambda text: text == "t",
    "jsonb": json.loads,
}
_ELEMENT = re.compile(r'"((?:[^"\\]|\\.)*)"')


def _value(text: str | None, column: Json) -> Any:
    """What a text of a row stands for."""
    if text is None:
        return None
    if column.get("dims"):
        return [re.sub(r"\\(.)", r"\1", element) for element in _ELEMENT.findall(text)]
    return _READERS[column["type"]](text)


def _run(row: Json) -> Json:
    """A row by the names of `Client.run`; what it doesn't have is left out."""
    status = _STATUS.get(row["status"], row["status"])
    run = {
        "id": row["friendlyId"],
        "status": status,
        "taskIdentifier": row["taskIdentifier"],
        "isQueued": status in ("QUEUED", "DELAYED", "PENDING_VERSION"),
        "isExecuting": status in ("EXECUTING", "DEQUEUED"),
        "isWaiting": status == "WAITING",
        "isCompleted": status in ("COMPLETED", "CANCELED", *_FAILED),
        "isSuccess": status == "COMPLETED",
        "isFailed": status in _FAILED,
        "isCancelled": status == "CANCELED",
        "isTest": row.get("isTest"),
        "createdAt": row["createdAt"],
        "updatedAt": row["updatedAt"],
        "startedAt": row.get("startedAt"),
        "finishedAt": row.get("completedAt"),
        "delayedUntil": row.get("delayUntil"),
        "expiredAt": row.get("expiredAt"),
        "ttl": row.get("ttl"),
        "durationMs": row.get("usageDurationMs"),
        "tags": (row["runTags"] or []) if "runTags" in row else None,
        "metadata": _json(row.get("metadata")),
        "streams": row.get("realtimeStreams"),
        "error": _error(row.get("error")),
    }
    run = {name: value for name, value in run.items() if value is not None}
    return run | {name: _json(row[name]) for name in ("payload", "output") if row.get(f"{name}Type") and name in row}


def _json(text: str | None) -> Any:
    """None for what is not there; a path, which stands for what is large, is replaced later."""
    return None if text is None or text.startswith("runs/") else json.loads(text)


def _error(error: Json | None) -> Json | None:
    if error is None:
        return None
    told = {"name": error.get("name") or error["code"], "message": error.get("message", "")}
    return told | ({"stackTrace": error["stackTrace"]} if error.get("stackTrace") else {})
