"""An order that a person confirms before it is shipped. Two programs ask for it: ../from_node and ../from_python."""

from dataclasses import dataclass

from torpor import logger, metadata, task, wait


@dataclass
class Receipt:
    item: str
    price: int
    shipped: bool
    confirmed_by: str | None


@task
async def order(number: int, item: str, count: int = 1) -> Receipt:
    """Pack, ask, ship."""
    parcel = [item] * count
    price = 7 * len(parcel)
    metadata.set("step", "packed")  # whoever follows the run sees it at once
    logger.info("order %d: %d x %s are packed", number, count, item)

    # By its tag the other side finds the question. While nobody answers there is no process; the parcel is in its image.
    answer = await wait.for_approval(f"Ship {count} x {item} for {price}?", tags=f"order-{number}", timeout="1d")

    metadata.set("step", "shipped" if answer else "unpacked")
    logger.info("order %d is %s", number, metadata.get("step"))
    return Receipt(item=parcel[0], price=price, shipped=bool(answer), confirmed_by=answer.by)
