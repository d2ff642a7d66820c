"""Fetch and list approvals: tokens that ask a person. Those that wait come first, whenever they were made. Writes nothing."""

from torpor.engine.pages import FIRST, Conditions, Listing, Page, listing, order
from torpor.engine.read import TokenView, token, views
from torpor.store.database import Transaction
from torpor.store.records import Waitpoint


async def approval(tx: Transaction, environment_id: str, token_id: str) -> TokenView | None:
    """One approval."""
    view = await token(tx, environment_id, token_id)
    return view if view and view.token.title is not None else None


async def approvals(tx: Transaction, environment_id: str, page: Page = FIRST) -> Listing[TokenView]:
    """Approvals: two lists in one, each newest first. A cursor is in the list in which its approval is by now."""
    backwards, cursor = page.before is not None, page.before or page.after
    at = None
    if cursor is not None:
        at = await tx.fetchrow(
            "select status = 'pending' as waits, created_at, id from waitpoints where id = $1", cursor
        )
        if at is None:
            return Listing([], None, None)
    parts = (False, True) if backwards else (True, False)
    rows: list[Waitpoint] = []
    for waits in parts if at is None or at["waits"] == parts[0] else parts[1:]:
        made = Conditions(environment_id)
        made.parts += ["kind = 'token'", "title is not null", "status = 'pending'" if waits else "status <> 'pending'"]
        if at is not None and at["waits"] == waits:
            sign = ">" if backwards else "<"
            made.parts.append(f"(created_at, id) {sign} ({made.value(at['created_at'])}, {made.value(at['id'])})")
        limit = made.value(page.size + 1 - len(rows))
        found = await tx.fetch(
            f"select * from waitpoints where {' and '.join(made.parts)} order by {order(page)} limit {limit}",
            *made.values,
        )
        rows += [Waitpoint.of(row) for row in found]
    found = listing([{"id": row.id, "row": row} for row in rows], page, lambda row: row["row"])
    return Listing(await views(tx, found.items), found.next, found.previous)
