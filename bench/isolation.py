"""What a room costs. `python bench/isolation.py [N]`: N processes of one version forked, frozen and thawed in rooms, and as many
without, in turns.

Forked: from the wish for a runner until it has said hello. Frozen: the dump and the packed files of a runner that has no run yet,
into memory. Thawed: from the files at hand until it says hello. What is published of an image does not depend on rooms, so it is
left out. No control groups: what they cost depends on the kernel.
"""

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "worker"))

import warm_programs
from measured import row

from torpor.config import Settings
from torpor.wire.networks import HOST
from torpor.worker import serve
from torpor.worker.process import RunProcess
from torpor.worker.room import Rooms
from torpor.worker.version import Version
from torpor.worker.warm import parked

SOURCE = """
import httpx, pydantic
from torpor import task

@task
async def nothing():
    pass
"""
WITHOUT, ROOM = "without a room", "in a room"


async def measure(count: int) -> None:
    project = warm_programs.ROOT / "project"
    project.mkdir()
    (project / "tasks.py").write_text(SOURCE)
    rooms = Rooms(serve.RUN_ROOT, Settings(data_dir=warm_programs.ROOT / "data"))
    versions = {WITHOUT: await warm_programs.worker("without"), ROOM: await warm_programs.worker("room", rooms=rooms)}
    for version in versions.values():
        await version.start()
        await version._warming.finished()
    took: dict[tuple[str, str], list[float]] = {}
    for number in range(count + 2):
        for where, version in versions.items():
            for what, took_s in (await once(version)).items():
                if number >= 2:  # the first ones fill caches
                    took.setdefault((what, where), []).append(took_s * 1000)
    for (what, where), times in sorted(took.items()):
        row(f"{what}, {where}", times)
    for what in ("forked", "frozen", "thawed"):
        pairs = zip(took[what, ROOM], took[what, WITHOUT], strict=True)
        row(f"{what}: a room as a multiple (goal <= 1.5)", [room / without for room, without in pairs], "x ")
    for version in versions.values():
        await version.stop()


async def once(version: Version) -> dict[str, float]:
    began = time.perf_counter()
    await (await version._forked(HOST)).bury()
    forked_and_buried = time.perf_counter() - began
    began = time.perf_counter()
    made = await version._forked(HOST)
    forked = time.perf_counter() - began
    await made.bury()
    process = await version._parked()
    await parked(process)
    warm: Any = version._warming._warm
    began = time.perf_counter()
    image = await warm.freeze(process, version._imported)
    frozen = time.perf_counter() - began
    await process.bury()
    began = time.perf_counter()
    thawed: RunProcess = await warm.thaw(image)
    took = time.perf_counter() - began
    await thawed.bury()
    warm.let_go(image)
    return {"forked": forked, "forked and buried": forked_and_buried, "frozen": frozen, "thawed": took}


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    with tempfile.TemporaryDirectory(
        prefix="torpor-bench-", dir="/var/tmp"
    ) as directory:  # below /tmp a room has more to mount
        child = os.fork()
        if child == 0:
            warm_programs.in_namespaces(Path(directory), lambda: asyncio.run(measure(count)))
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
