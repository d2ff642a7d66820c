"""`criu dump` and `criu restore` and nothing else, of a run's parked process. Started by freeze_and_thaw.py inside the worker's
namespaces.

`python bench/bare_criu.py RUN_ID DIRECTORY`: prints, in ms, how long the dump took, how long until it was on the disk as well
(fsync), and how long the restore took. The process is killed: to its worker it has crashed.
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


async def main(run_id: str, directory: Path) -> None:
    tool = await find(Settings(data_dir=directory))
    assert not isinstance(tool, NoCriu)
    command = f"torpor run one_wait {run_id}".encode()
    pid = next(
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and (entry / "cmdline").read_bytes().startswith(command)
    )
    images, scratch = directory / "bare", directory / "scratch"
    images.mkdir(parents=True)
    scratch.mkdir()
    began = time.perf_counter()
    await criu.dump(tool, pid=pid, images=images)
    dumped = time.perf_counter()
    for file in [*images.iterdir(), images]:
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    durable = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    while Path(f"/proc/{pid}/exe").exists():
        await asyncio.sleep(0.001)
    again = time.perf_counter()
    restored = await criu.restore(tool, images=images, scratch=scratch)
    alive = time.perf_counter()
    os.kill(restored, signal.SIGKILL)
    print((dumped - began) * 1000, (durable - began) * 1000, (alive - again) * 1000)
    shutil.rmtree(images)
    shutil.rmtree(scratch)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
