"""Children of all kinds, and what lies between them and the run: pipes, queues, shared memory, servers."""

import asyncio
import concurrent.futures
import multiprocessing
import multiprocessing.managers
import multiprocessing.synchronize
import os
import signal
import subprocess
import sys
import time
from multiprocessing import shared_memory
from typing import Any

from freezing import freeze, program


def square(n: int) -> int:
    return n * n


def own_pid(_: int) -> int:
    time.sleep(0.05)
    return os.getpid()


async def process_pool(method: str) -> None:
    """The same processes work on before and after."""
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
        pids: set[int] = set()
        while len(pids) < 2:  # the second may still be on its way when the first has done it all
            pids |= set(pool.map(own_pid, range(8)))
        for _ in range(2):
            assert list(pool.map(square, range(4))) == [0, 1, 4, 9]
            await freeze()
            assert set(pool.map(own_pid, range(8))) <= pids
        assert await asyncio.get_running_loop().run_in_executor(pool, square, 12) == 144


@program
async def process_pool_executor_fork() -> None:
    await process_pool("fork")


@program
async def process_pool_executor_spawn() -> None:
    await process_pool("spawn")


def echo(incoming: Any, outgoing: Any) -> None:
    while (item := incoming.get()) is not None:
        outgoing.put(item)


@program
async def multiprocessing_queue() -> None:
    """What is in it, and the process at its other end, which waits for more."""
    context = multiprocessing.get_context("fork")
    there, back, full = context.Queue(), context.Queue(), context.Queue()
    child = context.Process(target=echo, args=(there, back))
    child.start()
    full.put({"left": "in the queue"})
    for n in range(3):
        there.put(n)
        if n < 2:
            await freeze()
        assert back.get(timeout=60) == n
    assert full.get(timeout=60) == {"left": "in the queue"}
    there.put(None)
    child.join(60)
    assert child.exitcode == 0


def add_one(name: str, lock: multiprocessing.synchronize.Lock) -> None:
    memory = shared_memory.SharedMemory(name)
    with lock:
        bytes_of(memory)[0] += 1
    memory.close()


def bytes_of(memory: shared_memory.SharedMemory) -> memoryview:
    assert memory.buf is not None
    return memory.buf


@program
async def multiprocessing_shared_memory() -> None:
    """A block with a name, in this process and, by that name, in children that are started later."""
    context = multiprocessing.get_context("fork")
    memory, lock = shared_memory.SharedMemory(create=True, size=1 << 20), context.Lock()
    bytes_of(memory)[-5:] = b"hello"
    try:
        for n in range(3):
            child = context.Process(target=add_one, args=(memory.name, lock))
            child.start()
            child.join(60)
            assert bytes_of(memory)[0] == n + 1
            if n < 2:
                await freeze()
        assert bytes_of(memory)[0] == 3
        assert bytes(bytes_of(memory)[-5:]) == b"hello"
    finally:
        memory.close()
        memory.unlink()


@program
async def multiprocessing_manager() -> None:
    """Objects in a server process, reached through proxies and a unix socket of the run's own."""
    with multiprocessing.managers.SyncManager(ctx=multiprocessing.get_context("fork")) as manager:
        shared, events = manager.dict(), manager.Event()
        for n in range(3):
            shared[n] = str(n)
            if n < 2:
                await freeze()
            assert dict(shared) == {m: str(m) for m in range(n + 1)}
        events.set()
        assert events.is_set()


@program
async def subprocess_with_pipes() -> None:
    cat = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert cat.stdin is not None
    assert cat.stdout is not None
    for n in range(3):
        cat.stdin.write(b"%d\n" % n)
        cat.stdin.flush()
        if n < 2:
            await freeze()
        assert cat.stdout.readline() == b"%d\n" % n
    cat.stdin.close()
    assert cat.wait() == 0


@program
async def asyncio_subprocess() -> None:
    cat = await asyncio.create_subprocess_exec("cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    assert cat.stdin is not None
    assert cat.stdout is not None
    for n in range(3):
        cat.stdin.write(b"%d\n" % n)
        await cat.stdin.drain()
        if n < 2:
            await freeze()
        assert await cat.stdout.readline() == b"%d\n" % n
    cat.stdin.close()
    assert await cat.wait() == 0


@program
async def zombie_child() -> None:
    child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    for _ in range(2):
        await freeze()
    assert child.wait() == 7


@program
async def daemonised_child() -> None:
    """A grandchild in a session of its own, whose parent is gone: it goes on, and answers signals."""
    reading, writing = os.pipe()
    middle = os.fork()
    if middle == 0:
        os.setsid()
        if os.fork() == 0:
            os.close(reading)
            signal.signal(signal.SIGUSR2, lambda *_: os.write(writing, b"here\n"))
            os.write(writing, b"%d\n" % os.getpid())
            while True:
                signal.pause()
        os._exit(0)
    os.close(writing)
    os.waitpid(middle, 0)
    told = os.fdopen(reading, "rb")
    daemon = int(told.readline())
    for _ in range(2):
        await freeze()
        assert os.getsid(daemon) == middle
        os.kill(daemon, signal.SIGUSR2)
        assert told.readline() == b"here\n"
    os.kill(daemon, signal.SIGKILL)


@program
async def pipes_keep_what_is_in_them() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"unread")
    await freeze()
    os.write(writing, b" more")
    await freeze()
    assert os.read(reading, 100) == b"unread more"


@program
async def identity_of_the_process() -> None:
    import threading

    before = os.getpid(), threading.get_native_id(), os.getcwd(), os.getsid(0)
    for _ in range(2):
        await freeze()
        assert (os.getpid(), threading.get_native_id(), os.getcwd(), os.getsid(0)) == before
