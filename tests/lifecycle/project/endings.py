"""Tasks that are ended: by a cancel, by their limit, by a signal."""

import asyncio
import socket
import time

from tasks import note

from torpor import Retry, RunCanceled, RunFailed, create_token, current, task, wait
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


# -- hooks ------------------------------------------------------------------------------------------------------------


@task
async def has_hooks(journal: str) -> None:
    note(journal, "begins")
    await wait.for_(hours=1)


@has_hooks.on_cancel
def tell_cancel(payload: str, reason: str) -> None:
    note(payload, f"canceled: {reason}")


@has_hooks.on_failure
async def tell_failure(payload: str, error: RunFailed) -> None:
    note(payload, f"{error.status}: {error.error and error.error['name']} of {current.run_id}")


@task(retry=Retry(max_attempts=1), max_duration="3s")
async def works_too_long(journal: str) -> None:
    note(journal, "begins")
    await wait.for_(seconds=3.5)  # doesn't count
    note(journal, "waited")
    time.sleep(3600)  # noqa: ASYNC251


@works_too_long.on_failure
def tell_time_out(payload: str, error: RunFailed) -> None:
    note(payload, f"{error.status}: {error.error and error.error['name']}")


@task(retry=Retry(max_attempts=1))
def dies(journal: str) -> None:
    note(journal, "begins")
    time.sleep(3600)


@dies.on_failure
def tell_death(payload: str, error: RunFailed) -> None:
    note(payload, f"{error.status}: {error.error and error.error['name']} of {current.run_id}")


_open: dict[str, socket.socket] = {}


@task
async def has_a_connection(port: int) -> str:
    """Holds a connection that an image can't hold, but for its hooks."""
    _open["it"] = socket.create_connection(("127.0.0.1", port))
    await wait.for_token(await create_token())
    return _open["it"].recv(100).decode()


@has_a_connection.on_suspend
async def close() -> None:
    await asyncio.sleep(0.01)
    _open.pop("it").close()


@has_a_connection.on_resume
async def reopen() -> None:
    await asyncio.sleep(0.01)
    _open["it"] = socket.create_connection(("127.0.0.1", _ports[0]))


_ports: list[int] = []


@has_a_connection.on_start
def remember(payload: int) -> None:
    _ports.append(payload)
