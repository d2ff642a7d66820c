"""Requests of one server that are held until something changes in a feed: of a run, a batch or a tag.

    commit -> announcement ("run", run_id) -> hear -> gather: one look at all runs announced in some ms
                                                        | of a run that is followed itself: its row, to its followers
                                                        | of which other open feeds is it part?
                                                        v
                                              look: one query for that feed, for all its followers

A feed is open (`_Channel`) while somebody follows it, and some seconds longer. While it is open it hears all that is
announced; so who comes with the very snapshot that it was looked at last is owed nothing yet, and costs no query. That is
the ordinary case: an answer goes to all followers of a feed at once, and a moment later all of them are back.

Announcements can be lost. When they may have been, every open feed is looked at ("reconnected"), and a feed that wasn't
looked at lately is by whoever comes next.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from time import monotonic
from typing import Any

from torpor.engine import read_feeds
from torpor.engine.read_feeds import BatchFeed, Feed, Found, Kin, Row, RunFeed, Seen, TagFeed
from torpor.store.database import Database, DatabaseDown

log = logging.getLogger("torpor.server")

COALESCE_S = 0.005
"""How long announcements are gathered before their runs are looked at: a change makes several, and many runs change at
once."""
LINGER_S = 5.0
"""How long a feed stays open without followers: longer than they take to come back."""
SWEEP_S = 15.0
"""A feed that wasn't looked at for so long is looked at when the next follower comes, whatever was announced."""
LOOKS_AT_ONCE = 4
"""So many of the server's connections to the database feeds take at most."""
RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class Look:
    """What a feed held at some instant."""

    found: Found
    written: dict[Hashable, bytes] = field(default_factory=dict)
    """Its rows as they are sent: who is told the same shares them."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What a follower was owed, and what he has seen with it."""

    look: Look
    rows: list[Row]

    @property
    def seen(self) -> Seen:
        return self.look.found.seen


@dataclass(frozen=True, slots=True)
class Anew:
    """He has to begin anew: with so many changes, or with numbers of another database."""


@dataclass(frozen=True, slots=True)
class Gone:
    """The run is not there."""


Answer = Changes | Anew | Gone


@dataclass(eq=False, slots=True)
class Follower:
    """One held request."""

    seen: Seen
    created_from: datetime | None = None
    answer: "asyncio.Future[Answer | None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """None: there will be none, since the server stops."""

    def tell(self, answer: Answer | None) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)

    def owed(self, look: Look) -> list[Row]:
        """The rows of this look that he hasn't seen. (A tag feed's followers may have begun at different times.)"""
        return [
            row
            for row in look.found.rows
            if not all(self.seen.includes(each) for each in row.changed_in)
            and (self.created_from is None or row.run.created_at >= self.created_from)
        ]

    def show(self, look: Look) -> None:
        """Give him what he is owed; without that he waits on, as one who has seen this."""
        seen = look.found.seen
        if seen.database != self.seen.database or look.found.has_more:
            self.tell(Anew())
        elif rows := self.owed(look):
            self.tell(Changes(look, rows))
        elif self.seen.is_older(seen):
            self.seen = seen


@dataclass(eq=False, slots=True)
class _Channel:
    """An open feed."""

    feed: Feed
    followers: set[Follower] = field(default_factory=set)
    seen: Seen | None = None
    """The snapshot of the latest look. What has changed since is announced to us, or was already."""
    looked_at: float = 0.0
    is_stirred: bool = True
    """Something may have changed since the latest look began."""
    looking: asyncio.Task[None] | None = None
    closing: asyncio.TimerHandle | None = None

    def show(self, look: Look, followers: list[Follower]) -> None:
        if self.seen is None or self.seen.database != look.found.seen.database or self.seen.is_older(look.found.seen):
            self.seen = look.found.seen
        self.looked_at = monotonic()
        for follower in followers:
            follower.show(look)

    def has_shown(self, seen: Seen) -> bool:
        """Whether who has seen this is owed nothing that we know of."""
        if self.seen is None or self.seen.database != seen.database or monotonic() - self.looked_at > SWEEP_S:
            return False
        return not seen.is_older(self.seen)


class Feeds:
    """The open feeds of this server."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._channels: dict[Feed, _Channel] = {}
        self._by_run: dict[str, list[_Channel]] = {}
        self._by_tag: dict[str, list[_Channel]] = {}  # by the first of its tags; "": without tags
        self._wide = 0  # open feeds that are not of a run
        self._announced: set[str] = set()
        self._gathering: asyncio.Task[None] | None = None
        self._looks = asyncio.Semaphore(LOOKS_AT_ONCE)
        self._pages: dict[object, asyncio.Task[Look]] = {}
        self.held: Counter[str] = Counter()
        """Requests that are held, by environment."""
        self.is_closed = False

    # -- for requests -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def follow(self, feed: Feed, seen: Seen, created_from: datetime | None = None) -> Iterator[Follower]:
        """Someone who has seen this waits for what comes next: his `answer`, until the block ends."""
        follower = Follower(seen, created_from)
        channel = self._channels.get(feed) or self._open(feed)
        if channel.closing:
            channel.closing.cancel()
            channel.closing = None
        channel.followers.add(follower)
        if self.is_closed:
            follower.tell(None)
        elif channel.is_stirred or channel.looking or not channel.has_shown(seen):
            self._stir(channel)  # a look that is under way is not for him: it may have begun before he came
        try:
            with self.hold(feed.environment_id):
                yield follower
        finally:
            channel.followers.discard(follower)
            follower.tell(None)
            if not channel.followers:
                channel.closing = asyncio.get_running_loop().call_later(LINGER_S, self._close, channel)

    @contextlib.contextmanager
    def hold(self, environment_id: str) -> Iterator[None]:
        """One more request is held, until the block ends; also of those who read a stream."""
        self.held[environment_id] += 1
        try:
            yield
        finally:
            self.held[environment_id] -= 1
            if not self.held[environment_id]:
                del self.held[environment_id]

    async def page(
        self, feed: Feed, created_from: datetime | None = None, *, unseen: Seen | None = None, after: str = ""
    ) -> Look:
        """What is there now, or that part of it which these have not seen. Equal questions at one time are asked once.

        Raises:
            DatabaseDown: nobody knows.
        """
        question = (feed, created_from, unseen, after)
        if question not in self._pages:
            task = asyncio.create_task(self._ask(feed, created_from, unseen.xmin if unseen else 0, after))
            self._pages[question] = task
            task.add_done_callback(lambda done: self._forget_page(question, done))
        # One who hangs up doesn't take it from the others.
        return await asyncio.shield(self._pages[question])

    def _forget_page(self, question: object, done: "asyncio.Task[Look]") -> None:
        del self._pages[question]
        if not done.cancelled():
            done.exception()  # all who asked may have hung up

    # -- what is announced --------------------------------------------------------------------------------------------

    def hear(self, kind: str, data: dict[str, Any]) -> None:
        """The database's callback."""
        if kind == "run":
            if self._wide or data["run_id"] in self._by_run:
                self._announce(data["run_id"])
        elif kind == "reconnected":
            for channel in self._channels.values():
                self._stir(channel)

    def close(self) -> None:
        """The server stops: every held request ends now, and none is held any more."""
        self.is_closed = True
        if self._gathering:
            self._gathering.cancel()
        for channel in self._channels.values():
            if channel.looking:
                channel.looking.cancel()
            for follower in channel.followers:
                follower.tell(None)

    # -- open and close -----------------------------------------------------------------------------------------------

    def _open(self, feed: Feed) -> _Channel:
        channel = self._channels[feed] = _Channel(feed)
        match feed:
            case RunFeed():
                self._by_run.setdefault(feed.run_id, []).append(channel)
            case TagFeed():
                self._wide += 1
                self._by_tag.setdefault(_first(feed), []).append(channel)
            case BatchFeed():
                self._wide += 1
        return channel

    def _close(self, channel: _Channel) -> None:
        del self._channels[channel.feed]
        match channel.feed:
            case RunFeed(run_id=run_id):
                _remove(self._by_run, run_id, channel)
            case TagFeed():
                self._wide -= 1
                _remove(self._by_tag, _first(channel.feed), channel)
            case BatchFeed():
                self._wide -= 1

    # -- looks --------------------------------------------------------------------------------------------------------

    def _announce(self, run_id: str) -> None:
        self._announced.add(run_id)
        if (self._gathering is None or self._gathering.done()) and not self.is_closed:
            self._gathering = asyncio.create_task(self._gather(), name="feeds: announced runs")

    def _stir(self, channel: _Channel) -> None:
        """This feed is to be looked at."""
        channel.is_stirred = True
        if isinstance(channel.feed, RunFeed):
            self._announce(channel.feed.run_id)
        elif channel.looking is None and not self.is_closed:
            channel.looking = asyncio.create_task(self._keep_looking(channel), name=f"feeds: {channel.feed}")

    async def _gather(self) -> None:
        """Look at the runs that were announced, all of some ms together, as long as there are any."""
        while self._announced and not self.is_closed:
            await asyncio.sleep(COALESCE_S)
            run_ids, self._announced = self._announced, set()
            try:
                async with self._looks:
                    await self._look_at(run_ids)
            except DatabaseDown:
                self._announced |= run_ids
                await asyncio.sleep(RETRY_S)

    async def _look_at(self, run_ids: set[str]) -> None:
        followed = [run_id for run_id in run_ids if run_id in self._by_run]
        for run_id in followed:
            for channel in self._by_run[run_id]:
                channel.is_stirred = False
        kin: list[Kin] = []
        async with self._database.transaction() as tx:
            found = await read_feeds.runs_by_id(tx, followed) if followed else None
            if self._wide:
                kin = await read_feeds.kin(tx, run_ids)
        if found:
            rows = {row.run.id: row for row in found.rows}
            for run_id in followed:
                for channel in self._by_run.get(run_id, ()):
                    _show_run(channel, found.seen, rows.get(run_id))
        for one in kin:
            for channel, changes in self._channels_of(one):
                if channel.seen is None or not all(channel.seen.includes(each) for each in changes):
                    self._stir(channel)

    def _channels_of(self, run: Kin) -> Iterator[tuple[_Channel, tuple[int, ...]]]:
        """The open batch and tag feeds that this run is part of, and the transactions that changed it there."""
        for tag in ("", *run.tags):
            for channel in self._by_tag.get(tag, ()):
                assert isinstance(channel.feed, TagFeed)
                if channel.feed.environment_id == run.environment_id and set(channel.feed.tags) <= set(run.tags):
                    yield channel, (run.changed_in,)
        for batch_id, joined_in in run.batches.items():
            if channel := self._channels.get(BatchFeed(run.environment_id, batch_id)):
                yield channel, (run.changed_in, joined_in)

    async def _keep_looking(self, channel: _Channel) -> None:
        """Look at a batch or tag feed, once for all its followers, as long as something may have changed."""
        try:
            while channel.is_stirred and channel.followers and not self.is_closed:
                channel.is_stirred = False
                followers = [*channel.followers]
                # The oldest may have seen less than the others; who comes meanwhile has stirred it again.
                unseen_from = min(follower.seen.xmin for follower in followers)
                created_from = min((each.created_from for each in followers if each.created_from), default=None)
                try:
                    async with self._looks:
                        look = await self._ask(channel.feed, created_from, unseen_from)
                except DatabaseDown:
                    channel.is_stirred = True
                    await asyncio.sleep(RETRY_S)
                else:
                    channel.show(look, followers)
        finally:
            channel.looking = None

    async def _ask(self, feed: Feed, created_from: datetime | None, unseen_from: int, after: str = "") -> Look:
        async with self._database.transaction() as tx:
            if isinstance(feed, RunFeed):
                found = await read_feeds.runs_by_id(tx, [feed.run_id])
                return _look_of(feed, found.seen, found.rows[0] if found.rows else None)
            return Look(
                await read_feeds.runs_of(tx, feed, created_from=created_from, unseen_from=unseen_from, after=after)
            )


def _look_of(feed: RunFeed, seen: Seen, row: Row | None) -> Look:
    """An id is no permission: another environment's run is not there."""
    is_ours = row is not None and row.run.environment_id == feed.environment_id
    return Look(Found(seen, [row] if row and is_ours else []))


def _show_run(channel: _Channel, seen: Seen, row: Row | None) -> None:
    """To all that follow it now: the row is the whole of the feed, also for who came after the look had begun."""
    assert isinstance(channel.feed, RunFeed)
    look = _look_of(channel.feed, seen, row)
    channel.show(look, [*channel.followers])
    if not look.found.rows:
        for follower in channel.followers:
            follower.tell(Gone())


def _first(feed: TagFeed) -> str:
    return feed.tags[0] if feed.tags else ""


def _remove(index: dict[str, list[_Channel]], key: str, channel: _Channel) -> None:
    index[key].remove(channel)
    if not index[key]:
        del index[key]
