"""How long a large process takes from its image in the object store to its first line, with its memory first or later.

`python bench/lazy.py [MEGABYTES…]`: for each size the median of ROUNDS thaws, one kind after the other: bare `criu restore` of
files at hand, a thaw that lays all memory first, and one whose memory comes while the process runs. Needs root and CRIU.

The process is a Python with objects of half random, half compressible content; its first line touches little of it, as code
that comes back from a wait does. It then looks at everything it has.
"""

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

from measured import row

from torpor.config import Settings
from torpor.images import Images, Keyring, Workspace
from torpor.objects import Directory
from torpor.wire.http import StoredCheckpoint
from torpor.worker import criu, namespaces
from torpor.worker.criu_proof import run_apart
from torpor.worker.criu_setup import NoCriu, find
from torpor.worker.lazy import LazyMemory

ROUNDS = 5
WORK = Path("/run/work")
KINDS = ("bare criu restore", "memory first", "memory later")


def be_the_process(megabytes: int) -> None:
    """Hold memory; at each SIGUSR1 tell the time, then whether all of it is as it was."""
    generator = random.Random(1)
    shapes = [generator.randbytes(1 << 19) + generator.randbytes(64) * (1 << 13) for _ in range(4)]
    held = [number.to_bytes(8, "little") + shapes[number % 4][8:] for number in range(megabytes)]
    sums = [zlib.crc32(each) for each in held]
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    Path("ready").touch()
    while True:
        signal.sigwait({signal.SIGUSR1})
        first = time.time()
        write("first", first)
        assert all(zlib.crc32(each) == expected for each, expected in zip(held, sums, strict=True))
        write("all", time.time())


def write(name: str, at: float) -> None:
    draft = Path(name + ".draft")
    draft.write_text(json.dumps(at))
    draft.rename(name)


def start_the_process(megabytes: int) -> int:
    told, tell = os.pipe()
    middle = os.fork()
    if middle == 0:
        namespaces.unshare(namespaces.CLONE_NEWPID | namespaces.CLONE_NEWIPC | namespaces.CLONE_NEWUTS)
        child = os.fork()
        if child:
            os.write(tell, str(child).encode())
            os._exit(0)
        os.setsid()
        os.chdir(WORK)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nowhere, number)
        os.closerange(3, 100)
        os.execv(sys.executable, [sys.executable, __file__, "process", str(megabytes)])
    os.close(tell)
    with os.fdopen(told) as pipe:
        pid = int(pipe.read())
    os.waitpid(middle, 0)
    wait_for("ready")
    return pid


def wait_for(name: str) -> float:
    path = WORK / name
    while not path.exists():
        time.sleep(0.0005)
    return json.loads(path.read_text() or "0")


async def thaw(tool: criu.Criu, images: Images, stored: StoredCheckpoint, at_hand: Path, kind: str) -> list[float]:
    """In ms: until the first line, until all memory is there, until the process has looked at all of it."""
    for name in ("first", "all"):
        (WORK / name).unlink(missing_ok=True)
    began, cpu = time.time(), time.process_time()
    laid, memory = None, None
    if kind != "bare criu restore":
        laid = await images.fetch(stored, lazy_bytes=1 if kind == "memory later" else 0)
        if laid.later:
            memory = LazyMemory(laid.later)
            memory.listen(WORK)
    place = laid.criu if laid else at_hand
    pid = await criu.restore(tool, images=place, scratch=WORK, memory=memory)
    os.kill(pid, signal.SIGUSR1)
    first = whole = await asyncio.to_thread(wait_for, "first")
    if memory is not None:
        await memory.whole
        whole = time.time()
        await memory.close()
    if laid:
        images.release(laid)
    spent = time.process_time() - cpu
    looked = await asyncio.to_thread(wait_for, "all")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return [*((at - began) * 1000 for at in (first, whole, looked)), spent * 1000]


async def measure(tool: criu.Criu, sizes: list[int], store: Path) -> None:
    images = Images(
        Directory(store), Keyring({"key": bytes(range(32))}, "key"), Workspace(store / "disk", Path("/run/images"))
    )
    await criu.warm_up(tool)
    for megabytes in sizes:
        pid = await asyncio.to_thread(start_the_process, megabytes)
        draft = images.begin(f"checkpoint_{megabytes}", expected_bytes=megabytes << 20)
        await criu.dump(tool, pid=pid, images=draft.criu)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        draft.dumped()
        published = await images.publish(draft, {}, base=None)
        stored = StoredCheckpoint(draft.image_id, published.size_bytes, digest=published.digest, packs=published.packs)
        size = sum(path.stat().st_size for path in draft.criu.glob("pages-*.img"))
        print(f"\n{size / 1e6:.0f} MB of memory, {published.size_bytes / 1e6:.0f} MB stored")
        taken: dict[str, list[list[float]]] = {kind: [] for kind in KINDS}
        for _ in range(ROUNDS):
            for kind in KINDS:
                taken[kind].append(await thaw(tool, images, stored, draft.criu, kind))
        for kind, each in taken.items():
            first, whole, looked, spent = ([*column] for column in zip(*each, strict=True))
            row(f"{kind}: first line", first)
            if kind == "memory later":
                row("    all of it is there", whole)
            row("    the process has looked at all of it", looked)
            row("    CPU time of the worker", spent)
        images.discard(draft)
        (WORK / "ready").unlink()


def main() -> int:
    if sys.argv[1:2] == ["process"]:
        be_the_process(int(sys.argv[2]))
    if os.getpid() != 1:
        with tempfile.TemporaryDirectory(prefix="torpor-bench-") as store:
            return subprocess.call([sys.executable, __file__, "apart", store, *sys.argv[1:]])
    _, store, *sizes = sys.argv[1:]
    WORK.mkdir()
    tool = asyncio.run(find(Settings(data_dir=Path(store))))
    assert not isinstance(tool, NoCriu), tool
    asyncio.run(measure(tool, [int(each) for each in sizes] or [50, 200, 1000], Path(store)))
    shutil.rmtree(WORK)
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["apart"] and os.getpid() != 1:
        raise SystemExit(run_apart([sys.executable, __file__, *sys.argv[1:]]))
    raise SystemExit(main())
