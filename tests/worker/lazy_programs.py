"""What tests of memory that comes later freeze and restore, and what they then demand. See criu_programs.py.

    python lazy_programs.py SCENARIO COMMAND…

The process has memory of which every page tells its number, and looks at all of it when the file `look` appears.
"""

import asyncio
import mmap
import os
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from criu_programs import (
    PATIENCE_S,
    WORK,
    assert_alone,
    dump,
    images,
    in_child,
    kill,
    last_tick,
    next_tick,
    raises,
    restore,
)

from torpor.errors import ImageDamaged, MemoryLost
from torpor.images.pages import PAGE, parse
from torpor.worker import criu, namespaces
from torpor.worker.criu_proof import run_apart
from torpor.worker.lazy import LazyMemory

PAGES = 100 * 256
"""100 MB, beside what the interpreter has."""


def filled(pages: int = PAGES) -> mmap.mmap:
    memory = mmap.mmap(-1, pages * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for number in range(pages):
        struct.pack_into("<Q", memory, number * PAGE, number + 1)
    return memory


def is_right(memory: mmap.mmap, pages: int = PAGES) -> bool:
    return all(struct.unpack_from("<Q", memory, number * PAGE)[0] == number + 1 for number in range(pages))


class FromFile:
    """Memory of an image that is in a file, and that can be held back: what nobody waits for, or everything."""

    def __init__(self, place: Path, pid: int = 1) -> None:
        map = parse(f"pagemap-{pid}.img", (place / f"pagemap-{pid}.img").read_bytes())
        self.pid = pid
        self.runs: Sequence[tuple[int, int, int]] = map.lazy
        self.size = map.size
        self.rest = threading.Event()
        self.damage: Exception | None = None
        self.waited_for = 0
        whole = place / map.pages
        kept = whole.with_suffix(".whole")
        if not kept.exists():
            whole.rename(kept)
            self._hollow(kept, whole, map.runs)
        self._file = open(kept, "rb")  # noqa: SIM115  # for as long as the scenario runs

    def _hollow(self, kept: Path, whole: Path, runs: Sequence[tuple[int, int, int]]) -> None:
        with open(kept, "rb") as source, open(whole, "wb") as target:
            target.truncate(self.size)
            for run in runs:
                if run not in self.runs:
                    _, offset, size = run
                    os.pwrite(target.fileno(), os.pread(source.fileno(), size, offset), offset)

    def read(self, offset: int, size: int, *, hurry: bool) -> bytes:
        if hurry:
            self.waited_for += 1
        else:
            self.rest.wait()
            if self.damage is not None:
                raise self.damage
        return os.pread(self._file.fileno(), size, offset)


def living(setup: Callable[[], Callable[[], bool]]) -> int:
    """A process that counts, and does once what `setup` returned when it finds the file `look`."""

    def looked_after() -> object:
        act, aside = setup(), filled(2048)  # of the latter nothing is fetched in a hurry: nobody looks at it

        def look() -> None:
            while not (WORK / "look").exists():
                time.sleep(0.002)
            verdict = act()
            (WORK / "verdict.draft").write_text("right" if verdict else "wrong")
            (WORK / "verdict.draft").rename(WORK / "verdict")

        threading.Thread(target=look, daemon=True).start()
        return act, aside

    return in_child(looked_after)


def verdict(*, timeout_s: float = PATIENCE_S) -> str:
    deadline = time.monotonic() + timeout_s
    while not (WORK / "verdict").exists():
        assert time.monotonic() < deadline, "the process does not say what it found"
        time.sleep(0.005)
    return (WORK / "verdict").read_text()


def plain() -> Callable[[], bool]:
    memory = filled()
    return lambda: is_right(memory)


def frozen(tool: criu.Criu, setup: Callable[[], Callable[[], bool]] = plain) -> tuple[Path, FromFile]:
    place = images()
    pid = living(setup)
    dump(tool, pid, place)
    kill(pid)
    return place, FromFile(place)


async def thawed(tool: criu.Criu, place: Path, *later: FromFile) -> tuple[int, LazyMemory]:
    memory = LazyMemory(later)
    memory.listen(place)
    return await criu.restore(tool, images=place, memory=memory, timeout_s=PATIENCE_S), memory


async def ticking() -> None:
    await asyncio.to_thread(next_tick)


# ---- Scenarios ------------------------------------------------------------------------------------------------------


def runs_before_its_memory_is_there(tool: criu.Criu) -> None:
    place, later = frozen(tool)

    async def story() -> int:
        pid, memory = await thawed(tool, place, later)
        before = last_tick()
        await ticking()
        assert not memory.whole.done()
        assert later.waited_for * (1 << 20) < later.size / 2
        assert last_tick() > before
        later.rest.set()
        await asyncio.wait_for(memory.whole, PATIENCE_S)
        await memory.close()
        return pid

    pid = asyncio.run(story())
    again = images("again")
    dump(tool, pid, again)
    kill(pid)
    (WORK / "look").touch()
    pid = restore(tool, again)
    assert verdict() == "right"
    kill(pid)
    assert_alone()


def finds_all_it_had_though_it_looks_at_once(tool: criu.Criu) -> None:
    place, later = frozen(tool)
    (WORK / "look").touch()
    for _ in range(2):
        (WORK / "verdict").unlink(missing_ok=True)

        async def story() -> int:
            pid, memory = await thawed(tool, place, later)
            assert await asyncio.to_thread(verdict) == "right"
            later.rest.set()
            await asyncio.wait_for(memory.whole, PATIENCE_S)
            await memory.close()
            return pid

        kill(asyncio.run(story()))
    assert_alone()


def may_fork_move_and_give_up_memory_meanwhile(tool: criu.Criu) -> None:
    def setup() -> Callable[[], bool]:
        one, moved, given_up, closed = filled(4096), filled(4096), filled(4096), filled(4096)

        def act() -> bool:
            given_up.madvise(mmap.MADV_DONTNEED, 0, 2048 * PAGE)
            moved.resize(4 * 4096 * PAGE)  # it can't stay where it is
            closed.close()
            child = os.fork()
            if child == 0:
                rightly = is_right(one, 4096) and is_right(moved, 4096) and not any(given_up[:PAGE])
                os._exit(0 if rightly else 1)
            return (
                os.waitpid(child, 0)[1] == 0
                and is_right(one, 4096)
                and is_right(moved, 4096)
                and not any(moved[4096 * PAGE :: PAGE])
                and not any(given_up[: 2048 * PAGE : 8])
                and struct.unpack_from("<Q", given_up, 2048 * PAGE)[0] == 2049
            )

        return act

    place, later = frozen(tool, setup)
    (WORK / "look").touch()

    async def story() -> int:
        pid, memory = await thawed(tool, place, later)
        assert await asyncio.to_thread(verdict) == "right"
        assert not memory.whole.done()
        later.rest.set()
        await asyncio.wait_for(memory.whole, PATIENCE_S)
        await memory.close()
        return pid

    pid = asyncio.run(story())
    next_tick()
    kill(pid)
    assert_alone()


def each_process_of_a_tree_has_its_own(tool: criu.Criu) -> None:
    def setup() -> Callable[[], bool]:
        memory = filled(8192)
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            struct.pack_into("<Q", memory, 0, 7)
            while not (WORK / "look").exists():
                time.sleep(0.002)
            os.write(
                theirs, b"y" if memory[0] == 7 and all(memory[at] for at in range(PAGE, PAGE * 200, PAGE)) else b"n"
            )
            os._exit(0)
        return lambda: os.read(ours, 1) == b"y" and is_right(memory, 8192) and os.waitpid(child, 0)[1] == 0

    place, later = frozen(tool, setup)
    child = FromFile(place, 2)

    async def story() -> int:
        pid, memory = await thawed(tool, place, later, child)
        (WORK / "look").touch()
        assert await asyncio.to_thread(verdict) == "right"
        assert not memory.whole.done()
        later.rest.set()
        child.rest.set()
        await asyncio.wait_for(memory.whole, PATIENCE_S)
        await memory.close()
        return pid

    kill(asyncio.run(story()))
    assert_alone()


def never_sees_zeros_in_place_of_what_is_damaged(tool: criu.Criu) -> None:
    place, later = frozen(tool)
    for damage, expected in ((ImageDamaged("changed"), ImageDamaged), (OSError("down"), MemoryLost)):
        later.damage = damage
        (WORK / "look").unlink(missing_ok=True)

        async def story(damage: Exception = damage, expected: type[Exception] = expected) -> None:
            pid, memory = await thawed(tool, place, later)
            await ticking()
            later.rest.set()
            with raises(expected, match=str(damage)):
                await asyncio.wait_for(asyncio.shield(memory.whole), PATIENCE_S)
            (WORK / "look").touch()
            await asyncio.sleep(0.2)
            kill(pid)
            await memory.close()

        asyncio.run(story())
        later.rest.clear()
        assert not (WORK / "verdict").exists()
    assert_alone()


def dies_with_us_rather_than_see_zeros(tool: criu.Criu) -> None:
    place, later = frozen(tool)
    namespaces.prctl(namespaces.PR_SET_CHILD_SUBREAPER, 1)
    us = os.fork()
    if us == 0:

        async def story() -> None:
            await thawed(tool, place, later)
            await ticking()
            (WORK / "look").touch()
            os.kill(os.getpid(), signal.SIGKILL)

        asyncio.run(story())
    assert os.waitstatus_to_exitcode(os.waitpid(us, 0)[1]) == -signal.SIGKILL
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.01)
        except ChildProcessError:
            break
    assert_alone()
    assert not (WORK / "verdict").exists()


def a_restore_that_is_canceled_leaves_nothing(tool: criu.Criu) -> None:
    place, later = frozen(tool)

    async def story(delay_s: float) -> None:
        memory = LazyMemory([later])
        memory.listen(place)
        restoring = asyncio.ensure_future(criu.restore(tool, images=place, memory=memory, timeout_s=PATIENCE_S))
        await asyncio.wait([restoring], timeout=delay_s)
        restoring.cancel()
        await asyncio.wait([restoring])
        if not restoring.cancelled():
            kill(restoring.result())
        await memory.close()

    for delay_s in (0.005, 0.02, 0.04, 0.06):
        asyncio.run(story(delay_s))
        assert_alone(f"after {delay_s} s")


SCENARIOS = (
    runs_before_its_memory_is_there,
    finds_all_it_had_though_it_looks_at_once,
    may_fork_move_and_give_up_memory_meanwhile,
    each_process_of_a_tree_has_its_own,
    never_sees_zeros_in_place_of_what_is_damaged,
    dies_with_us_rather_than_see_zeros,
    a_restore_that_is_canceled_leaves_nothing,
)


def main() -> int:
    name, *command = sys.argv[1:]
    if os.getpid() != 1:
        return run_apart([sys.executable, __file__, name, *command])
    WORK.mkdir()
    scenario = next(known for known in SCENARIOS if known.__name__ == name)
    scenario(criu.Criu(tuple(command), "under test", "tests"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
