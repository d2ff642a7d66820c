"""Accounts of the dashboard, the browsers that are signed in to them, and links that sign one in, once.

A browser is known by the hash of its cookie, a link by the hash of its token. A session that began with a link has no
account: who can make a link holds a secret key, and that may do everything anyhow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

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
class Browser:
    """One that is to be signed in: its cookie, and where it is from, so that people know their sessions apart."""

    cookie_hash: bytes
    address: str
    agent: str


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


async def enter(tx: Transaction, issuer: str, subject: str, name: str, *, now: datetime) -> Account | NameTaken:
    """The account of somebody whom a provider knows by this subject, by what it is called now. The caller has checked who may.

    One that has the name by other means stays its owner's: the same address may be somebody else's there.
    """
    row = await tx.fetchrow(
        """insert into accounts (id, name, issuer, subject, created_at) values ($1, $2, $3, $4, $5)
           on conflict do nothing returning *""",
        ids.new("account"),
        name,
        issuer,
        subject,
        now,
    )
    if row is None:
        row = await tx.fetchrow(
            """update accounts set name = $3 where issuer = $1 and subject = $2
               and not exists (select from accounts other where lower(other.name) = lower($3) and other.id <> accounts.id)
               returning *""",
            issuer,
            subject,
            name,
        )
    return Account.of(row) if row else NameTaken()


async def remove_account(tx: Transaction, account_id: str) -> Ok | Unknown:
    """This account is gone, and with it whoever is signed in to it."""
    await end_sessions(tx, account_id)
    gone = await tx.fetchval("delete from accounts where id = $1 returning id", account_id)
    return Ok() if gone else Unknown()


async def change_password(tx: Transaction, account: Account, password_hash: str) -> Ok | Unknown:
    """Another password; whoever is signed in to the account is signed out. The caller has checked the old one.

    Unknown: the account is gone, or its password has become another since it was read.
    """
    changed = await tx.fetchval(
        "update accounts set password_hash = $3 where id = $1 and password_hash = $2 returning true",
        account.id,
        account.password_hash,
        password_hash,
    )
    if not changed:
        return Unknown()
    await end_sessions(tx, account.id)
    return Ok()


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


async def use_link(tx: Transaction, token_hash: bytes, browser: Browser, *, now: datetime) -> Ok | Unknown:
    """This browser is signed in; the link is worth nothing from now on. Of two uses at once one succeeds."""
    used = await tx.fetchval(
        "delete from sign_in_links where token_hash = $1 and expires_at > $2 returning true", token_hash, now
    )
    return await sign_in(tx, None, browser, now=now) if used else Unknown()


async def sign_in(
    tx: Transaction, account: Account | None, browser: Browser, *, now: datetime, longest_s: float | None = None
) -> Ok | Unknown:
    """This browser is signed in, for so long at most. The caller has checked the password.

    Unknown: the account is gone, or its password has become another since it was read.
    """
    if account is not None:
        # Locked: a change of the password either comes first, or finds this session and ends it.
        is_same = await tx.fetchval(
            "select true from accounts where id = $1 and password_hash is not distinct from $2 for share",
            account.id,
            account.password_hash,
        )
        if not is_same:
            return Unknown()
    ends_at = None if longest_s is None else now + timedelta(seconds=longest_s)
    await tx.execute(
        """insert into sessions (cookie_hash, account_id, created_at, seen_at, expires_at, address, agent, ends_at)
           values ($1, $2, $3, $3, $4, $5, $6, $7)""",
        browser.cookie_hash,
        account.id if account else None,
        now,
        _end(now, ends_at),
        browser.address,
        browser.agent,
        ends_at,
    )
    return Ok()


async def signed_in(tx: Transaction, cookie_hash: bytes, *, now: datetime) -> SignedIn | None:
    """Who the browser with this cookie is signed in as. It has been seen now, so its end moves on."""
    row = await tx.fetchrow("select * from sessions where cookie_hash = $1 and expires_at > $2", cookie_hash, now)
    if row is None:
        return None
    session, account = Session.of(row), None
    if session.account_id is not None:
        found = await tx.fetchrow("select * from accounts where id = $1", session.account_id)
        if found is None:  # removed just now, and the session with it
            return None
        account = Account.of(found)
    if (now - session.seen_at).total_seconds() >= SEEN_WITHIN_S:
        await tx.execute(
            "update sessions set seen_at = $2, expires_at = $3 where cookie_hash = $1",
            cookie_hash,
            now,
            _end(now, session.ends_at),
        )
    return SignedIn(session, account)


def _end(now: datetime, ends_at: datetime | None) -> datetime:
    idle = now + timedelta(seconds=IDLE_S)
    return min(idle, ends_at) if ends_at else idle


async def sessions_of(tx: Transaction, account_id: str | None, *, now: datetime) -> list[Session]:
    """Where somebody is signed in, the last one seen first. Those who came by links are one: who holds the secret key."""
    rows = await tx.fetch(
        """select * from sessions where account_id is not distinct from $1 and expires_at > $2
           order by seen_at desc, created_at desc""",
        account_id,
        now,
    )
    return [Session.of(row) for row in rows]


async def sign_out(tx: Transaction, cookie_hash: bytes) -> None:
    """The browser with this cookie is signed out."""
    await _ended(tx, await tx.fetch("delete from sessions where cookie_hash = $1 returning cookie_hash", cookie_hash))


async def end_session(tx: Transaction, account_id: str | None, cookie_hash: bytes) -> Ok | Unknown:
    """One of somebody's own sessions ends."""
    rows = await tx.fetch(
        "delete from sessions where account_id is not distinct from $1 and cookie_hash = $2 returning cookie_hash",
        account_id,
        cookie_hash,
    )
    await _ended(tx, rows)
    return Ok() if rows else Unknown()


async def end_sessions(tx: Transaction, account_id: str | None) -> None:
    """All of somebody's sessions end."""
    gone = "delete from sessions where account_id is not distinct from $1 returning cookie_hash"
    await _ended(tx, await tx.fetch(gone, account_id))


async def _ended(tx: Transaction, rows: Sequence[Any]) -> None:
    """What is shown live there stops."""
    await tx.notify_all("session", [{"cookie_hash": row["cookie_hash"].hex()} for row in rows])


async def forget_sessions(tx: Transaction, *, now: datetime) -> int:
    """Delete sessions and links that are over; how many."""
    sessions = await tx.fetch("delete from sessions where expires_at <= $1 returning true", now)
    links = await tx.fetch("delete from sign_in_links where expires_at <= $1 returning true", now)
    return len(sessions) + len(links)
