"""Words by which a run is found: given at its trigger, and added while it works or later."""

from dataclasses import dataclass
from datetime import datetime

from torpor.engine.family import lock_members
from torpor.engine.outcomes import Unknown
from torpor.store.database import Transaction

MAX_TAGS = 10
"""The most that a run may have, unless a setting says otherwise."""


@dataclass(frozen=True, slots=True)
class Tagged:
    """All that the run has now, and how many of them are new."""

    tags: list[str]
    added: int


@dataclass(frozen=True, slots=True)
class TooManyTags:
    """It would have so many. None was added."""

    value: int


async def add_tags(
    tx: Transaction, environment_id: str, run_id: str, tags: list[str], *, most: int = MAX_TAGS, now: datetime
) -> Tagged | TooManyTags | Unknown:
    """Add tags to a run, also to one that is over. For the API. Those that it has count once."""
    if not await tx.fetchval("select true from runs where id = $1 and environment_id = $2", run_id, environment_id):
        return Unknown()
    run = (await lock_members(tx, [run_id])).get(run_id)
    if run is None:
        return Unknown()
    after = with_tags(run.tags, tags, most)
    if isinstance(after, TooManyTags):
        return after
    if after != run.tags:
        await tx.execute("update runs set tags = $2, updated_at = $3 where id = $1", run_id, after, now)
        await tx.notify("run", run_id=run_id)
    return Tagged(after, len(after) - len(run.tags))


def with_tags(present: list[str], added: list[str], most: int) -> list[str] | TooManyTags:
    """Both, each once, in the order in which they came."""
    after = list(dict.fromkeys((*present, *added)))
    # Whoever has too many already, by an older limit, may keep them.
    return TooManyTags(len(after)) if len(after) > max(most, len(present)) else after
