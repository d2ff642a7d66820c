"""Listings: what the query asks for, and cursors that lead both ways.

A cursor names a row and when we issued it. The official client keeps its earlier cursor when it turns round, and sends
both; the one issued later is the one that is meant.
"""

import re
import time
from collections.abc import Collection
from datetime import datetime
from typing import Any

from starlette.datastructures import QueryParams

from torpor.durations import parse_duration, parse_instant
from torpor.engine.pages import Listing, Numbered, Page
from torpor.server.errors import Refused

DEFAULT_SIZE = 25
MAX_SIZE = 100
MAX_NUMBER = 1_000_000


def read_page(query: QueryParams, default_size: int = DEFAULT_SIZE) -> Page:
    size = whole_number("page[size]", query.get("page[size]", str(default_size)), MAX_SIZE)
    after, before = _read_cursor(query.get("page[after]")), _read_cursor(query.get("page[before]"))
    if after and before:
        after, before = (after, None) if after[0] > before[0] else (None, before)
    return Page(size, after[1] if after else None, before[1] if before else None)


def whole_number(name: str, text: str, most: int) -> int:
    """From 1; 400 that names the parameter or header for anything else."""
    # Python refuses to read numbers of thousands of digits, and leading zeros are none of a number's.
    if not re.fullmatch(r"[1-9][0-9]{0,9}", text) or int(text) > most:
        raise Refused(400, f"{name}: a whole number from 1 to {most}, not {text[:40]!r}")
    return int(text)


def page_reply(items: list[dict[str, Any]], listing: Listing[Any]) -> dict[str, Any]:
    """A page of rendered rows, newest first."""
    cursors = {"next": listing.next, "previous": listing.previous}
    return {"data": items, "pagination": {name: _cursor(row_id) for name, row_id in cursors.items() if row_id}}


def _cursor(row_id: str) -> str:
    return f"{time.time_ns() // 1000:x}.{row_id}"


def _read_cursor(text: str | None) -> tuple[int, str] | None:
    """When it was issued (0: a bare id) and the row."""
    if not text:
        return None
    issued, dot, row_id = text.partition(".")
    try:
        return (int(issued, 16), row_id) if dot else (0, text)
    except ValueError:
        raise Refused(400, f"page cursor {text!r} is not one of this server's") from None


def several(query: QueryParams, name: str) -> list[str] | None:
    """A filter of several values, comma-joined."""
    text = query.get(name)
    return [part for part in text.split(",") if part] if text else None


def statuses(query: QueryParams, known: Collection[str], filter: str = "filter[status]") -> list[str] | None:
    """`filter[status]`; 400 for a name that is not a status."""
    names = several(query, filter)
    for name in names or ():
        if name not in known:
            raise Refused(400, f"{filter}: {name!r} is not a status; there are: {', '.join(sorted(known))}")
    return names


def flag(query: QueryParams, name: str) -> bool | None:
    match query.get(name):
        case None | "":
            return None
        case "true":
            return True
        case "false":
            return False
        case other:
            raise Refused(400, f"{name}: true or false, not {other!r}")


def created_between(query: QueryParams, now: datetime) -> tuple[datetime | None, datetime | None]:
    """`filter[createdAt][from|to|period]`."""
    names = {name: f"filter[createdAt][{name}]" for name in ("from", "to", "period")}
    return between(query, now, since=names["from"], until=names["to"], period=names["period"])


def between(
    query: QueryParams, now: datetime, *, since: str, until: str, period: str
) -> tuple[datetime | None, datetime | None]:
    """From when and until when, by parameters of these names; 400 for what is no instant or no length of time."""
    return _instant(query, since, period, now), _instant(query, until, None, now)


def _instant(query: QueryParams, name: str, period: str | None, now: datetime) -> datetime | None:
    """The later one of two."""
    found: list[datetime] = []
    for each in (name, period):
        text = query.get(each) if each else None
        try:
            if text:
                found.append(now - parse_duration(text) if each == period else parse_instant(text))
        except (ValueError, OverflowError) as error:
            raise Refused(400, f"{each}: {error}") from None
    return max(found, default=None)


def refuse_filters(query: QueryParams, known: frozenset[str]) -> None:
    """A filter that isn't applied would show rows that were not asked for."""
    for name in query:
        if name.startswith("filter[") and name not in known:
            raise Refused(422, f"{name} is not supported yet")


# -- pages with numbers -----------------------------------------------------------------------------------------------


def read_number(query: QueryParams, default_size: int) -> tuple[int, int]:
    """`page`, from 1, and `perPage`."""
    page = whole_number("page", query.get("page", "1"), MAX_NUMBER)
    return page, whole_number("perPage", query.get("perPage", str(default_size)), MAX_SIZE)


def numbered_reply(items: list[dict[str, Any]], page: Numbered[Any]) -> dict[str, Any]:
    """A page of rendered rows, and how many pages and rows there are."""
    pages = max(1, -(-page.count // page.size))
    return {"data": items, "pagination": {"currentPage": page.page, "totalPages": pages, "count": page.count}}
