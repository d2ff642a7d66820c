"""Accounts of the dashboard, the browsers that are signed in to them, and links that sign one in, once.

A browser is known by the hash of its cookie, a link by the hash of its token. A session that began with a link has no
account: who can make a link holds a secret key, and that may do everything anyhow.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from torpor import ids
from torpor.engine.outcomes import Ok, Unknown
from torpor.store.database import Transaction
from torpor.store.records import Account, Session

IDLE_S = 14 * 24 * 3600.0
"""A session that isn't used for so long is over."""
SEEN_WITHIN_S = 600.0
"""How coarse its last use is kept: no row is written more often than that."""
LINK_S = 3600.0
"""How long a link may lie about before it is used."""


@dataclass(frozen=True, slots=True)
class NameTaken:
    """There is an account with this name, as far as case doesn't matter."""


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A browser that is signed in, and to which account; None: by a link."""

    session: Session
    account: Account | None


async def create_account(tx: Transaction, name: str, password_hash: str, *, now: datetime) -> Account | NameTaken:
    """One more account. For the API and the dashboard."""
    row = await tx.fetchrow(
        """insert into accounts (id, name, password_hash, created_at) values ($1, $2, $3, $4)
           on conflict (lower(name)) do nothing returning *""",
        ids.new("account"),
        name,
        password_hash,
        now,
    )
    return Account.of(row) if row else NameTaken()


async def remove_account(tx: Transaction, account_id: str) -> Ok | Unknown:
    """This account is gone, and with it whoever is signed in to it."""
    gone = await tx.fetchval("delete from accounts where id = $1 returning id", account_id)
    return Ok() if gone else Unknown()


async def accounts(tx: Transaction) -> list[Account]:
    """All of them, by name."""
    return [Account.of(row) for row in await tx.fetch("select * from accounts order by lower(name)")]


async def account_by_name(tx: Transaction, name: str) -> Account | None:
    """The account with this name, in any case."""
    row = await tx.fetchrow("select * from accounts where lower(name) = lower($1)", name)
    return Account.of(row) if row else None


async def make_link(tx: Transaction, token_hash: bytes, *, now: datetime) -> datetime:
    """A link that signs one browser in, and until when it does."""
    expires_at = now + timedelta(seconds=LINK_S)
    await tx.execute("insert into sign_in_links values ($1, $2, $3)", token_hash, now, expires_at)
    return expires_at


async def use_link(tx: Transaction, token_hash: bytes, cookie_hash: bytes, *, now: datetime) -> Ok | Unknown:
    """The browser with this cookie is signed in; the link is worth nothing from now on. Of two uses at once one succeeds."""
    used = await tx.fetchval(
        "delete from sign_in_links where token_hash = $1 and expires_at > $2 returning true", token_hash, now
    )
    if not used:
        return Unknown()
    await sign_in(tx, None, cookie_hash, now=now)
    return Ok()


async def sign_in(tx: Transaction, account_id: str | None, cookie_hash: bytes, *, now: datetime) -> None:
    """The browser with this cookie is signed in. The caller has checked the password."""
    await tx.execute(
        "insert into sessions (cookie_hash, account_id, created_at, seen_at, expires_at) values ($1, $2, $3, $3, $4)",
        cookie_hash,
        account_id,
        now,
        now + timedelta(seconds=IDLE_S),
    )


async def signed_in(tx: Transaction, cookie_hash: bytes, *, now: datetime) -> SignedIn | None:
    """Who the browser with this cookie is signed in as. It has been seen now, so its end moves on."""
    row = await tx.fetchrow("select * from sessions where cookie_hash = $1 and expires_at > $2", cookie_hash, now)
    if row is None:
        return None
    session = Session.of(row)
    if (now - session.seen_at).total_seconds() >= SEEN_WITHIN_S:
        await tx.execute(
            "update sessions set seen_at = $2, expires_at = $3 where cookie_hash = $1",
            cookie_hash,
            now,
            now + timedelta(seconds=IDLE_S),
        )
    if session.account_id is None:
        return SignedIn(session, None)
    return SignedIn(session, Account.of(await tx.fetchrow("select * from accounts where id = $1", session.account_id)))


async def sign_out(tx: Transaction, cookie_hash: bytes) -> None:
    """The browser with this cookie is signed out."""
    await tx.execute("delete from sessions where cookie_hash = $1", cookie_hash)


async def forget_sessions(tx: Transaction, *, now: datetime) -> int:
    """Delete sessions and links that are over; how many."""
    sessions = await tx.fetch("delete from sessions where expires_at <= $1 returning true", now)
    links = await tx.fetch("delete from sign_in_links where expires_at <= $1 returning true", now)
    return len(sessions) + len(links)
