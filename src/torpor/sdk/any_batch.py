"""`torpor.batch_trigger`: a batch of several tasks' runs."""

from collections.abc import AsyncIterable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from torpor.sdk.options import Duration

if TYPE_CHECKING:
    from torpor.sdk.batch import Batch, BatchItem, BatchResult

R = TypeVar("R")


async def batch_trigger(
    items: "Iterable[BatchItem[Any]] | AsyncIterable[BatchItem[Any]]",
    *,
    idempotency_key: str | None = None,
    idempotency_key_ttl: Duration | None = None,
) -> "Batch":
    """Ask for runs of any tasks, all in one batch. As `Task.batch_trigger`; each item is made by `task.item(…)`.

    Example:
        >>> from torpor import task
        >>> @task
        ... async def welcome(name: str) -> str: ...
        >>> @task
        ... async def bill(name: str, amount: float) -> str: ...
        >>> async def join(name: str) -> list[str]:
        ...     return (await batch_trigger([welcome.item(name), bill.options(delay="1d").item(name, 9.5)])).run_ids
    """
    from torpor.sdk import batch_doors

    return await batch_doors.trigger(None, {}, items, idempotency_key, idempotency_key_ttl)


async def batch_trigger_and_wait(
    items: "Iterable[BatchItem[R]] | AsyncIterable[BatchItem[R]]",
    *,
    idempotency_key: str | None = None,
    idempotency_key_ttl: Duration | None = None,
) -> "list[BatchResult[R]]":
    """The same, and wait until the last run has ended. As `Task.batch_trigger_and_wait`.

    Raises:
        NotInRun: called outside a run.

    Example:
        >>> from torpor import task
        >>> @task
        ... async def width(name: str) -> int: ...
        >>> @task
        ... async def height(name: str) -> int: ...
        >>> @task
        ... async def area(name: str) -> int:
        ...     wide, high = await batch_trigger_and_wait([width.item(name), height.item(name)])
        ...     return wide.unwrap() * high.unwrap()
    """
    from torpor.sdk import batch_doors

    return await batch_doors.trigger_and_wait(None, {}, items, idempotency_key, idempotency_key_ttl)


def batch_trigger_blocking(
    items: "Iterable[BatchItem[Any]]",
    *,
    idempotency_key: str | None = None,
    idempotency_key_ttl: Duration | None = None,
) -> "Batch":
    """As `torpor.batch_trigger`, blocking.

    Raises:
        BlockingInLoop: called in a running event loop.
    """
    from torpor.sdk import batch_doors

    return batch_doors.trigger_blocking(None, {}, items, idempotency_key, idempotency_key_ttl)


def batch_trigger_and_wait_blocking(
    items: "Iterable[BatchItem[R]]",
    *,
    idempotency_key: str | None = None,
    idempotency_key_ttl: Duration | None = None,
) -> "list[BatchResult[R]]":
    """As `torpor.batch_trigger_and_wait`, blocking.

    Raises:
        NotInRun: called outside a run.
        BlockingInLoop: called in a running event loop.
    """
    from torpor.sdk import batch_doors

    return batch_doors.trigger_and_wait_blocking(None, {}, items, idempotency_key, idempotency_key_ttl)
