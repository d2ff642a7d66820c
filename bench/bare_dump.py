"""`criu dump` and nothing else, of a run's parked process. Started by freeze_and_thaw.py inside the worker's namespaces.

`python bench/bare_dump.py RUN_ID DIRECTORY`: prints how long CRIU took, in ms, and lets the process run on as it was.
"""

import asyncio
import shutil
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
    images = directory / "bare"
    images.mkdir(parents=True)
    began = time.perf_counter()
    await criu.dump(tool, pid=pid, images=images)
    print((time.perf_counter() - began) * 1000)
    criu.let_run(pid)
    shutil.rmtree(images)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
