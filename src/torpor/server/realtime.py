"""Realtime feeds: the shape protocol, as the official client and its React hooks follow runs, batches and tags.

    ?offset=-1                 what there is now
    ?offset=O                  what has changed since
    ?offset=O&live=true        the same, held until there is something

A server remembers nothing between two requests: `offset` says what the client has seen (`shapes.Position`), so any server
can answer the next one. What is not one of our offsets begins anew; the client takes whole rows at any time.
"""

import asyncio
import hashlib
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from torpor.durations import parse_duration
from torpor.engine import read_batch
from torpor.engine.read_feeds import BatchFeed, Feed, Row, RunFeed, TagFeed
from torpor.server import auth, paging
from torpor.server.bodies import hung_up
from torpor.server.errors import Refused, not_found
from torpor.server.feeds import Anew, Answer, Changes, Follower, Gone, Look
from torpor.server.hub import Hub, hub
from torpor.server.shapes import COLUMNS, KEPT, UP_TO_DATE, Position, View, message, read_position, schema

HOLD_S = 20.0
JITTER = 0.15
"""Polls that began together, as after a server's restart, don't end together for ever."""
LONGEST_WINDOW = timedelta(hours=24)
"""How far back a tag feed goes at most, and where nothing is said."""


async def run(request: Request) -> Response:
    """A run. 404 if it is not there."""
    return await _feed(request, RunFeed(auth.environment(request).id, request.path_params["run_id"]))


async def batch(request: Request) -> Response:
    """The runs of a batch. 404 if it is not there."""
    return await _feed(request, BatchFeed(auth.environment(request).id, request.path_params["batch_id"]))


async def runs(request: Request) -> Response:
    """The runs with all of these tags, made since `createdAt` ago, a day at most; without tags, all runs."""
    tags = paging.several(request.query_params, "tags") or ()
    return await _feed(request, TagFeed(auth.environment(request).id, tuple(sorted(set(tags)))))


routes = [
    Route("/realtime/v1/runs/{run_id}", run, methods=["GET"]),
    Route("/realtime/v1/runs", runs, methods=["GET"]),
    Route("/realtime/v1/batches/{batch_id}", batch, methods=["GET"]),
]


@dataclass(frozen=True, slots=True)
class _Told:
    """What is sent: rows as they are written, and where the client is then. Not `is_all`: he asks for the rest at once."""

    rows: Sequence[bytes]
    position: Position
    is_all: bool = True


async def _feed(request: Request, feed: Feed) -> Response:
    here, query = hub(request), request.query_params
    view = _view(request)
    position, is_live = read_position(query.get("offset", "-1")), query.get("live") == "true"
    created_from = position.created_from if position else None
    if isinstance(feed, TagFeed) and created_from is None:
        created_from = _window(query.get("createdAt"), here.clock.now())
        position = None
    if position is None or position.after or not is_live:
        told = await _what_is_there(here, feed, created_from, position, view)
    else:
        with here.feeds.follow(feed, position.seen, created_from) as follower:
            check_room(here, here.feeds.held[feed.environment_id])
            answer = await _held(request, follower)
        told = await _told(here, feed, created_from, answer, follower, view)
    return _reply(request, feed, told, view, is_live=is_live)


async def _told(
    here: Hub, feed: Feed, created_from: datetime | None, answer: Answer | None, follower: Follower, view: View
) -> _Told:
    match answer:
        case Changes(look, rows):
            return _Told(_written(look, rows, view), Position(answer.seen, created_from))
        case Anew():
            return await _what_is_there(here, feed, created_from, None, view)
        case Gone():
            raise not_found()
        case None:
            return _Told((), Position(follower.seen, created_from))


async def _what_is_there(
    here: Hub, feed: Feed, created_from: datetime | None, position: Position | None, view: View
) -> _Told:
    """All, or what one who is at this position hasn't seen, or the next page of a listing that he is in the middle of."""
    if position is not None and position.after:
        look = await here.feeds.page(feed, created_from, after=position.after)
        if look.found.seen.database == position.seen.database:
            return _page(look, look.found.rows, Position(position.seen, created_from), view)
    elif position is not None:
        look = await here.feeds.page(feed, created_from, unseen=position.seen)
        if look.found.seen.database == position.seen.database and not look.found.has_more:
            _check_there(feed, look)
            seen = position.seen
            rows = [row for row in look.found.rows if not all(seen.includes(each) for each in row.changed_in)]
            return _page(look, rows, Position(look.found.seen, created_from), view)
    elif isinstance(feed, BatchFeed):
        async with here.database.transaction() as tx:
            if await read_batch.batch(tx, feed.environment_id, feed.batch_id) is None:
                raise not_found()
    look = await here.feeds.page(feed, created_from)
    _check_there(feed, look)
    return _page(look, look.found.rows, Position(look.found.seen, created_from), view)


def _page(look: Look, rows: list[Row], position: Position, view: View) -> _Told:
    """`position` is where the client is after the last page. What changes between two pages it hasn't seen, so it comes."""
    if look.found.has_more:
        position = Position(position.seen, position.created_from, after=look.found.rows[-1].run.id)
    return _Told(_written(look, rows, view), position, is_all=not look.found.has_more)


def _written(look: Look, rows: list[Row], view: View) -> list[bytes]:
    for row in rows:
        if (row.run.id, view) not in look.written:
            look.written[row.run.id, view] = message(row.run, view)
    return [look.written[row.run.id, view] for row in rows]


def _check_there(feed: Feed, look: Look) -> None:
    if isinstance(feed, RunFeed) and not look.found.rows:
        raise not_found()


def check_room(here: Hub, held: int) -> None:
    """429 when with so many the environment has more subscribers here than it may have. The client backs off and asks again."""
    limit = here.settings.realtime_subscriptions
    if limit and held > limit:
        raise Refused(
            429,
            f"this environment has {limit} realtime subscriptions open, which is its limit",
            limit=limit,
            value=held,
        )


async def _held(request: Request, follower: Follower) -> Answer | None:
    """The answer, or None when the time is over, the server stops, or the client has hung up and nobody listens."""
    gone = asyncio.create_task(hung_up(request.receive))
    try:
        hold_s = HOLD_S * random.uniform(1 - JITTER, 1 + JITTER)
        await asyncio.wait({follower.answer, gone}, timeout=hold_s, return_when=asyncio.FIRST_COMPLETED)
        return follower.answer.result() if follower.answer.done() else None
    finally:
        gone.cancel()


def _reply(request: Request, feed: Feed, told: _Told, view: View, *, is_live: bool) -> Response:
    rows = [*told.rows, UP_TO_DATE] if told.is_all else told.rows
    headers = {
        "cache-control": "no-store",
        "electric-handle": hashlib.sha256(repr(feed).encode()).hexdigest()[:24],
        "electric-offset": told.position.write(),
    }
    if is_live:
        headers["electric-cursor"] = str(time.time_ns() // 1_000_000)
    else:
        headers["electric-schema"] = schema(view.skipped)
    if told.is_all:
        headers["electric-up-to-date"] = "true"  # without it the client would ask once more before it waits
    if "x-trigger-electric-version" not in request.headers:  # from before version 1 of the protocol
        headers["electric-shape-id"] = headers["electric-handle"]
        headers["electric-chunk-last-offset"] = headers["electric-offset"]
    return Response(b"[" + b",".join(rows) + b"]", headers=headers, media_type="application/json")


def _view(request: Request) -> View:
    """What a public token says of columns wins over what its bearer asks for."""
    token = auth.caller(request).token
    asked = (token.skipped_columns if token else ()) or paging.several(request.query_params, "skipColumns") or ()
    return View(frozenset(asked).intersection(COLUMNS) - KEPT, is_old="x-trigger-api-version" not in request.headers)


def _window(text: str | None, now: datetime) -> datetime:
    """Since when, to the second: an offset holds no more."""
    try:
        length = parse_duration(text) if text else LONGEST_WINDOW
    except ValueError as error:
        raise Refused(400, f"createdAt: {error}") from None
    return (now - min(length, LONGEST_WINDOW)).replace(microsecond=0)
