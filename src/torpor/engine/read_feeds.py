"""What the followers of a run, a batch or a tag are owed: the runs that have changed since they last looked. Writes nothing.

Who follows gives back what he has seen, a snapshot of Postgres (`Seen`), and is owed the runs whose latest change is not
visible in it (migration 0006 says why nothing simpler would do). Every answer holds the snapshot that it was read in: rows
and snapshot are of one statement, so between two answers nothing is missed and nothing told twice.
"""

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from torpor.store.database import Transaction
from torpor.store.records import Run

PAGE_RUNS = 500
PAGE_BYTES = 4_000_000
"""Payloads and outputs in one page; a single run may have more."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Whose changes a reader has seen: those of transactions that had committed in this snapshot of this database."""

    database: int
    xmin: int  # all before this one were over
    xmax: int  # this one and all after it had not begun
    running: frozenset[int] = frozenset()  # of those in between

    def includes(self, transaction: int) -> bool:
        """Whether what this transaction has changed was there to be seen."""
        return transaction < self.xmin or (transaction < self.xmax and transaction not in self.running)

    def is_older(self, other: "Seen") -> bool:
        """Of two snapshots of one database: transactions begin, and then they end."""
        return (self.xmax, -len(self.running)) < (other.xmax, -len(other.running))

    @classmethod
    def of(cls, snapshot: str, identity: str) -> "Seen":
        """As Postgres writes one: `xmin:xmax:running,running`."""
        xmin, xmax, running = snapshot.split(":")
        database = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:6])
        return cls(database, int(xmin), int(xmax), frozenset(int(each) for each in running.split(",") if each))


@dataclass(frozen=True, slots=True)
class RunFeed:
    environment_id: str
    run_id: str


@dataclass(frozen=True, slots=True)
class BatchFeed:
    """The runs of a batch, those that an item has joined included."""

    environment_id: str
    batch_id: str


@dataclass(frozen=True, slots=True)
class TagFeed:
    """The runs that have all of these tags; without tags, all runs."""

    environment_id: str
    tags: tuple[str, ...]


Feed = RunFeed | BatchFeed | TagFeed


@dataclass(frozen=True, slots=True)
class Row:
    """A run, and the transactions in which it has changed or come into the feed."""

    run: Run
    changed_in: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """What was there in this snapshot; `has_more`: behind the last row, by id."""

    seen: Seen
    rows: list[Row]
    has_more: bool = False


@dataclass(frozen=True, slots=True)
class Kin:
    """What tells which feeds a run belongs to."""

    environment_id: str
    tags: list[str]
    changed_in: int
    batches: dict[str, int]  # and in which transaction it came into each


_NOW = "with now as materialized (select pg_current_snapshot()::text as snapshot, database_identity() as identity)"


async def runs_by_id(tx: Transaction, run_ids: Iterable[str]) -> Found:
    """Those of these runs that there are, whatever they have changed."""
    rows = await tx.fetch(
        f"{_NOW} select now.*, runs.* from now left join runs on runs.id = any($1::text[])", list(run_ids)
    )
    return _found(rows)


async def runs_of(
    tx: Transaction,
    feed: BatchFeed | TagFeed,
    *,
    created_from: datetime | None = None,
    unseen_from: int = 0,
    after: str = "",
) -> Found:
    """A page of a feed, by id: runs behind `after` that were made since `created_from`, and that have changed in this
    transaction or one of those that began after it."""
    match feed:
        case BatchFeed(batch_id=batch_id):
            statement, values = _statement(_OF_BATCH), [batch_id]
        case TagFeed(tags=()):
            statement, values = _statement(_OF_ALL), [created_from]
        case TagFeed(tags=tags):
            statement, values = _statement(_OF_TAGS), [created_from, tags]
    if isinstance(feed, TagFeed):
        # By the tag or by the time? What is best depends on how often they are.
        await tx.execute("set local plan_cache_mode = force_custom_plan")
    rows = await tx.fetch(statement, feed.environment_id, after, unseen_from, PAGE_RUNS, PAGE_BYTES, *values)
    return _found(rows)


# Batches are asked for by environment as well: an id is no permission.
_OF_BATCH = """(select run_id as id, array_agg(added_in::text::bigint) as joined_in from batch_items
    where batch_id = (select id from batches where id = $6 and environment_id = $1) and run_id is not null group by run_id
    ) as items join runs using (id) where true"""
_OF_ALL = """(select '{}'::bigint[] as joined_in) as items, runs
    where environment_id = $1 and created_at >= $6 and hook is null"""
_OF_TAGS = f"{_OF_ALL} and tags @> $7::text[] and tags <> '{{}}'"


@cache
def _statement(members: str) -> str:
    """One run more than the page has is asked for, by which it is known whether there are more.

    They are found first and put in order then: for a page in order, the planner would rather walk all runs by id.
    """
    return f"""
        {_NOW},
        members as materialized (
            select runs.id, joined_in, coalesce(octet_length(payload), 0) + coalesce(octet_length(output), 0) as bytes
            from {members} and runs.id > $2 and (changed_in >= $3::bigint::text::xid8 or $3 <= any(joined_in))),
        page as (
            select id, joined_in, row_number() over so_far as nth, sum(bytes) over so_far as bytes from members
            window so_far as (order by id rows unbounded preceding) order by id limit $4 + 1)
        select now.*, joined_in, (select count(*) from page) as in_page, runs.*
        from now
             left join (select * from page where nth = 1 or (nth <= $4 and bytes <= $5)) as shown on true
             left join runs on runs.id = shown.id
        order by runs.id"""


def _found(rows: list[Any]) -> Found:
    found: list[Row] = []
    seen, in_page = None, 0
    for fields in map(dict, rows):
        snapshot, identity = fields.pop("snapshot"), fields.pop("identity")
        seen = seen or Seen.of(snapshot, identity)
        joined_in, in_page = fields.pop("joined_in", None) or (), fields.pop("in_page", 0)
        if fields["id"] is not None:
            run = Run.of(fields)
            # A row that came from another cluster has a number that is yet to be given here.
            found.append(Row(run, tuple(each for each in (run.changed_in, *joined_in) if seen.includes(each))))
    assert seen is not None, "there is always now"
    return Found(seen, found, has_more=in_page > len(found))


async def kin(tx: Transaction, run_ids: Collection[str]) -> list[Kin]:
    """Of these runs: which feeds are theirs. Hooks are in nobody's."""
    rows = await tx.fetch(
        """select environment_id, tags, changed_in,
                  array(select batch_id from batch_items where run_id = runs.id order by batch_id, index) as batches,
                  array(select added_in::text::bigint from batch_items where run_id = runs.id order by batch_id, index) as added
           from runs where id = any($1::text[]) and hook is null""",
        run_ids,
    )
    return [
        Kin(row["environment_id"], row["tags"], row["changed_in"], dict(zip(row["batches"], row["added"], strict=True)))
        for row in rows
    ]
