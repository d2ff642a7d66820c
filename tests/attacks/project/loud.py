"""The tasks: one that makes quiet attacks, one that is attacked, one that does nothing wrong, and a maker of loud ones.

A loud attack has a run of its own, since it may end it. It is made in a fresh process, or in one that was frozen and thawed.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import others
import outside
import places
import privilege
from arms import World, frozen, made, quiet

from torpor import Retry, create_token, task, wait

__all__ = ["others", "outside", "places", "privilege"]

Loud = Callable[[World], Awaitable[Any]]
once = Retry(max_attempts=1)


@task(retry=once)
async def make_quiet_attacks(world: World, names: list[str]) -> dict[str, dict[str, str]]:
    fresh = {name: made(lambda name=name: quiet[name](world)) for name in names}
    await frozen()
    return {"fresh": fresh, "restored": {name: made(lambda name=name: quiet[name](world)) for name in names}}


def loud(function: Loud) -> Loud:
    """A task of this name."""

    async def perform(world: World, restored: bool) -> Any:
        if restored:
            await frozen()
        return await function(world)

    perform.__name__ = function.__name__
    perform.__module__ = function.__module__
    task(id=function.__name__, retry=once)(perform)
    return function


@task(retry=once)
async def is_attacked(secret: str) -> dict[str, str]:
    """It has secrets wherever one may have them, and tells in the end whether they are still what they were."""
    held = bytearray(secret.encode())
    for name in ("secret", f"{os.environ.get('TMPDIR', '/tmp')}/secret"):
        Path(name).write_text(secret)
        Path(name).chmod(0o666)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"{os.environ.get('TMPDIR', '/tmp')}/own.sock")
    listening.listen()
    token = await create_token()
    nap = asyncio.create_task(asyncio.sleep(3600))  # it is not to be frozen: it has to be there
    await wait.for_token(token)
    nap.cancel()
    return {"memory": held.decode(), "file": Path("secret").read_text(), "directory": ",".join(sorted(os.listdir(".")))}


@task(retry=once)
async def does_nothing_wrong(number: int) -> int:
    Path("note").write_text(str(number))
    await frozen()
    print("back again")
    return int(Path("note").read_text()) * 2
