"""A run, its parent and its root: whose metadata its code may change, and to whose streams it may append."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Self

from torpor.store.database import Transaction

Target = Literal["self", "parent", "root"]


@dataclass(frozen=True, slots=True)
class Family:
    """Ids. What a run does to a parent or root that it doesn't have, it does to itself. A hook's run is the run whose hook it
    is: `run_id` is that one's.
    """

    environment_id: str
    run_id: str
    parent_id: str
    root_id: str

    def id_of(self, target: Target) -> str:
        return {"self": self.run_id, "parent": self.parent_id, "root": self.root_id}[target]


@dataclass(frozen=True, slots=True)
class Member:
    """Of a run's row what is needed here: payload and output may be long, and this is read often."""

    id: str
    lease: int
    worker_id: str | None
    finished_at: datetime | None
    metadata: dict[str, Any] | None
    tags: list[str]
    metadata_lease: int
    metadata_number: int
    metadata_requests: list[str]

    @classmethod
    def of(cls, row: Any) -> Self:
        return cls(**row)


_COLUMNS = "id, lease, worker_id, finished_at, metadata, tags, metadata_lease, metadata_number, metadata_requests"


async def family(tx: Transaction, run_id: str, environment_id: str | None = None) -> Family | None:
    """Who belongs to this run: that never changes, so no lock is needed. None: there is no such run (there)."""
    row = await tx.fetchrow(
        """select its.environment_id, its.id as run_id, coalesce(its.parent_run_id, its.id) as parent_id,
                  coalesce(its.root_run_id, its.id) as root_id
           from runs as said join runs as its on its.id = coalesce(said.hook_of, said.id)
           where said.id = $1 and said.environment_id = coalesce($2, said.environment_id)""",
        run_id,
        environment_id,
    )
    return Family(**row) if row else None


async def lock_members(tx: Transaction, run_ids: Collection[str]) -> dict[str, Member]:
    """Lock these runs, in the order of all locks; those that exist."""
    return await _locked(tx, run_ids, "no key update")


async def share_members(tx: Transaction, run_ids: Collection[str]) -> dict[str, Member]:
    """Take a share of these runs, in order: none of them ends until this transaction is over."""
    return await _locked(tx, run_ids, "share")


async def _locked(tx: Transaction, run_ids: Collection[str], strength: str) -> dict[str, Member]:
    rows = await tx.fetch(
        f"select {_COLUMNS} from runs where id = any($1::text[]) order by id for {strength}", sorted(set(run_ids))
    )
    return {row["id"]: Member.of(row) for row in rows}
