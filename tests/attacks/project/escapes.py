"""To be there when the run is over. Children are known by what they sleep for."""

import asyncio
import os
import signal
import subprocess
import time

from arms import World
from loud import loud

from torpor import current


def _sleep(world: World, *, detached: bool) -> None:
    """A process that would be there for a year, and is nobody's child, in a session of its own, deaf to signals."""
    if os.fork() == 0:
        if detached:
            os.setsid()
            if os.fork() != 0:
                os._exit(0)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)
        os.execvp("sleep", ["sleep", str(world.sleep)])
    time.sleep(0.2)


@loud
async def leaves_a_child(world: World) -> str:
    _sleep(world, detached=False)
    return "done"


@loud
async def leaves_a_child_that_nobody_knows(world: World) -> str:
    _sleep(world, detached=True)
    return "done"


@loud
async def leaves_children_and_dies(world: World) -> str:
    _sleep(world, detached=True)
    os._exit(3)


@loud
async def leaves_a_writer(world: World) -> str:
    """A child that writes to the run's output for ever."""
    subprocess.Popen(["sh", "-c", "while :; do echo still here; sleep 0.01; done"], start_new_session=True)
    return "done"


@loud
async def does_not_hear_that_it_is_to_end(world: World) -> str:
    """Neither the signal nor the exception."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _sleep(world, detached=True)
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            continue


@loud
async def is_deaf_in_every_way(world: World) -> str:
    """In C code, with all signals blocked."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    _sleep(world, detached=True)
    while True:
        time.sleep(3600)


@loud
async def kills_everybody(world: World) -> str:
    """Whom it may: itself is not among them."""
    assert current.run_id
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        return "nobody is there"
    return "signaled"
