"""The waits of a run as the wire shows them: answers for those that are complete, `OpenWait` for the others."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from torpor.engine.instants import to_iso
from torpor.store.database import Transaction
from torpor.wire.http import OpenWait
from torpor.wire.runner import Answer, TaskError

ALARM = "alarm_"
"""How the ids of waits begin that are timers of a process's event loop: nobody can answer those."""


@dataclass(frozen=True, slots=True)
class Tied:
    """A wait together with its waitpoint."""

    wait_id: str
    delivered_at: datetime | None
    times_out_at: datetime | None
    timed_out_at: datetime | None
    kind: str
    status: str
    due_at: datetime | None
    awaited_run_id: str | None
    output: str | None
    output_object: str | None
    error: dict[str, Any] | None
    run_status: str | None
    completed_at: datetime | None

    @property
    def is_open(self) -> bool:
        return self.status == "pending" and self.timed_out_at is None

    @property
    def ends_at(self) -> datetime | None:
        """When it is answered at the latest."""
        return min((at for at in (self.due_at, self.times_out_at) if at), default=None)

    def answer(self) -> Answer:
        if self.timed_out_at is not None:  # its waitpoint may have been answered since, which came too late
            return Answer(self.wait_id, "timed_out", run_id=self.awaited_run_id, completed_at=to_iso(self.timed_out_at))
        assert self.completed_at is not None
        return Answer(
            wait_id=self.wait_id,
            status=self.status,
            output=msgspec.Raw((self.output or "null").encode()),
            error=msgspec.convert(self.error, TaskError) if self.error else None,
            run_id=self.awaited_run_id,
            run_status=self.run_status,
            completed_at=to_iso(self.completed_at),
            output_object=self.output_object,
        )

    def open_wait(self, now: datetime) -> OpenWait:
        due_in_s = max((self.ends_at - now).total_seconds(), 0.0) if self.ends_at else None
        return OpenWait(wait_id=self.wait_id, kind=self.kind, due_in_s=due_in_s)  # pyright: ignore[reportArgumentType]


async def tied(tx: Transaction, run_id: str) -> list[Tied]:
    """The waits that a run has not dropped, in the order of their making."""
    rows = await tx.fetch(
        """select waits.wait_id, waits.delivered_at, waits.times_out_at, waits.timed_out_at, waitpoints.kind,
                  waitpoints.status, waitpoints.due_at, waitpoints.awaited_run_id, waitpoints.output, waitpoints.output_object,
                  waitpoints.error, waitpoints.run_status, waitpoints.completed_at
           from waits join waitpoints on waitpoints.id = waits.waitpoint_id
           where waits.run_id = $1 and waits.detached_at is null
           order by waits.created_at, waits.wait_id""",
        run_id,
    )
    return [Tied(**row) for row in rows]


async def mark_delivered(tx: Transaction, run_id: str, wait_ids: list[str], *, now: datetime) -> None:
    """These answers are on their way into the process: a heartbeat need not speak of them again."""
    if wait_ids:
        await tx.execute(
            """update waits set delivered_at = $3
               where run_id = $1 and wait_id = any($2::text[]) and delivered_at is null""",
            run_id,
            wait_ids,
            now,
        )


async def detach_all(tx: Transaction, run_id: str, *, now: datetime) -> None:
    """The process that waited is gone for good."""
    await tx.execute("update waits set detached_at = $2 where run_id = $1 and detached_at is null", run_id, now)
