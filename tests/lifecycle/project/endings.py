"""Tasks that are ended: by a cancel, by their limit, by a signal."""

import asyncio
import time

from tasks import note

from torpor import RunCanceled, task, wait
from torpor import sync as blocking


@task
def counts(journal: str) -> int:
    """Computes in Python, and looks at nothing."""
    note(journal, "counting")
    count = 0
    try:
        while True:
            count += 1
    except RunCanceled:
        note(journal, "told")
        raise


@task
def naps(journal: str) -> None:
    note(journal, "napping")
    try:
        blocking.wait.for_(hours=1)
    finally:
        note(journal, "woken")


@task
async def ignores(journal: str) -> None:
    """Will not end."""
    note(journal, "going")
    while True:
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            note(journal, "ignored")


@task
async def blocks_its_loop(journal: str) -> None:
    note(journal, "going")
    time.sleep(3600)  # noqa: ASYNC251 - the point


@task
async def has_children(journal: str) -> None:
    note(journal, "parent")
    await asyncio.gather(*(sleeps_long.trigger_and_wait(journal) for _ in range(3)))


@task
async def sleeps_long(journal: str) -> None:
    note(journal, "child")
    await wait.for_(hours=1)
