"""Tokens that are good for one use."""

from datetime import datetime

from torpor.engine.prune import ROWS, Pruned
from torpor.store.database import Transaction


async def use_token(tx: Transaction, token_hash: bytes, used_for: str, expires_at: datetime) -> bool:
    """Use a one-time token for this run or batch, in the transaction that makes it. False: it was used for another.

    Of two requests at the same moment the slower one waits here for the other's commit. The same request, said again
    because its answer was lost, names the same run or batch, and is no second use.

    Args:
        token_hash: the sha256 of what is signed of the token.
        used_for: the id of what is made with it.
        expires_at: when the token runs out; then it needn't be remembered.
    """
    made = await tx.fetchval(
        """insert into used_tokens (token_hash, used_for, expires_at) values ($1, $2, $3)
           on conflict do nothing returning true""",
        token_hash,
        used_for,
        expires_at,
    )
    return bool(made) or await token_use(tx, token_hash) == used_for


async def token_use(tx: Transaction, token_hash: bytes) -> str | None:
    """What it was used for, if it was."""
    return await tx.fetchval("select used_for from used_tokens where token_hash = $1", token_hash)


async def forget_tokens(tx: Transaction, *, rows: int = ROWS, now: datetime) -> Pruned:
    """Those that needn't be remembered any more. Call again until none are deleted."""
    gone = await tx.fetch(
        """delete from used_tokens where token_hash in (
               select token_hash from used_tokens where expires_at <= $1 limit $2 for update skip locked)
           returning true""",
        now,
        rows,
    )
    return Pruned(len(gone))
