"""Lists in pages: a place in one, a page of one, and the where clause of its statement."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from torpor.store.database import Transaction

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page:
    """A place in a list, newest first: `after` an id goes to older ones, `before` an id to newer ones."""

    size: int = 25
    after: str | None = None
    before: str | None = None


FIRST = Page()


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """One page. `next` and `previous` are ids for `Page.after` and `Page.before`, if there is more that way."""

    items: list[T]
    next: str | None
    previous: str | None


@dataclass(frozen=True, slots=True)
class Numbered(Generic[T]):
    """One page of a list whose pages have numbers, from 1, and how many items there are in all."""

    items: list[T]
    page: int
    size: int
    count: int


class Conditions:
    """A where clause under construction; `{}` stands for the value's number."""

    def __init__(self, environment_id: str) -> None:
        self.parts = ["environment_id = $1"]
        self.values: list[Any] = [environment_id]

    def value(self, value: Any) -> str:
        """A parameter with this value: `$3`."""
        self.values.append(value)
        return f"${len(self.values)}"

    def add(self, text: str, value: Any) -> None:
        self.parts.append(text.replace("{}", self.value(value)))

    def add_if(self, text: str, value: Any) -> None:
        if value is not None:
            self.add(text, value)


async def place(tx: Transaction, table: str, page: Page) -> tuple[datetime, str] | None:
    """Where the row of the page's cursor stands in the list; None: the page is the first, or that row is gone."""
    row = await tx.fetchrow(f"select created_at, id from {table} where id = $1", page.before or page.after)
    return (row["created_at"], row["id"]) if row else None


def order(page: Page) -> str:
    """The order in which a page is read; one that goes to newer ones is read backwards."""
    return "created_at, id" if page.before is not None else "created_at desc, id desc"


async def read_page(
    tx: Transaction, table: str, conditions: Conditions, page: Page, make: Callable[[Mapping[str, Any]], T]
) -> Listing[T]:
    """Newest first by (created_at, id)."""
    cursor = page.before or page.after
    if cursor is not None:
        sign = ">" if page.before is not None else "<"
        conditions.add(f"(created_at, id) {sign} (select created_at, id from {table} where id = {{}})", cursor)
    limit = conditions.value(page.size + 1)
    rows = await tx.fetch(
        f"select * from {table} where {' and '.join(conditions.parts)} order by {order(page)} limit {limit}",
        *conditions.values,
    )
    return listing(rows, page, make)


def listing(rows: list[Any], page: Page, make: Callable[[Mapping[str, Any]], T]) -> Listing[T]:
    """A page of rows as they were read: one more than asked for tells whether there is more that way."""
    backwards = page.before is not None
    has_more = len(rows) > page.size
    rows = rows[: page.size]
    if backwards:
        rows.reverse()
    first, last = (rows[0]["id"], rows[-1]["id"]) if rows else (None, None)
    # Whoever came here by a cursor came from somewhere.
    has_next, has_previous = (True, has_more) if backwards else (has_more, page.after is not None)
    return Listing([make(row) for row in rows], last if has_next else None, first if has_previous else None)
