"""Make a token: a waitpoint that someone outside completes (engine/complete.py)."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from torpor import ids
from torpor.engine import events
from torpor.engine.instants import after, to_iso
from torpor.engine.locks import lock_leased
from torpor.engine.outcomes import Lease, Stale
from torpor.store.database import Transaction

IDEMPOTENCY_TTL_S = 30 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What somebody wants to wait for. A token with a `title` is an approval: a person is asked."""

    waitpoint_id: str | None = None  # made by the SDK: the same request twice is the same token
    timeout_s: float | None = None
    timeout_at: datetime | None = None  # instead
    tags: list[str] = field(default_factory=list)
    idempotency_key: str | None = None
    idempotency_key_ttl_s: float | None = None
    title: str | None = None
    context: Any = None
    lease: Lease | None = None  # from inside a run


@dataclass(frozen=True, slots=True)
class TokenCreated:
    """The token, new, or (`is_cached`) the one that this request or its idempotency key had made before."""

    waitpoint_id: str
    is_cached: bool


async def create_token(
    tx: Transaction, environment_id: str, request: TokenRequest, *, now: datetime
) -> TokenCreated | Stale:
    """Make a token. For the API, and for user code through its worker (`lease`; Stale: that process is void)."""
    if request.lease is not None:
        run = await lock_leased(tx, request.lease)
        if isinstance(run, Stale):
            return run
    if request.waitpoint_id and await tx.fetchval(
        "select 1 from waitpoints where id = $1 and environment_id = $2", request.waitpoint_id, environment_id
    ):
        return TokenCreated(request.waitpoint_id, is_cached=True)
    due_at = request.timeout_at or (after(now, request.timeout_s) if request.timeout_s is not None else None)
    waitpoint_id = await _insert(tx, environment_id, request, due_at, now=now)
    if waitpoint_id is None:
        return await _cached(tx, environment_id, request)
    if due_at is not None:
        await tx.notify("timer", due_at=to_iso(due_at))
    if request.lease is not None:
        data = {"waitpoint_id": waitpoint_id, "title": request.title, "due_at": to_iso(due_at) if due_at else None}
        await events.record(tx, request.lease.run_id, "token.created", now=now, data=data)
    else:
        await events.announce(tx, "tokens")
    return TokenCreated(waitpoint_id, is_cached=False)


async def _insert(
    tx: Transaction, environment_id: str, request: TokenRequest, due_at: datetime | None, *, now: datetime
) -> str | None:
    """The row; None if a twin was quicker, or a live key stands on another token."""
    key_expires_at = None
    if request.idempotency_key:
        ttl_s = IDEMPOTENCY_TTL_S if request.idempotency_key_ttl_s is None else request.idempotency_key_ttl_s
        key_expires_at = after(now, ttl_s)
        await tx.execute(
            """update waitpoints set idempotency_key = null
               where environment_id = $1 and idempotency_key = $2 and idempotency_key_expires_at <= $3""",
            environment_id,
            request.idempotency_key,
            now,
        )
    return await tx.fetchval(
        """insert into waitpoints (id, environment_id, kind, due_at, tags, idempotency_key, idempotency_key_expires_at,
                                   title, context, created_by_run_id, created_at)
           values ($1, $2, 'token', $3, $4, $5, $6, $7, $8, $9, $10) on conflict do nothing returning id""",
        request.waitpoint_id or ids.new("waitpoint"),
        environment_id,
        due_at,
        list(dict.fromkeys(request.tags)),
        request.idempotency_key,
        key_expires_at,
        request.title,
        request.context,
        request.lease.run_id if request.lease else None,
        now,
    )


async def _cached(tx: Transaction, environment_id: str, request: TokenRequest) -> TokenCreated:
    """What stood in the way of the insert: a statement of its own, so it sees what was committed meanwhile."""
    waitpoint_id = await tx.fetchval(
        """select id from waitpoints where environment_id = $1 and (id = $2 or idempotency_key = $3)
           order by id = $2 desc limit 1""",
        environment_id,
        request.waitpoint_id,
        request.idempotency_key,
    )
    assert waitpoint_id is not None, "a token id of another environment was sent"
    return TokenCreated(waitpoint_id, is_cached=True)
