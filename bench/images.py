"""What an image adds to CRIU alone: bytes that are new, time until they are durable, and time until they run again.

    python bench/images.py [--megabytes 0 100 1000] [--rounds 5] [--store DIRECTORY]

Processes are forked from one that has imported numpy and pydantic, as a zygote forks runs; its own image is the base. Each is
frozen and thawed twice: through an object store (a directory), and by CRIU alone into a directory on the same disk, without
and with an fsync of each file. Needs root and a CRIU that works. Everything happens in namespaces of its own.
"""

import argparse
import asyncio
import gc
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from measured import row

from torpor.config import Settings
from torpor.images import Images, Keyring, Workspace
from torpor.images.workspace import MEMORY
from torpor.objects import Directory
from torpor.wire.http import StoredCheckpoint
from torpor.worker import criu, namespaces
from torpor.worker.criu_proof import run_apart
from torpor.worker.criu_setup import NoCriu, find

WORK = Path("/run/bench-images")


class Zygote:
    """A process that has imported what the others need, and forks them. The bench itself grows, so it can't be that."""

    def __init__(self) -> None:
        told, self._tell = os.pipe()
        self._told, tell = os.pipe()
        if os.fork() == 0:
            namespaces.prctl(namespaces.PR_SET_PDEATHSIG, signal.SIGKILL)
            import numpy
            import pydantic

            assert numpy is not None
            assert pydantic is not None
            gc.collect()
            gc.freeze()
            while True:
                name, argument = os.read(told, 100).decode().split()
                os.write(tell, str(fork(lambda name=name, argument=argument: WORKS[name](int(argument)))).encode())

    def fork(self, name: str, argument: int) -> int:
        os.write(self._tell, f"{name} {argument}".encode())
        return int(os.read(self._told, 20))


def fork(work: Callable[[], object]) -> int:
    """A process in pid, ipc and uts namespaces of its own that has done this work and now waits, as a run does."""
    told, tell = os.pipe()
    ready, say = os.pipe()
    middle = os.fork()
    if middle == 0:
        namespaces.unshare(namespaces.CLONE_NEWPID | namespaces.CLONE_NEWIPC | namespaces.CLONE_NEWUTS)
        child = os.fork()
        if child:
            os.write(tell, str(child).encode())
            os._exit(0)
        os.setsid()
        os.chdir(WORK)
        held = work()
        os.write(say, b".")
        nowhere = os.open("/dev/null", os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nowhere, number)
        os.closerange(3, 1000)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        while held is not None:
            signal.sigwait([signal.SIGUSR1])
    os.close(tell)
    os.close(say)
    pid = int(os.read(told, 20))
    os.waitpid(middle, 0)
    os.read(ready, 1)
    for descriptor in (told, ready):
        os.close(descriptor)
    time.sleep(0.02)
    return pid


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def little(_: int) -> object:
    """A task that did little."""
    return {"seen": [str(number) for number in range(1000)]}


def small(seed: int) -> object:
    """A small real one: dictionaries, models, an array."""
    import numpy
    import pydantic

    class Item(pydantic.BaseModel):
        name: str
        price: float
        tags: list[str]

    some = random.Random(seed)
    rows = [{"id": n, "value": some.random(), "name": f"row {n}"} for n in range(20_000)]
    items = [Item(name=f"item {n}", price=some.random(), tags=["a", str(n)]) for n in range(2_000)]
    return rows, items, numpy.random.default_rng(seed).normal(size=20_000)


def data(megabytes: int) -> object:
    """Half of it random, half like tables: what numbers look like."""
    import numpy

    half = megabytes << 19
    rng = numpy.random.default_rng()
    return rng.bytes(half), rng.integers(0, 1000, half >> 3, dtype=numpy.int64)


WORKS = {"nothing": lambda _: True, "little": little, "small": small, "data": data}


class Bench:
    """One store, one base, one CRIU."""

    def __init__(self, tool: criu.Criu, zygote: Zygote, directory: Path) -> None:
        self.zygote = zygote
        self.tool = tool
        self.directory = directory
        self.images = Images(
            Directory(directory / "store"),
            Keyring({"key_1": os.urandom(32)}, "key_1"),
            Workspace(directory / "work", MEMORY),
        )
        self.count = 0
        self.fsyncs = ThreadPoolExecutor(8)

    async def freeze(self, pid: int, *, base: str | None, expected: int) -> tuple[StoredCheckpoint, float, int]:
        """Dump and publish, and leave the process stopped."""
        self.count += 1
        began = time.perf_counter()
        draft = self.images.begin(f"checkpoint_{self.count}", expected_bytes=expected)
        self.images.follow(draft, base=base)
        await criu.dump(self.tool, pid=pid, images=draft.criu)
        draft.dumped()
        done = await self.images.publish(draft, {}, base=base, shelve=base is None)
        took = (time.perf_counter() - began) * 1000
        size = sum(file.stat().st_size for file in draft.criu.iterdir())
        self.images.accepted(draft)
        self.images.discard(draft)
        told = StoredCheckpoint(
            done.image_id, done.size_bytes, digest=done.digest, new_bytes=done.new_bytes, shared_bytes=done.shared_bytes
        )
        return told, took, size

    async def thaw(self, stored: StoredCheckpoint) -> tuple[float, float]:
        """Fetch and restore; how long it took until the process ran, and the fetch alone."""
        began = time.perf_counter()
        laid = await self.images.fetch(stored)
        fetched = time.perf_counter()
        pid = await criu.restore(self.tool, images=laid.criu)
        took = time.perf_counter() - began
        self.images.release(laid)
        end(pid)
        return took * 1000, (fetched - began) * 1000

    async def bare(self, pid: int, place: Path) -> tuple[float, float]:
        """Dump alone, and with an fsync of each file; the process stays stopped."""
        place.mkdir(parents=True)
        began = time.perf_counter()
        await criu.dump(self.tool, pid=pid, images=place)
        dumped = time.perf_counter()
        list(self.fsyncs.map(fsync, list(place.iterdir())))
        return (dumped - began) * 1000, (time.perf_counter() - began) * 1000

    async def bare_thaw(self, place: Path) -> float:
        began = time.perf_counter()
        pid = await criu.restore(self.tool, images=place)
        took = (time.perf_counter() - began) * 1000
        end(pid)
        shutil.rmtree(place)
        return took

    async def measure(self, what: str, works: list[tuple[str, int]], base: str) -> None:
        figures: dict[str, list[float]] = {}

        def note(name: str, value: float) -> None:
            figures.setdefault(name, []).append(value)

        sizes: list[float] = []
        for work in works:
            pid = self.zygote.fork(*work)
            expected = criu_bytes(pid)
            on_disk, in_memory = self.directory / "bare", WORK / "bare"
            memory, _ = await self.bare(pid, in_memory)
            criu.let_run(pid)
            shutil.rmtree(in_memory)
            dumped, synced = await self.bare(pid, on_disk)
            note("CRIU alone: dump into memory", memory)
            note("CRIU alone: dump to disk", dumped)
            note("CRIU alone: dump to disk, with fsync", synced)
            criu.let_run(pid)
            stored, took, size = await self.freeze(pid, base=base, expected=expected)
            note("freeze to durable", took)
            note("freeze / CRIU alone into memory", took / memory)
            note("freeze / CRIU alone with fsync", took / synced)
            end(pid)
            alone = await self.bare_thaw(on_disk)
            thawed, fetched = await self.thaw(stored)
            note("CRIU alone: restore", alone)
            note("thaw", thawed)
            note("  of that, fetch", fetched)
            note("thaw / CRIU alone", thawed / alone)
            note("new KiB", stored.new_bytes / 1024)
            sizes.append(size / 1e6)
        print(f"\n{what} ({sum(sizes) / len(sizes):.1f} MB of images)")
        for name, values in figures.items():
            row(name, values, "KiB" if "KiB" in name else "" if "/" in name else "ms")


def criu_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


async def main(zygote: Zygote, megabytes: list[int], rounds: int, directory: Path) -> None:
    tool = await find(Settings(data_dir=directory))
    assert not isinstance(tool, NoCriu), tool.reason
    bench = Bench(tool, zygote, directory)
    warm = zygote.fork("nothing", 0)
    stored, took, size = await bench.freeze(warm, base=None, expected=100 << 20)
    end(warm)
    print(f"base: {size / 1e6:.1f} MB of images, {stored.new_bytes / 1e6:.1f} MB stored in {took:.0f} ms")
    await bench.measure("a task that did little", [("little", 0)] * rounds, stored.id)
    await bench.measure("a small real one", [("small", seed) for seed in range(rounds)], stored.id)
    for each in megabytes:
        await bench.measure(f"{each} MB of data", [("data", each)] * rounds, stored.id)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--megabytes", type=int, nargs="*", default=[100, 1000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--store", type=Path, default=None, help="on which disk; default: here")
    given = parser.parse_args()
    if os.getpid() != 1:
        raise SystemExit(run_apart([sys.executable, *sys.argv]))
    WORK.mkdir(parents=True)
    MEMORY.mkdir()
    namespaces.mount("tmpfs", str(MEMORY), "tmpfs", data="huge=within_size")  # as the worker does
    place = (given.store or Path.cwd()) / f".bench-images-{os.urandom(4).hex()}"
    try:
        asyncio.run(main(Zygote(), given.megabytes, given.rounds, place))
    finally:
        shutil.rmtree(place, ignore_errors=True)
