"""In the way of the freeze: what is packed and unpacked by root, and who is to stand still."""

import asyncio
import ctypes
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from arms import World, frozen
from loud import loud
from words import control, say

EXCHANGE = 2
_libc = ctypes.CDLL(None, use_errno=True)


def _tmp() -> str:
    return tempfile.gettempdir()


def _found(places: list[str], secret: str) -> str:
    """Whether something from outside is in a file of ours now."""
    for place in places:
        for directory, _, names in os.walk(place):
            for name in names:
                path = os.path.join(directory, name)
                if os.path.islink(path) or not os.path.isfile(path):
                    continue
                with open(path, "rb") as file:
                    if b"the host's own" in file.read(1 << 16):
                        return f"found in {path}"
    return "nothing"


@loud
async def links_to_what_is_outside(world: World) -> str:
    """Links are links afterwards, and what they lead to was not packed."""
    targets = [world.secret, "/etc/shadow", world.data, "/", "..", "/proc/self/root", "/proc/self/fd"]
    for number, target in enumerate(targets):
        os.symlink(target, f"link{number}")
        os.symlink(target, f"{_tmp()}/link{number}")
    os.symlink("link0", "chain")
    await frozen()
    for number, target in enumerate(targets):
        if os.readlink(f"link{number}") != target or os.readlink(f"{_tmp()}/link{number}") != target:
            return "another link"
    return _found([".", _tmp()], world.secret)


_RACER = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
target = sys.argv[1]
os.makedirs("race/inner", exist_ok=True); open("race/inner/secret", "w").close(); os.symlink(os.path.dirname(target), "other")
os.makedirs("files", exist_ok=True); open("files/one", "w").close(); os.symlink(target, "files/two")
os.link("files/one", "files/three")
while True:
    libc.renameat2(-100, b"race/inner", -100, b"other", 2)
    libc.renameat2(-100, b"files/one", -100, b"files/two", 2)
    try:
        os.unlink("files/three"); os.link("files/two", "files/three", follow_symlinks=False)
    except OSError:
        pass
"""


@loud
async def changes_files_into_links_meanwhile(world: World) -> str:
    """Directories and files against links to what is outside, thousands of times a second, while the run is frozen."""
    racers = [subprocess.Popen([sys.executable, "-c", _RACER, world.secret], cwd=place) for place in (".", _tmp())]
    await asyncio.sleep(0.3)
    try:
        await frozen()
        await frozen()
    finally:
        for racer in racers:
            racer.kill()
            racer.wait()
    return _found([".", _tmp()], world.secret)


@loud
async def links_to_foreign_files(world: World) -> str:
    """Hard ones: then what is packed as ours would be somebody else's file."""
    linked = [path for path in (world.secret, sys.executable, "/etc/passwd", world.shared) if _links(path)]
    await frozen()
    return f"linked {linked}" if linked else "nothing"


def _links(path: str) -> bool:
    try:
        os.link(os.path.realpath(path), "hard")
    except OSError:
        return False
    os.unlink("hard")
    return True


def _furnish(place: str) -> None:
    """A directory as nobody has ever wanted one."""
    names = [
        b"line\nbreak", b"-rf", b" ", b"trailing ", b".hidden", b"\xff\xfe not text", b"\x1b[2J", b"n" * 255, b"a=b", b"%s%n",
        b"\\", b"'\"`$(reboot)", b"link_remap.1", b"ctl.sock", b"output.log", "\u202e\u00e9\U0001f600".encode(), b"..x", b"*",
    ]  # fmt: skip
    for number, name in enumerate(names):
        path = os.path.join(place.encode(), name)
        with open(path, "wb") as file:
            file.write(name)
        os.utime(path, ns=((number + 1) * 10**9 + 7, -(number + 1) * 10**9 - 7))
        with _no_matter():
            os.setxattr(path, b"user.odd=name\n\xff", b"\0\xff=\n")
    os.mkfifo(f"{place}/pipe")
    os.mkdir(f"{place}/closed", 0o000)
    os.mkdir(f"{place}/sticky", 0o7777)
    os.link(os.path.join(place.encode(), names[5]), f"{place}/hard")
    os.chmod(os.path.join(place.encode(), names[0]), 0o6755)
    with open(f"{place}/holes", "wb") as file:
        for at in range(0, 64 << 20, 1 << 16):
            file.seek(at)
            file.write(b"x")
    with open(f"{place}/\udcff holes", "wb") as file:
        file.truncate(1 << 40)


class _no_matter:
    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: object, _: object) -> bool:
        return isinstance(error, OSError)


def _seen(place: str) -> dict[bytes, tuple[object, ...]]:
    found: dict[bytes, tuple[object, ...]] = {}
    for directory, directories, names in os.walk(place.encode()):
        for name in [*directories, *names]:
            path = os.path.join(directory, name)
            at = os.lstat(path)
            attributes: dict[str, bytes] = {}
            if stat.S_ISREG(at.st_mode):
                with _no_matter():
                    attributes = {key: os.getxattr(path, key) for key in os.listxattr(path)}
            content = (
                Path(os.fsdecode(path)).read_bytes() if stat.S_ISREG(at.st_mode) and at.st_size < 1000 else at.st_size
            )
            is_directory = stat.S_ISDIR(at.st_mode)
            found[path] = (
                at.st_mode, at.st_uid, at.st_nlink, None if is_directory else at.st_size, at.st_mtime_ns,
                content if not is_directory else None, str(attributes),
            )  # fmt: skip
    return found


@loud
async def names_and_kinds_that_nobody_expects(world: World) -> str:
    place = Path("odd")
    place.mkdir()
    _furnish(str(place))
    before = _seen(str(place))
    await frozen()
    after = _seen(str(place))
    different = {
        name: (before.get(name), after.get(name))
        for name in before.keys() | after
        if before.get(name) != after.get(name)
    }
    return "the same" if not different else str(different)[:2000]


@loud
async def many_holes(world: World) -> str:
    """A file of so many pieces that whoever handles them one after the other had better not copy the list of them."""
    with open("holes", "wb") as file:
        for number in range(12_000):
            file.seek(number << 13)
            file.write(b"x")
    began = time.monotonic()
    await frozen()
    return "the same" if os.path.getsize("holes") == (11_999 << 13) + 1 else f"{time.monotonic() - began}"


@loud
async def never_answers_when_asked_to_stand_still(world: World) -> str:
    """It says that it waits, and then says nothing any more."""
    say({"type": "block", "waits": [{"wait_id": "wait_never", "kind": "time", "duration_s": 3600.0}], "idle": True})
    time.sleep(3600)
    return "never"


@loud
async def says_that_it_stands_still_and_does_not(world: World) -> str:
    """It announces its sleep, closes the connection, and works on."""
    say({"type": "block", "waits": [{"wait_id": "wait_lies", "kind": "time", "duration_s": 2.0}], "idle": True})
    time.sleep(0.5)
    say({"type": "suspending", "waiting_at": [{"\0": "\0"}] * 10})
    with socket.socket(fileno=os.dup(control())) as connection:
        connection.shutdown(socket.SHUT_RDWR)
    time.sleep(3600)
    return "never"


@loud
async def stops_itself(world: World) -> str:
    """Whoever is stopped answers nobody. As pid 1 of its own view it can't be stopped from within."""
    os.kill(os.getpid(), signal.SIGSTOP)
    return "goes on"


@loud
async def has_children_that_are_stopped(world: World) -> str:
    child = subprocess.Popen(["sleep", "3600"])
    child.send_signal(signal.SIGSTOP)
    traced = subprocess.Popen([sys.executable, "-c", "import os; os.kill(os.getpid(), 19)"])
    time.sleep(0.2)
    await frozen()
    alive = child.poll() is None and traced.poll() is None
    for each in (child, traced):
        each.kill()
        each.wait()
    return "there" if alive else "gone"


_BREEDER = """
import os, time
end = time.monotonic() + 8
while time.monotonic() < end:
    if os.fork() == 0:
        os._exit(0)
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
"""


@loud
async def breeds_while_it_is_frozen(world: World) -> str:
    """Processes that come and go thousands of times a second."""
    breeder = subprocess.Popen([sys.executable, "-c", _BREEDER])
    await frozen()
    breeder.kill()
    breeder.wait()
    return "back"


@loud
async def answers_the_wake_up_call_itself(world: World) -> str:
    """A child sends the signal that ends the sleep."""
    waker = subprocess.Popen(
        [sys.executable, "-c", "import os, time\nwhile True:\n    os.kill(os.getppid(), 10)\n    time.sleep(0.001)"],
    )
    await asyncio.sleep(0.2)
    await frozen()
    waker.kill()
    waker.wait()
    return "back"
