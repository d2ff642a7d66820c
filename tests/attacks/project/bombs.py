"""To take so much of something that there is none left for others. Each stops by itself at twice what is fair."""

import errno
import mmap
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

from arms import World, frozen
from loud import loud

MB = 1 << 20
SO_MANY_PROCESSES = 3000
SO_MUCH_MEMORY = 1536 * MB
SO_MUCH_DISK = 1024 * MB
SO_MANY_FILES = 400_000


@loud
async def fork_bomb(world: World) -> str:
    children: list[int] = []
    answer = "no end"
    try:
        while len(children) < SO_MANY_PROCESSES:
            children.append(
                os.posix_spawn("/bin/sleep", ["sleep", "3600"], {})
            )  # small: memory isn't to be what ends it
    except OSError as error:
        answer = errno.errorcode[error.errno or 0]
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
        for child in children:
            os.waitpid(child, 0)
    return answer


@loud
async def thread_bomb(world: World) -> str:
    over = threading.Event()
    threads: list[threading.Thread] = []
    answer = "no end"
    threading.stack_size(64 << 10)
    try:
        while len(threads) < SO_MANY_PROCESSES:
            threads.append(threading.Thread(target=over.wait))
            threads[-1].start()
    except RuntimeError:
        threads.pop()
        answer = "can't start new thread"
    finally:
        over.set()
        for thread in threads:
            thread.join()
    return answer


def _fill_memory() -> None:
    for _ in range(SO_MUCH_MEMORY // (16 * MB)):
        piece = mmap.mmap(-1, 16 * MB)
        piece.write(b"x" * (16 * MB))
        _kept.append(piece)


_kept: list[mmap.mmap] = []


@loud
async def memory_bomb(world: World) -> str:
    _fill_memory()
    return "no end"


@loud
async def memory_bomb_in_a_child(world: World) -> str:
    if (child := os.fork()) == 0:
        _fill_memory()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return "no end" if status == 0 else f"ended with {status}"


def _fill(place: str) -> str:
    written = 0
    try:
        with open(f"{place}/large", "wb", buffering=0) as file:
            while written < SO_MUCH_DISK:
                written += file.write(b"x" * MB)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    finally:
        with suppress(OSError):
            os.unlink(f"{place}/large")
    return "no end"


@loud
async def disk_bomb(world: World) -> dict[str, str]:
    return {name: _fill(place) for name, place in (("work", "."), ("tmp", tempfile.gettempdir()), ("shm", "/dev/shm"))}


@loud
async def disk_bomb_of_small_files(world: World) -> str:
    os.mkdir("many")
    answer = "no end"
    try:
        for number in range(SO_MANY_FILES):
            os.close(os.open(f"many/{number}", os.O_CREAT | os.O_WRONLY))
    except OSError as error:
        answer = errno.errorcode[error.errno or 0]
    subprocess.run(["rm", "-r", "many"], check=True)
    return answer


@loud
async def disk_bomb_of_directories(world: World) -> str:
    """Each in the other: nobody's recursion goes so deep."""
    here = os.open(".", os.O_RDONLY)
    try:
        for _ in range(5000):
            os.mkdir("d" * 50)
            os.chdir("d" * 50)
    finally:
        os.fchdir(here)
        os.close(here)
    await frozen()
    return "back"


@loud
async def descriptor_bomb(world: World) -> str:
    opened: list[int] = []
    try:
        while len(opened) < 2 * 10**6:
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return "no end"


@loud
async def descriptors_in_flight(world: World) -> str:
    """Descriptors sent and never taken: those of everybody are counted together, by user."""
    import socket

    pairs: list[socket.socket] = []
    try:
        for _ in range(200):
            here, there = socket.socketpair()
            pairs += [here, there]
            for _ in range(200):
                socket.send_fds(here, [b"x"], [0] * 250)
                here.setblocking(False)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    finally:
        for each in pairs:
            each.close()
    return "no end"


@loud
async def pipe_bomb(world: World) -> str:
    """Memory of the kernel's, in pipes of the largest size."""
    import fcntl

    made: list[int] = []
    try:
        for _ in range(480):
            ends = os.pipe()
            made += ends
            with suppress(PermissionError):
                fcntl.fcntl(ends[1], 1031, MB)  # F_SETPIPE_SZ
    finally:
        for end in made:
            os.close(end)
    return "made"


@loud
async def output_without_end(world: World) -> str:
    piece = b"x" * MB
    for _ in range(64):
        os.write(1, piece)
    return "written"


@loud
async def output_of_many_lines(world: World) -> str:
    piece = b"y\n" * (MB // 2)
    for _ in range(4):
        os.write(1, piece)
    return "written"


@loud
async def cpu_bomb(world: World) -> str:
    children = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(8)]
    time.sleep(2)
    for child in children:
        child.kill()
        child.wait()
    return "over"


@loud
async def lifts_its_own_limits(world: World) -> dict[str, str]:
    """By the calls that are there for it."""
    told: dict[str, str] = {}
    for name in ("RLIMIT_NOFILE", "RLIMIT_NPROC", "RLIMIT_CORE", "RLIMIT_MEMLOCK"):
        kind = getattr(resource, name)
        soft, hard = resource.getrlimit(kind)
        try:
            resource.setrlimit(kind, (soft, resource.RLIM_INFINITY if hard != resource.RLIM_INFINITY else hard))
            told[name] = "as it was" if hard == resource.RLIM_INFINITY else "lifted"
        except (ValueError, OSError):
            told[name] = "refused"
    Path("note").touch()
    return told
