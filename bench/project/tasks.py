"""What the benchmarks run: tasks that write down the instant at which each of their lines ran."""

import asyncio
import os
import time

from torpor import task, wait


def stamp(journal: str, what: str) -> None:
    with open(journal, "a") as file:
        file.write(f"{what} {time.time()}\n")


@task
async def first_line(journal: str) -> None:
    stamp(journal, "first")


@task
async def one_wait(journal: str, seconds: float, megabytes: int = 0) -> int:
    ballast = os.urandom(megabytes << 20)  # nothing can be saved on it by compressing or sharing
    stamp(journal, "running")
    await asyncio.sleep(0.3)  # so that the benchmark finds the process and is quiet while it is measured
    stamp(journal, "entered")
    await wait.for_(seconds=seconds)
    stamp(journal, "continued")
    return len(ballast)


@task
async def waits_for_token(token_id: str) -> None:
    await wait.for_token(token_id)
