"""A version's first run on a worker that has never seen it: thawed, beside imported. `python bench/cold_start.py [N]`.

Each time is a worker of its own: its workspace is empty, it asks, fetches from the store and verifies, or starts an interpreter
and imports. Both ways take turns, in one process; the clock starts when the worker looks for the version, and stops in the first
line of user code. Once with all files in the page cache, and once with those of Python, of its packages and of the store dropped
from it, as on a machine that has just come up.
"""

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "worker"))

import warm_programs
from measured import row

from torpor.worker.version import Version

PROJECTS = {
    "nothing": "",
    "pandas": "import pandas",
    "scikit-learn": "import sklearn.ensemble",
}
SOURCE = """
{imports}
import time
from torpor import task

@task
async def first_line():
    return time.time()
"""


async def measure(count: int) -> None:
    for what, imports in PROJECTS.items():
        project = warm_programs.ROOT / "project"
        project.mkdir(exist_ok=True)
        (project / "tasks.py").write_text(SOURCE.format(imports=imports))
        await warm_programs.imported(f"first {what}")
        stored = warm_programs.server.checkpoint
        assert stored is not None
        print(f"-- {what}: a warm image of {stored.size_bytes / 1e6:.1f} MB")
        for cache, prepare in (("in the page cache", lambda: None), ("on disk", drop_from_page_cache)):
            await take_turns(count, f"{what} {cache}", cache, prepare)


async def take_turns(count: int, what: str, cache: str, prepare: Callable[[], None]) -> None:
    thawed, imported, forked = [], [], []
    for number in range(count + 1):
        version = await warm_programs.worker(f"{what} {number} thaws")
        prepare()
        began = time.time()
        assert await version.find_image(), "the warm image was refused"
        thawed.append((await first_line(version) - began) * 1000)
        await version.stop()

        version = await warm_programs.worker(f"{what} {number} imports")
        prepare()
        began = time.time()
        await version.start()
        imported.append((await first_line(version) - began) * 1000)
        began = time.time()
        forked.append((await first_line(version) - began) * 1000)
        await version.stop()
    row(f"files {cache}: imported", imported[1:])  # the first ones fill caches
    row(f"files {cache}: thawed", thawed[1:])
    row(f"files {cache}: the next start, forked", forked[1:])
    ratio = statistics.median(imported[1:]) / statistics.median(thawed[1:])
    print(f"{'… imported / thawed (goal 10 for pandas)':<58} {ratio:8.1f} x")


async def first_line(version: Version) -> float:
    return await warm_programs.output(await version.runner(), version, "first_line")


def drop_from_page_cache() -> None:
    """What another process has mapped, such as the interpreter, stays."""
    for root in (Path(sys.prefix, "lib"), Path(sys.base_prefix, "lib"), warm_programs.ROOT / "store"):
        for file in root.rglob("*"):
            if file.is_file():
                descriptor = os.open(file, os.O_RDONLY)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    with tempfile.TemporaryDirectory(prefix="torpor-bench-") as directory:
        warm_programs.in_namespaces(Path(directory), lambda: asyncio.run(measure(count)))


if __name__ == "__main__":
    main()
