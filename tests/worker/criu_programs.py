"""What tests of CRIU freeze, and what they then demand. Each scenario runs as pid 1 of its own namespaces:

    python criu_programs.py SCENARIO COMMAND…

so that a test which fails leaves no process, mount or image behind, and two tests never meet.
"""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from torpor.errors import CriuError
from torpor.worker import criu, namespaces
from torpor.worker.criu_proof import run_apart

WORK = Path("/run/work")
TICKS = WORK / "ticks"
PATIENCE_S = 60.0


@contextlib.contextmanager
def raises(kind: type[Exception], match: str = "") -> Iterator[None]:
    """As pytest's, which takes a fifth of a second to import."""
    raised: Exception | None = None
    try:
        yield
    except kind as error:
        raised = error
    assert raised is not None, f"{kind.__name__} was not raised"
    assert re.search(match, str(raised)), raised


def in_child(setup: Callable[[], object]) -> int:
    """A process in a new pid namespace that sets something up and then counts, one line of `ticks` for each number."""
    told, tell = os.pipe()
    middle = os.fork()
    if middle == 0:
        namespaces.unshare(namespaces.CLONE_NEWPID)
        child = os.fork()
        if child:
            os.write(tell, str(child).encode())
            os._exit(0)
        _count(setup)
    os.close(tell)
    with os.fdopen(told) as pipe:
        pid = int(pipe.read())
    os.waitpid(middle, 0)
    next_tick()
    return pid


def _count(setup: Callable[[], object]) -> None:
    os.setsid()
    os.chdir(WORK)
    os.closerange(3, 100)
    nowhere = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    os.close(nowhere)
    held = setup()
    ticks = os.open(TICKS, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    number = 0
    while held is not None:
        number += 1
        os.write(ticks, f"{number}\n".encode())
        time.sleep(0.002)


def last_tick() -> int:
    return int(TICKS.read_text().split()[-1])


def next_tick() -> int:
    """Wait until the process has counted on."""
    deadline = time.monotonic() + PATIENCE_S
    before = TICKS.read_text() if TICKS.exists() else ""
    while not TICKS.exists() or TICKS.read_text() == before:
        assert time.monotonic() < deadline, "the process does not count"
        time.sleep(0.002)
    return last_tick()


def images(name: str = "images") -> Path:
    place = WORK / name
    place.mkdir()
    return place


def dump(tool: criu.Criu, pid: int, place: Path) -> None:
    asyncio.run(criu.dump(tool, pid=pid, images=place, timeout_s=PATIENCE_S))


def restore(
    tool: criu.Criu, place: Path, *, timeout_s: float = PATIENCE_S, on_root: Callable[[int], None] | None = None
) -> int:
    return asyncio.run(criu.restore(tool, images=place, timeout_s=timeout_s, on_root=on_root))


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def assert_alone(when: str = "") -> None:
    """No process of this namespace but us is left. Zombies are ours to reap, as pid 1."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                break
        except ChildProcessError:
            break
    left = [Path(f"/proc/{pid}/stat").read_text() for pid in os.listdir("/proc") if pid.isdigit() and pid != "1"]
    assert not left, f"left behind {when}: {left}"


# ---- Scenarios ----------------------------------------------------------------------------------------------------


def goes_on_after_each_of_two_round_trips(tool: criu.Criu) -> None:
    import socket
    import threading

    def setup() -> object:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        return socket.create_server(("127.0.0.1", 0)), open("notes", "w+")

    pid = in_child(setup)
    for trip in ("first", "second"):
        place = images(trip)
        dump(tool, pid, place)
        kill(pid)
        frozen_at = last_tick()
        assert_alone()
        pid = restore(tool, place)
        assert next_tick() > frozen_at
    numbers = [int(line) for line in TICKS.read_text().split()]
    assert numbers == list(range(1, len(numbers) + 1)), "a number is missing, or was counted twice"
    kill(pid)
    assert_alone()


def is_thawed_and_frozen_where_the_files_of_criu_are_hidden(tool: criu.Criu) -> None:
    """As below /tmp, of which each room has one of its own."""

    def hide() -> None:
        namespaces.own_mounts()
        for directory in {str(Path(each).parent) for each in tool.command if each.startswith("/")}:
            namespaces.mount("tmpfs", directory, "tmpfs")

    pid = in_child(lambda: True)
    first = images("first")
    dump(tool, pid, first)
    kill(pid)
    frozen_at = last_tick()
    pid = asyncio.run(criu.restore(tool, images=first, enter=hide, timeout_s=PATIENCE_S))
    assert next_tick() > frozen_at
    dump(tool, pid, images("second"))
    kill(pid)
    assert_alone()


def is_stopped_by_a_dump_and_can_be_let_run(tool: criu.Criu) -> None:
    pid = in_child(lambda: True)
    dump(tool, pid, images())
    assert Path(f"/proc/{pid}/stat").read_text().split()[2] == "T"
    criu.let_run(pid)
    next_tick()
    kill(pid)


def an_outside_unix_socket_is_named(tool: criu.Criu) -> None:
    import socket

    ours = socket.socket(socket.AF_UNIX)
    ours.bind(str(WORK / "outside.sock"))
    ours.listen()

    def setup() -> object:
        client = socket.socket(socket.AF_UNIX)
        client.connect("outside.sock")
        os.dup2(client.fileno(), 77)
        client.close()
        return True

    pid = in_child(setup)
    accepted, _ = ours.accept()
    with accepted, ours, raises(CriuError, match=r"a unix socket connected to another process \(fd 77\)"):
        dump(tool, pid, images())
    next_tick()
    kill(pid)


def an_io_uring_is_named(tool: criu.Criu) -> None:
    import ctypes

    def setup() -> object:
        ring = ctypes.CDLL(None).syscall(425, 4, ctypes.create_string_buffer(120))
        return ring if ring >= 0 else None

    pid = in_child(setup)
    with raises(CriuError, match="an io_uring is open"):
        dump(tool, pid, images())
    next_tick()
    kill(pid)


def a_dump_that_is_canceled_leaves_the_process_running(tool: criu.Criu) -> None:
    async def cut_short(pid: int, place: Path, after_s: float) -> None:
        dumping = asyncio.create_task(criu.dump(tool, pid=pid, images=place))
        await asyncio.sleep(after_s)
        dumping.cancel()
        await asyncio.wait([dumping])
        if not dumping.cancelled():
            criu.let_run(pid)  # It had been quicker.

    pid = in_child(lambda: True)
    for ms in (0, 2, 5, 10, 15, 20, 30, 40, 60):
        asyncio.run(cut_short(pid, images(f"cut-{ms}"), ms / 1000))
        next_tick()
    place = images("whole")
    dump(tool, pid, place)
    kill(pid)
    assert_alone()
    kill(restore(tool, place))


def a_restore_that_is_canceled_leaves_nothing(tool: criu.Criu) -> None:
    async def cut_short(place: Path, after_s: float) -> None:
        restoring = asyncio.create_task(criu.restore(tool, images=place))
        await asyncio.sleep(after_s)
        restoring.cancel()
        await asyncio.wait([restoring])
        if not restoring.cancelled():
            kill(restoring.result())

    pid = in_child(lambda: True)
    place = images()
    dump(tool, pid, place)
    kill(pid)
    for ms in (0, 2, 4, 6, 8, 10, 12, 15, 20, 30):
        asyncio.run(cut_short(place, ms / 1000))
        assert_alone(f"by a cancellation after {ms} ms")
    pid = restore(tool, place)
    next_tick()
    kill(pid)


def a_process_that_is_killed_while_it_is_restored_is_no_riddle(tool: criu.Criu) -> None:
    """Somebody kills it, or it has used up its memory: at some moments CRIU, whose child it isn't, waits for it for ever."""

    def quietly(pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    pid = in_child(lambda: True)
    place = images()
    dump(tool, pid, place)
    kill(pid)
    for ms in range(0, 32, 2):
        told = ""
        try:
            kill(restore(tool, place, on_root=lambda root, ms=ms: threading.Timer(ms / 1000, quietly, [root]).start()))
        except CriuError as error:
            told = str(error)
        assert "did not answer" not in told, told
        assert_alone(f"by a kill after {ms} ms")
    kill(restore(tool, place))


def an_image_cut_short_leaves_nothing(tool: criu.Criu) -> None:
    """CRIU spins for ever on such an image, so the timeout is what ends it."""
    pid = in_child(lambda: True)
    place = images()
    dump(tool, pid, place)
    kill(pid)
    broken = WORK / "broken"
    shutil.copytree(place, broken)
    os.truncate(broken / "pages-1.img", 8192)
    with raises(CriuError):
        restore(tool, broken, timeout_s=0.7)
    assert_alone()
    kill(restore(tool, place))


def a_file_that_grew_is_named(tool: criu.Criu) -> None:
    def setup() -> object:
        return open("notes", "w+")

    pid = in_child(setup)
    place = images()
    dump(tool, pid, place)
    kill(pid)
    (WORK / "notes").write_text("more")
    with raises(CriuError, match=r"a file grew while frozen: .*notes"):
        restore(tool, place)
    (WORK / "notes").unlink()
    with raises(CriuError, match=r"a file is gone that was open when the run was frozen: .*notes"):
        restore(tool, place)
    assert_alone()


def no_space_is_said_and_the_process_goes_on(tool: criu.Criu) -> None:
    place = images()
    namespaces.mount("tmpfs", str(place), "tmpfs", data="size=256k")
    pid = in_child(lambda: bytes(1 << 20))
    with raises(CriuError, match="no space left on device"):
        dump(tool, pid, place)
    next_tick()
    kill(pid)


def warming_up_keeps_what_criu_learned(tool: criu.Criu) -> None:
    """Also after one that was killed in the middle of it."""
    Path("/run/criu.kdat.tmp").touch()
    asyncio.run(criu.warm_up(tool))
    assert Path("/run/criu.kdat").exists()
    assert_alone()


SCENARIOS = (
    warming_up_keeps_what_criu_learned,
    goes_on_after_each_of_two_round_trips,
    is_thawed_and_frozen_where_the_files_of_criu_are_hidden,
    is_stopped_by_a_dump_and_can_be_let_run,
    an_outside_unix_socket_is_named,
    an_io_uring_is_named,
    a_dump_that_is_canceled_leaves_the_process_running,
    a_restore_that_is_canceled_leaves_nothing,
    a_process_that_is_killed_while_it_is_restored_is_no_riddle,
    an_image_cut_short_leaves_nothing,
    a_file_that_grew_is_named,
    no_space_is_said_and_the_process_goes_on,
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
