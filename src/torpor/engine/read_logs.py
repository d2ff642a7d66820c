"""Search what runs have said, newest first. Writes nothing.

Ids are given in the order in which lines come in, so the primary key is the way: backwards, in steps, each of so many lines
that it takes some hundredths of a second also where no line fits. After some steps it stops and says where it is; who wants to
looks on from there, as it does when it has looked for a while. One run's lines have an index of their own.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic
from typing import Any

from torpor.store.database import Transaction

STEP = 10_000
STEPS = 25
PATIENCE_S = 0.1
"""No step is begun after that. Where each line's run must be looked up, few are done by then."""
MESSAGE_CHARS = 4000
LATE = timedelta(hours=1)
"""So much later than others a line may come in, from a worker that was cut off."""


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Which lines; what is not set doesn't filter."""

    text: str | None = None  # anywhere in the message, in upper or lower case
    levels: list[str] | None = None
    task_id: str | None = None
    run_id: str | None = None
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """A line, and who said it. Of a message at most MESSAGE_CHARS."""

    id: int
    run_id: str
    task_id: str
    at: datetime
    level: str
    message: str
    attributes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Lines:
    """A page. `next`: older ones are before this id; None: there are none. `reached`: it looked no further back than to here."""

    items: list[Said]
    next: int | None = None
    reached: datetime | None = None


async def search_logs(
    tx: Transaction,
    environment_id: str,
    where: LogFilter,
    *,
    before: int | None = None,
    size: int,
    patience_s: float = PATIENCE_S,
) -> Lines:
    """Up to `size` lines that came in before that one, newest first. Hooks' are among them."""
    end = monotonic() + patience_s
    found: list[Said] = []
    reached: datetime | None = None
    for _ in range(STEPS):
        # Where lines were deleted, or other runs have spoken, there is nothing to walk through.
        top = await tx.fetchrow(
            f"""select id, at from logs where id < $1 {"and run_id = $2" if where.run_id else ""} order by id desc limit 1""",
            before if before is not None else 1 << 62,
            *([where.run_id] if where.run_id else []),
        )
        if top is None or (where.since is not None and top["at"] < where.since - LATE):
            return Lines(found)
        bottom = 0 if where.run_id else top["id"] - STEP
        found += await _between(tx, environment_id, where, bottom, top["id"], size + 1 - len(found))
        if len(found) > size:
            return Lines(found[:size], found[size - 1].id)
        before = bottom + 1
        reached = top["at"]
        if bottom <= 0:
            return Lines(found)
        if monotonic() > end:
            break
    return Lines(found, before, reached)


async def _between(
    tx: Transaction, environment_id: str, where: LogFilter, bottom: int, top: int, limit: int
) -> list[Said]:
    values: list[Any] = [environment_id, bottom, top, limit]
    parts = ["logs.id > $2", "logs.id <= $3", "runs.environment_id = $1"]
    for text, value in (
        ("logs.message ilike ${}", None if where.text is None else f"%{_literally(where.text)}%"),
        ("logs.level = any(${}::text[])", where.levels),
        ("logs.at >= ${}", where.since),
        ("logs.run_id = ${}", where.run_id),
        ("runs.task_id = ${}", where.task_id),
    ):
        if value is not None:
            values.append(value)
            parts.append(text.format(len(values)))
    rows = await tx.fetch(
        f"""select logs.id, logs.run_id, runs.task_id, logs.at, logs.level, left(logs.message, {MESSAGE_CHARS}) as message,
                   logs.attributes
            from logs join runs on runs.id = logs.run_id
            where {" and ".join(parts)} order by logs.id desc limit $4""",
        *values,
    )
    return [Said(**row) for row in rows]


def _literally(text: str) -> str:
    """A text as a pattern that has no wildcards."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
