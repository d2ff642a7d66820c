"""Tasks that treat their process, their files and their event loop as roughly as real ones do."""

import asyncio
import ctypes
import multiprocessing
import os
import signal
import socket
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

from torpor import Retry, RunFailed, TokenTimeout, create_token, task, wait
from torpor import sync as blocking

ONCE = Retry(max_attempts=1)
AGAIN = Retry(max_attempts=60, min_delay=0, max_delay=0, jitter=False)


def note(journal: str, line: str) -> None:
    with open(journal, "a") as file:
        file.write(line + "\n")


def double(number: int) -> int:
    return 2 * number


# -- an answer at any moment ------------------------------------------------------------------------------------------


@task(retry=ONCE)
async def answered_async(journal: str, token_id: str) -> Any:
    note(journal, "before")
    answer = await wait.for_token(token_id)
    note(journal, "after")
    return answer


@task(retry=ONCE)
def answered_sync(journal: str, token_id: str) -> Any:
    note(journal, "before")
    answer = blocking.wait.for_token(token_id)
    note(journal, "after")
    return answer


# -- waits in all that asyncio has ------------------------------------------------------------------------------------


@task(retry=ONCE)
async def says_no(token_id: str) -> None:
    await wait.for_token(token_id)
    raise ValueError("no")


@task(retry=ONCE)
async def levels(depth: int) -> int:
    return 0 if depth == 0 else 1 + await levels.trigger_and_wait(depth - 1)


@task(retry=ONCE)
async def in_parallel(form: str, first: str, second: str, last: str) -> Any:
    """Waits for one or both of the tokens in the manner of `form`; each form ends in one more freeze, for `last`."""
    result = await FORMS[form](first, second)
    await wait.for_token(last)
    return result


async def first_completed(first: str, second: str) -> Any:
    waits = [asyncio.create_task(wait.for_token(token)) for token in (first, second)]
    done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for each in pending:
        each.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    return [each.result() for each in done]


async def group_with_failure(first: str, second: str) -> Any:
    async def fails() -> None:
        raise ValueError(await wait.for_token(first))

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())
            group.create_task(wait.for_token(second))
    except BaseExceptionGroup as failed:
        return str(failed.exceptions[0])


async def shielded(first: str, second: str) -> Any:
    inner = asyncio.create_task(wait.for_token(first))
    try:
        return await asyncio.wait_for(asyncio.shield(inner), 0.01)
    except TimeoutError:
        return await inner


async def as_completed(first: str, second: str) -> Any:
    return [await each for each in asyncio.as_completed([wait.for_token(first), wait.for_token(second)])]


async def the_same_twice(first: str, second: str) -> Any:
    return await asyncio.gather(wait.for_token(first), wait.for_token(first))


async def child_fails_meanwhile(first: str, second: str) -> Any:
    failed, answer = await asyncio.gather(
        says_no.trigger_and_wait(second), wait.for_token(first), return_exceptions=True
    )
    return [isinstance(failed, RunFailed), answer]


async def two_hundred(first: str, second: str) -> Any:
    await asyncio.gather(*[wait.for_(seconds=0.5 + number / 200) for number in range(200)])
    return await wait.for_token(first)


FORMS = {
    form.__name__: form
    for form in (
        first_completed,
        group_with_failure,
        shielded,
        as_completed,
        the_same_twice,
        child_fails_meanwhile,
        two_hundred,
    )
}


# -- what a process holds ---------------------------------------------------------------------------------------------


@task(retry=ONCE)
async def holds(what: str, token_id: str) -> Any:
    """Makes `what`, waits, and returns what has become of it."""
    with HOLDINGS[what]() as look:
        await wait.for_token(token_id)
        return look()


Holding = Generator[Callable[[], Any], None, None]


@contextmanager
def odd_files() -> Holding:
    os.mkfifo("pipe")
    Path("one").write_text("1")
    os.link("one", "other")
    os.symlink("nowhere", "dangling")
    Path("line\nbreak").touch()
    Path(os.fsdecode(b"\xff\xfe")).touch()
    yield lambda: [len(os.listdir()), os.path.samefile("one", "other")]


@contextmanager
def many_files() -> Holding:
    files = [open(f"file{number}", "w+") for number in range(500)]  # noqa: SIM115  (all at once is the point)
    yield lambda: sum(file.write("x") for file in files)


@contextmanager
def pipe_with_bytes() -> Holding:
    os.mkfifo("pipe")
    pipe = os.open("pipe", os.O_RDWR)
    os.write(pipe, b"hey")
    yield lambda: os.read(pipe, 3).decode()


@contextmanager
def nameless_files() -> Holding:
    memory = os.memfd_create("memory")
    os.write(memory, b"abc")
    with tempfile.TemporaryFile() as file:
        file.write(b"def")
        yield lambda: [os.pread(memory, 3, 0).decode(), file.seek(0), file.read().decode()]


@contextmanager
def open_transaction() -> Holding:
    database = sqlite3.connect("rows.db")
    database.execute("pragma journal_mode=wal")
    database.execute("create table rows (number)")
    database.execute("insert into rows values (1)")
    yield lambda: [database.commit(), database.execute("select * from rows").fetchall()][1]


@contextmanager
def worker_processes() -> Holding:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.map(double, [1])
        yield lambda: pool.map(double, [1, 2])


@contextmanager
def memory_by_name() -> Holding:
    lock = multiprocessing.get_context("spawn").Lock()  # a semaphore whose own name is gone, though another is left
    memory: Any = shared_memory.SharedMemory(name="torpor-lifecycle", create=True, size=1 << 20)
    memory.buf[:3] = b"abc"

    def look() -> list[object]:
        with lock:
            other: Any = shared_memory.SharedMemory(name="torpor-lifecycle")
            memory.buf[3:5] = b"de"
            return [bytes(other.buf[:5]).decode(), memory.unlink(), [name for name in os.listdir() if "remap" in name]]

    yield look


@contextmanager
def memory_under_another_name() -> Holding:
    """Opened under a name that is gone: a dump makes one of its own beside it."""
    with open("/dev/shm/torpor-lifecycle-first", "w+") as file:
        file.write("abc")
        file.flush()
        os.link("/dev/shm/torpor-lifecycle-first", "/dev/shm/torpor-lifecycle-second")
        os.unlink("/dev/shm/torpor-lifecycle-first")
        yield lambda: [os.pread(file.fileno(), 3, 0).decode(), os.unlink("/dev/shm/torpor-lifecycle-second")]


@contextmanager
def file_with_a_hole() -> Holding:
    with open("sparse", "wb+") as file:
        file.seek(1 << 30)
        file.write(b"end")
        file.flush()
        yield lambda: [os.pread(file.fileno(), 3, 1 << 30).decode(), os.fstat(file.fileno()).st_blocks < 1000]


@contextmanager
def connections() -> Holding:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        yield lambda: server.getsockname()[0]


@contextmanager
def interval_timer() -> Holding:
    rings: list[int] = []
    signal.signal(signal.SIGALRM, lambda number, _: rings.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)

    def look() -> bool:
        rings.clear()
        while not rings:  # it rings on, or this test says that the run does not end
            signal.pause()
        signal.setitimer(signal.ITIMER_REAL, 0)
        return True

    yield look


HOLDINGS = {
    holding.__name__: holding
    for holding in (
        odd_files,
        many_files,
        pipe_with_bytes,
        nameless_files,
        open_transaction,
        worker_processes,
        memory_by_name,
        memory_under_another_name,
        file_with_a_hole,
        connections,
        interval_timer,
    )
}


# -- ends -------------------------------------------------------------------------------------------------------------


@task(id="ends/in ünusual ways", retry=ONCE)
async def ends(how: str) -> str:
    match how:
        case "exit":
            os._exit(3)
        case "sys.exit":
            sys.exit(4)
        case "fault":
            ctypes.string_at(0)
        case "terminate":
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(10)
        case "interrupt":
            raise KeyboardInterrupt
        case "endless":
            return await endless()
        case "unwritable":
            return "\ud800"
    return how


async def endless() -> str:
    return await endless()


# -- many waits, through kills ----------------------------------------------------------------------------------------


@task(retry=AGAIN)
async def many_waits(journal: str, count: int, last: str) -> list[int]:
    """A line per wait that is over, and `begun` at each start from the top. Then it waits for a token."""
    note(journal, "begun")
    over: list[int] = []
    for number in range(count):
        if number % 3 == 2:
            try:
                await wait.for_token(await create_token(timeout=0.5))
            except TokenTimeout:
                pass
        else:
            await wait.for_(seconds=0.3 + number % 4 / 3)
        over.append(number)
        note(journal, f"over {number}")
    await wait.for_token(last)
    return over
