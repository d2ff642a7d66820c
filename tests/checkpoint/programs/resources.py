"""Self-checking programs: each sets something up, is frozen twice, and checks after each thaw that it still has it.

A program is a task; it fails if what it held is not as it was. `freeze` waits for a token
that the test completes once the run is out of memory.
"""

import asyncio
import collections
import contextlib
import contextvars
import ctypes
import mmap
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator

from torpor import Retry, create_token, task, wait
from torpor import sync as blocking

once = Retry(max_attempts=1)


async def freeze() -> None:
    await wait.for_token(await create_token())


def freeze_blocking() -> None:
    blocking.wait.for_token(blocking.create_token())


@task(retry=once)
async def plain_objects() -> None:
    held = {"list": [1, 2, 3], "self": None, "set": {1, 2}, "bytes": os.urandom(1 << 20)}
    held["self"] = held
    twin = held["bytes"]
    for _ in range(2):
        await freeze()
        assert held["self"] is held
        assert held["bytes"] is twin


@task(retry=once)
async def generator_and_closure() -> None:
    def counting() -> Iterator[int]:
        yield from range(10)

    async def awaiting() -> AsyncIterator[int]:
        for n in range(10):
            await asyncio.sleep(0)
            yield n

    seen = 0

    def bump() -> int:
        nonlocal seen
        seen += 1
        return seen

    numbers, later = counting(), awaiting()
    for n in range(3):
        assert next(numbers) == n
        assert await anext(later) == n
        assert bump() == n + 1
        await freeze()


@task(retry=once)
async def open_file_in_the_working_directory() -> None:
    with open("notes.txt", "w+") as file:
        for n in range(3):
            file.write(f"line {n}\n")
            await freeze()
        file.seek(0)
        assert file.read() == "line 0\nline 1\nline 2\n"


@task(retry=once)
async def working_directory_comes_back_as_it_was() -> None:
    os.makedirs("deep/er")
    with open("deep/er/file", "wb") as file:
        file.write(b"x" * 70000)
    os.chmod("deep/er/file", 0o640)
    os.utime("deep/er/file", ns=(10**18, 10**18 + 123456789))
    os.symlink("er/file", "deep/link")
    os.link("deep/er/file", "deep/hard")
    os.mkfifo("pipe")
    name = "odd \n name \udcff"
    open(name, "w").close()
    for _ in range(2):
        await freeze()
        status = os.stat("deep/er/file")
        assert (status.st_size, status.st_mode & 0o777, status.st_mtime_ns) == (70000, 0o640, 10**18 + 123456789)
        assert os.readlink("deep/link") == "er/file"
        assert os.stat("deep/hard").st_ino == status.st_ino
        assert sorted(os.listdir(".")) == sorted(["deep", "pipe", name])


@task(retry=once)
async def outside_file_that_grows_meanwhile(path: str) -> None:
    with open(path, "w") as file:
        file.write("first\n")
    with open(path) as reading:
        assert reading.readline() == "first\n"
        for n in range(2):
            grower = subprocess.Popen(["sh", "-c", f"echo more{n} >> {path}"])
            grower.wait()
            await freeze()
            assert reading.readline() == f"more{n}\n"


@task(retry=once)
async def temporary_files() -> None:
    named = tempfile.NamedTemporaryFile()  # noqa: SIM115
    deleted = tempfile.TemporaryFile()  # noqa: SIM115
    for n in range(3):
        for file in (named, deleted):
            file.write(b"%d" % n)
            file.flush()
        await freeze()
        for file in (named, deleted):
            file.seek(0)
            assert file.read() == b"012"[: n + 1]
    assert os.path.exists(named.name)
    named.close()


@task(retry=once)
async def sqlite_in_a_transaction() -> None:
    with contextlib.closing(sqlite3.connect("rows.db")) as db:
        db.execute("create table rows (n int)")
        db.commit()
        for n in range(3):
            db.execute("insert into rows values (?)", (n,))  # not committed: its lock and journal travel too
            await freeze()
        db.commit()
        assert db.execute("select sum(n) from rows").fetchone() == (3,)


@task(retry=once)
async def pipes_keep_what_is_in_them() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"unread")
    await freeze()
    os.write(writing, b" more")
    await freeze()
    assert os.read(reading, 100) == b"unread more"


@task(retry=once)
async def sockets_within_the_process() -> None:
    left, right = socket.socketpair()
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    left.sendall(b"queued")
    for _ in range(2):
        await freeze()
    assert right.recv(100) == b"queued"
    with socket.create_connection(listening.getsockname()) as caller:
        caller.sendall(b"hello")
        peer, _ = listening.accept()
        assert peer.recv(100) == b"hello"


@task(retry=once)
async def a_waiting_thread() -> None:
    gate, passed = threading.Event(), threading.Event()

    def stand() -> None:
        gate.wait()
        passed.set()

    thread = threading.Thread(target=stand)
    thread.start()
    for _ in range(2):
        await freeze()
        assert thread.is_alive()
    gate.set()
    assert passed.wait(10)
    thread.join()


@task(retry=once)
async def children_and_their_pipes() -> None:
    cat = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert cat.stdin is not None
    assert cat.stdout is not None
    for n in range(3):
        cat.stdin.write(b"%d\n" % n)
        cat.stdin.flush()
        await freeze()
        assert cat.stdout.readline() == b"%d\n" % n
    cat.stdin.close()
    assert cat.wait() == 0


@task(retry=once)
async def a_child_that_ended_is_still_to_be_collected() -> None:
    child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    for _ in range(2):
        await freeze()
    assert child.wait() == 7


@task(retry=once)
async def memory_maps() -> None:
    anonymous = mmap.mmap(-1, 1 << 16)
    anonymous[:5] = b"hello"
    with open("mapped", "wb") as file:
        file.truncate(1 << 16)
    with open("mapped", "r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0)
    mapped[:5] = b"world"
    for _ in range(2):
        await freeze()
        assert anonymous[:5] == b"hello"
        assert mapped[:5] == b"world"
    with open("mapped", "rb") as file:
        assert file.read(5) == b"world"


@task(retry=once)
async def context_signals_and_limits() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("kept")
    caught: list[int] = []
    signal.signal(signal.SIGUSR2, lambda number, _: caught.append(number))
    os.umask(0o027)
    os.environ["MINE"] = "1"
    for n in range(2):
        await freeze()
        os.kill(os.getpid(), signal.SIGUSR2)
        assert len(caught) == n + 1
    assert variable.get() == "kept"
    assert os.umask(0o022) == 0o027
    assert os.environ["MINE"] == "1"


@task(retry=once)
async def random_numbers_go_on() -> None:
    random.seed(7)
    expected = [random.random() for _ in range(3)]
    random.seed(7)
    for n in range(3):
        assert random.random() == expected[n]
        await freeze()


@task(retry=once)
async def monotonic_time_does_not_run_backwards() -> None:
    before, wall = time.monotonic(), time.time()
    for _ in range(2):
        await freeze()
        now = time.monotonic()
        assert now >= before
        before = now
    assert time.time() >= wall
    began = time.monotonic()
    await asyncio.sleep(0.05)
    assert 0.05 <= time.monotonic() - began < 20


@task(retry=once)
async def identity_of_the_process() -> None:
    before = os.getpid(), threading.get_native_id(), os.getcwd(), os.getsid(0)
    for _ in range(2):
        await freeze()
        assert (os.getpid(), threading.get_native_id(), os.getcwd(), os.getsid(0)) == before


@task(retry=once)
async def asyncio_machinery() -> None:
    """Tasks that wait for each other, around the one that waits for Torpor."""
    queue: asyncio.Queue[int] = asyncio.Queue()
    lock, event = asyncio.Lock(), asyncio.Event()

    async def consumer() -> list[int]:
        async with lock:
            return [await queue.get() for _ in range(3)]

    async def watcher() -> str:
        await event.wait()
        async with lock:
            return "watched"

    eating, watching = asyncio.create_task(consumer()), asyncio.create_task(watcher())
    for n in range(2):
        await queue.put(n)
        await freeze()
        assert not eating.done()
    event.set()
    await queue.put(2)
    assert await eating == [0, 1, 2]
    assert await watching == "watched"


@task(retry=once)
def a_blocking_task_with_threads() -> None:
    results: collections.deque[int] = collections.deque()
    gate = threading.Barrier(3)

    def work(n: int) -> None:
        gate.wait()
        results.append(n)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(2):
        freeze_blocking()
    gate.wait()
    for thread in threads:
        thread.join()
    assert sorted(results) == [0, 1]


@task(retry=once)
async def c_memory() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    block = libc.malloc(1 << 16)
    ctypes.memset(block, 0x5A, 1 << 16)
    for _ in range(2):
        await freeze()
        assert ctypes.string_at(block, 1 << 16) == b"\x5a" * (1 << 16)
