"""Tasks about the size of machine that they run on."""

import asyncio
from pathlib import Path

from torpor import Retry, checkpoint, current, task

MB = 1 << 20


@task(machine="small-2x")
async def works_on_a_machine(until: str) -> str:
    while not Path(until).exists():
        await asyncio.sleep(0.02)
    machine = current.machine
    assert machine is not None
    return f"{machine.name}: {machine.cpu} CPUs, {machine.memory_bytes // MB} MB"


@task(machine="micro", retry=Retry(max_attempts=1, on_oom="small-2x"))
async def takes_more_than_its_machine_has(megabytes: int) -> list[str]:
    machines = [current.machine.name if current.machine else ""]
    await checkpoint("before it takes much")
    kept = [b"x" * MB for _ in range(megabytes)]
    machines.append(current.machine.name if current.machine else "")
    assert len(kept) == megabytes
    return machines
