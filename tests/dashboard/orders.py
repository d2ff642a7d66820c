"""Tasks as somebody might write them, with payloads of all kinds: what the pages of tasks and the test page are shown with."""

from datetime import date, datetime
from enum import Enum
from typing import Annotated, Any, Literal

from fake_worker import VERSION, manifest
from history import MARKUP, TASKS, Site
from pydantic import BaseModel, Field

from torpor import Queue, task
from torpor.wire import http as wire
from torpor.wire.runner import TaskManifest

WAREHOUSE = Queue("warehouse", concurrency_limit=2)


class Speed(Enum):
    standard = "standard"
    express = "express"


class Item(BaseModel):
    sku: str
    count: Annotated[int, Field(ge=1, description="How many of them")] = 1


class Customer(BaseModel):
    name: str
    email: str | None = None
    born: date | None = None


@task(id="orders/fulfil", queue=WAREHOUSE, machine="medium-1x", max_duration="10m")
async def fulfil(
    order: int,
    customer: Customer,
    items: list[Item],
    speed: Speed = Speed.standard,
    gift: bool = False,
    discount: float | None = None,
    ship_at: datetime | None = None,
    billing: Customer | None = None,
    notes: Any = None,
) -> str:
    """Pick, pack and ship an order.

    Freezes until the carrier has confirmed.
    """
    return f"{order} {customer} {items} {speed} {gift} {discount} {ship_at} {billing} {notes}"


@task(id="orders/close")
def close() -> None:
    """Closes the books of the day."""


@task(id="orders/label")
def label(text: Literal["fragile", "heavy"] | None = None) -> None: ...


HOSTILE = TaskManifest(
    f"orders/{MARKUP}",
    f"{MARKUP}.py",
    3,
    True,
    "named",
    {
        "type": "object",
        "properties": {
            MARKUP: {"type": "string", "title": MARKUP, "description": MARKUP, "default": MARKUP},
            "a.b/~": {},
        },
        "required": [MARKUP],
    },
    manifest("x").retry,
    doc=MARKUP,
)


async def open_shop(site: Site) -> Site:
    """The site, whose current version has these tasks as well."""
    tasks = [each.manifest() for each in (fulfil, close, label)]
    everything = [*(manifest(name) for name in TASKS), *tasks, HOSTILE]
    report = wire.VersionReport(site.worker.worker_id, VERSION, everything, [WAREHOUSE.manifest])
    await site.worker.say("versions", report, wire.VersionAccepted)
    return site
