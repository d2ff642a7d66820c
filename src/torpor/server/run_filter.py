"""Which runs a request means: by the query of a list, or by the body of a bulk action."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from starlette.datastructures import QueryParams

from torpor.durations import parse_duration, parse_instant
from torpor.engine import RunFilter
from torpor.engine.states import STATUS
from torpor.server import paging
from torpor.server.errors import Refused

_STATUSES = set(STATUS.values())
_NAMES = frozenset(
    {"status", "taskIdentifier", "version", "tag", "isTest", "machine", "region", "queue", "batch", "schedule"}
    | {"bulkAction", "search"}
)
_TIMES = frozenset({"from", "to", "period"})
_IN_QUERY = frozenset(f"filter[{name}]" for name in _NAMES) | {f"filter[createdAt][{name}]" for name in _TIMES}
_IN_BODY = _NAMES | _TIMES


def of_query(query: QueryParams, more_filters: frozenset[str], now: datetime) -> RunFilter:
    """400 for a value that can't be one, 422 for a filter that there isn't."""
    paging.refuse_filters(query, _IN_QUERY | more_filters)
    since, until = paging.created_between(query, now)
    return RunFilter(
        status=paging.statuses(query, _STATUSES),
        task_ids=paging.several(query, "filter[taskIdentifier]"),
        versions=paging.several(query, "filter[version]"),
        tags=paging.several(query, "filter[tag]"),
        is_test=paging.flag(query, "filter[isTest]"),
        presets=paging.several(query, "filter[machine]"),
        regions=paging.several(query, "filter[region]"),
        queues=paging.several(query, "filter[queue]"),
        batch_id=query.get("filter[batch]") or None,
        schedule_ids=paging.several(query, "filter[schedule]"),
        bulk_id=query.get("filter[bulkAction]") or None,
        search=query.get("filter[search]") or None,
        created_from=since,
        created_to=until,
    )


def of_body(given: dict[str, Any], now: datetime) -> RunFilter:
    """The same filters by their bare names, values as JSON: one or a list. 400 for what can't be, and for none at all.

    A filter that is not understood, or names nothing, must not be passed over: the others would choose more runs than were
    meant.
    """
    filters = {name: value for name, value in given.items() if value is not None}
    if empty := sorted(name for name, value in filters.items() if value in ("", [])):
        raise Refused(400, f"filter.{empty[0]} names nothing: leave it out, or say what is meant")
    if unknown := sorted(filters.keys() - _IN_BODY):
        raise Refused(400, f"filter: there is no {unknown[0]!r}; there are: {', '.join(sorted(_IN_BODY))}")
    if not filters:
        raise Refused(400, "filter: at least one is needed")
    status = _texts(filters, "status")
    for name in status or ():
        if name not in _STATUSES:
            raise Refused(400, f"filter.status: {name!r} is not a status; there are: {', '.join(sorted(_STATUSES))}")
    if not isinstance(filters.get("isTest", False), bool):
        raise Refused(400, "filter.isTest: true or false")
    since, until = _between(filters, now)
    return RunFilter(
        status=status,
        task_ids=_texts(filters, "taskIdentifier"),
        versions=_texts(filters, "version"),
        tags=_texts(filters, "tag"),
        is_test=filters.get("isTest"),
        presets=_texts(filters, "machine"),
        regions=_texts(filters, "region"),
        queues=_queues(filters.get("queue")),
        batch_id=_text(filters, "batch"),
        schedule_ids=_texts(filters, "schedule"),
        bulk_id=_text(filters, "bulkAction"),
        search=_text(filters, "search"),
        created_from=since,
        created_to=until,
    )


def _text(filters: dict[str, Any], name: str) -> str | None:
    value = filters.get(name)
    if value is not None and not isinstance(value, str):
        raise Refused(400, f"filter.{name}: a text")
    return value


def _texts(filters: dict[str, Any], name: str) -> list[str] | None:
    value = filters.get(name)
    values = [value] if isinstance(value, str) else value
    if values is not None and not (isinstance(values, list) and all(isinstance(each, str) and each for each in values)):
        raise Refused(400, f"filter.{name}: a text or a list of texts")
    return values


def _queues(value: Any) -> list[str] | None:
    """As the official client names queues, `{"type": "task", "name": "echo"}`, or by whole names."""
    if value is None:
        return None
    names: list[str] = []
    for each in value if isinstance(value, list) else [value]:
        name = each.get("name") if isinstance(each, dict) else each
        if not isinstance(name, str) or not name:
            raise Refused(400, "filter.queue: a name, an object with type and name, or a list of those")
        is_task = isinstance(each, dict) and each.get("type") == "task" and not name.startswith("task/")
        names.append(f"task/{name}" if is_task else name)
    return names


def _between(filters: dict[str, Any], now: datetime) -> tuple[datetime | None, datetime | None]:
    since, until = _time(filters, "from", parse_instant), _time(filters, "to", parse_instant)
    period = _time(filters, "period", lambda length: now - parse_duration(length))
    return max((each for each in (since, period) if each), default=None), until


def _time(filters: dict[str, Any], name: str, read: Callable[[Any], datetime]) -> datetime | None:
    try:
        return read(filters[name]) if name in filters else None
    except (ValueError, TypeError) as error:
        raise Refused(400, f"filter.{name}: {error}") from None
