"""A version's first run on a worker that has never seen it: thawed, beside imported. `python bench/cold_start.py [N]`.

Each time is a worker of its own: its workspace is empty, it asks, fetches from the store and verifies, or starts an interpreter
and imports. Both ways take turns, in one process; the clock starts when the worker looks for the version, and stops in the first
line of user code. Python's compiled files and the libraries are in the page cache for both.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "worker"))

import warm_programs
from measured import row

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
        thawed, imported, ready, forked = [], [], [], []
        for number in range(count + 1):
            version = await warm_programs.worker(f"{what} {number} thaws")
            began = time.time()
            assert await version.find_image(), "the warm image was refused"
            process = await version.runner()
            ready.append((time.time() - began) * 1000)
            thawed.append((await warm_programs.output(process, version, "first_line") - began) * 1000)
            await version.stop()

            version = await warm_programs.worker(f"{what} {number} imports")
            began = time.time()
            await version.start()
            process = await version.runner()
            imported.append((await warm_programs.output(process, version, "first_line") - began) * 1000)
            began = time.time()
            process = await version.runner()
            forked.append((await warm_programs.output(process, version, "first_line") - began) * 1000)
            await version.stop()
        print(f"-- {what}: a warm image of {stored.size_bytes / 1e6:.1f} MB")
        row("imported: looked for -> first line of user code", imported[1:])  # the first ones fill caches
        row("thawed: looked for -> first line of user code", thawed[1:])
        row("thawed: looked for -> it waits for its run", ready[1:])
        row("imported before: the next start", forked[1:])
        ratio = statistics.median(imported[1:]) / statistics.median(thawed[1:])
        print(f"{'imported / thawed (goal 10 for pandas)':<58} {ratio:8.1f} x")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    with tempfile.TemporaryDirectory(prefix="torpor-bench-") as directory:
        warm_programs.in_namespaces(Path(directory), lambda: asyncio.run(measure(count)))


if __name__ == "__main__":
    main()
