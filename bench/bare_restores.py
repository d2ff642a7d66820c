"""`criu dump` and `criu restore` and nothing else, of many parked processes. Started by wake_all.py inside the worker's
namespaces.

`python bench/bare_restores.py DIRECTORY AT_ONCE RUN_ID…`: dumps each, kills it, then restores all, AT_ONCE at a time, and prints
how many were restored per second.
"""

import asyncio
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from torpor.config import Settings
from torpor.worker import criu
from torpor.worker.criu_setup import NoCriu, find


def processes_of(run_ids: list[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            command = (entry / "cmdline").read_bytes().decode(errors="replace")
            for run_id in run_ids:
                if command.startswith("torpor run") and run_id in command:
                    found[run_id] = int(entry.name)
    return found


async def main(directory: Path, at_once: int, run_ids: list[str]) -> None:
    tool = await find(Settings(data_dir=directory / "data"))
    assert not isinstance(tool, NoCriu)
    places: list[tuple[Path, Path]] = []
    for run_id, pid in processes_of(run_ids).items():
        images, scratch = directory / "bare" / run_id, directory / "scratch" / run_id
        images.mkdir(parents=True)
        scratch.mkdir(parents=True)
        await criu.dump(tool, pid=pid, images=images)
        os.kill(pid, signal.SIGKILL)
        places.append((images, scratch))
    assert len(places) == len(run_ids)
    free = asyncio.Semaphore(at_once)

    async def one(images: Path, scratch: Path) -> None:
        async with free:
            pid = await criu.restore(tool, images=images, scratch=scratch)
        os.kill(pid, signal.SIGKILL)

    began = time.perf_counter()
    await asyncio.gather(*(one(*place) for place in places))
    print(len(places) / (time.perf_counter() - began))
    shutil.rmtree(directory / "bare")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
