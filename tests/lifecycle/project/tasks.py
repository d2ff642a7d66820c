"""Tasks for the lifecycle tests. Each tells what it did by what it returns and by lines in a file that outlives it."""

import asyncio
import ctypes
import os
import socket
import struct
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pydantic import BaseModel

from torpor import (
    AbortRun,
    Queue,
    Retry,
    TokenTimeout,
    WaitCycle,
    WaitTimeout,
    batch_trigger_and_wait,
    create_token,
    current,
    task,
    wait,
)
from torpor import sync as blocking


class Item(BaseModel):
    sku: str
    count: int


class Order(BaseModel):
    customer: str
    items: list[Item]


def note(journal: str, line: str) -> None:
    with open(journal, "a") as file:
        file.write(line + "\n")


@task
async def total(order: Order) -> int:
    return sum(item.count for item in order.items)


@task
async def sleeper(journal: str, seconds: float) -> dict[str, object]:
    """Before and after the wait it writes a line: each should be there exactly once."""
    held = {"secret": os.urandom(8).hex()}
    note(journal, f"before {held['secret']}")
    await wait.for_(seconds=seconds)
    note(journal, f"after {held['secret']}")
    return {"secret": held["secret"], "pid": os.getpid(), "attempt": current.attempt}


@task
def sync_sleeper(journal: str, seconds: float) -> str:
    secret = os.urandom(8).hex()
    note(journal, f"before {secret}")
    blocking.wait.for_(seconds=seconds)
    note(journal, f"after {secret}")
    return secret


@task
async def waits_for_token(journal: str, token_id: str) -> object:
    note(journal, "before")
    answer = await wait.for_token(token_id)
    note(journal, "after")
    return answer


@task
async def two_waits(journal: str, first: str, second: str) -> list[object]:
    one = await wait.for_token(first)
    note(journal, "between")
    two = await wait.for_token(second)
    return [one, two]


@task
async def approval() -> dict[str, object]:
    answer = await wait.for_approval("Ship it?", timeout="1h", context={"cost": 3})
    return {"approved": bool(answer), "by": answer.by}


@task
async def times_out() -> str:
    token = await create_token(timeout=0.5)
    try:
        await wait.for_token(token)
    except TokenTimeout as error:
        return type(error).__name__
    return "completed"


@task
async def adder(a: int, b: int) -> int:
    print(f"adding {a} and {b}")
    return a + b


@task(retry=Retry(max_attempts=1))
async def failing_child() -> None:
    raise ValueError("the child's own reason")


@task(retry=Retry(max_attempts=1))
async def parent(fails: bool = False) -> int:
    if fails:
        await failing_child.trigger_and_wait()
    return await adder.trigger_and_wait(2, 3)


@task
async def gathers(seconds: float) -> list[object]:
    return list(
        await asyncio.gather(adder.trigger_and_wait(1, 2), adder.trigger_and_wait(3, 4), wait.for_(seconds=seconds))
    )


@task
async def limited(token_id: str, seconds: float) -> dict[str, object]:
    """A limit of asyncio's around a wait: whichever comes first."""
    began, loop_began = time.time(), asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(seconds):
            answer = await wait.for_token(token_id)
    except TimeoutError:
        answer = "timed out"
    return {"answer": answer, "wall": time.time() - began, "loop": asyncio.get_running_loop().time() - loop_began}


@task
async def waits_with_limits(token_id: str, run_id: str, seconds: float) -> list[str]:
    told: list[str] = []
    for waiting in (wait.for_token(token_id, timeout=seconds), wait.for_run(run_id, timeout=seconds)):
        try:
            await waiting
        except WaitTimeout as error:
            told.append(type(error).__name__)
    return told


@task
async def waits_in_threads(first: str, second: str) -> list[object]:
    """Blocking waits of an async task, in threads of an executor."""
    return list(await asyncio.gather(*[asyncio.to_thread(blocking.wait.for_token, token) for token in (first, second)]))


@task
def pool_of_waits(first: str, second: str) -> list[str]:
    """Blocking waits of a blocking task, in threads of its own; a plain thread waits beside them."""
    seen: list[object] = []
    plain = threading.Thread(target=lambda: seen.append(blocking.wait.for_token(first)))
    plain.start()
    with ThreadPoolExecutor(2) as pool:
        seen += list(pool.map(blocking.wait.for_token, [first, second]))
    plain.join()
    return sorted(map(str, seen))


@task(retry=Retry(max_attempts=1))
async def waits_for_run(journal: str) -> str:
    """Waits for the run that is named in the journal, as soon as it is."""
    while not Path(journal).exists():
        await asyncio.sleep(0.02)
    try:
        return str(await wait.for_run(Path(journal).read_text().strip()))
    except WaitCycle as error:
        return f"told: {error}"


@task(retry=Retry(max_attempts=2, min_delay=0, max_delay=0, jitter=False))
async def waits_once(journal: str) -> None:
    """Its second attempt need not wait again."""
    await wait.for_(seconds=0.3, idempotency_key=f"nap of {current.run_id}")
    note(journal, f"attempt {current.attempt}")
    if current.attempt == 1:
        raise RuntimeError("once more")


@task(retry=Retry(max_attempts=3, min_delay=0, max_delay=0, jitter=False))
async def flaky(journal: str) -> int:
    note(journal, f"attempt {current.attempt}")
    if current.attempt < 3:
        raise RuntimeError(f"not yet at attempt {current.attempt}")
    return current.attempt


@task
async def aborts() -> None:
    raise AbortRun("no use trying")


@task(retry=Retry(max_attempts=2, min_delay=0, max_delay=0))
async def busy(journal: str) -> None:
    """Runs until somebody kills it or the journal's `.go` file appears."""
    note(journal, f"busy {current.attempt}")
    while not Path(journal + ".go").exists():
        await asyncio.sleep(0.01)


@task
async def wait_then_busy(journal: str, token_id: str) -> int:
    note(journal, "before")
    await wait.for_token(token_id)
    note(journal, f"after {current.attempt}")
    while not Path(journal + ".go").exists():
        await asyncio.sleep(0.01)
    return current.attempt


@task
async def blocks_the_loop(journal: str) -> str:
    """Until the journal's `.go` file appears."""
    note(journal, "blocked")
    while not Path(journal + ".go").exists():
        time.sleep(0.01)  # noqa: ASYNC251  (that it blocks is the point)
    return "done"


@task
async def waits_with_thread(token_id: str) -> object:
    """A thread of asyncio.to_thread is at work while the task waits: not a moment to freeze."""
    gate = threading.Event()

    def work() -> None:
        while not gate.wait(0.01):  # without a limit it would sleep, and be frozen along
            sum(range(1000))

    crunch = asyncio.create_task(asyncio.to_thread(work))
    try:
        return await wait.for_token(token_id)
    finally:
        gate.set()
        await crunch


@task
async def waits_with_socket(token_id: str, path: str) -> object:
    """A unix socket connected to another process can't travel."""
    _, writer = await asyncio.open_unix_connection(path)
    try:
        return await wait.for_token(token_id)
    finally:
        writer.close()


@task
async def waits_with_a_counter(token_id: str) -> object:
    """CRIU can't dump a perf event."""
    software, size, cpu_clock = 1, 112, 0
    attributes = ctypes.create_string_buffer(struct.pack("IIQ", software, size, cpu_clock).ljust(size, b"\0"))
    perf_event_open = 241 if os.uname().machine == "aarch64" else 298
    counter = ctypes.CDLL(None, use_errno=True).syscall(perf_event_open, attributes, 0, -1, -1, 0)
    assert counter >= 0, os.strerror(ctypes.get_errno())
    try:
        return await wait.for_token(token_id)
    finally:
        os.close(counter)


@task
async def doubles(text: str) -> str:
    return text * 2


@task
async def large_output(megabytes: int) -> str:
    return "x" * (megabytes << 20)


@task
async def listens(port: int, token_id: str) -> str:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        await wait.for_token(token_id)
        return f"listens on {listener.getsockname()[1]}"


@task
async def child_with_own_mounts(token_id: str) -> object:
    child = subprocess.Popen(["unshare", "--mount", "sleep", "3600"])
    try:
        return await wait.for_token(token_id)
    finally:
        child.kill()
        child.wait()


@task
async def prints_much(lines: int) -> None:
    for number in range(lines):
        print(f"line {number} " + "x" * 60)


@task
async def forges_log_lines() -> str:
    """Anybody can write what looks like a line of the logger."""
    for forged in (
        b'{"at": 5, "level": 7, "message": ["x"]}',
        b'{"at": "2026-01-01T00:00:00+00:00", "level": "info", "message": "m", "attributes": [1]}',
        b'{"at": "2026-01-01T00:00:00+00:00", "level": "info", "message": "\\ud800", "attributes": {"k\\u0000": "\\udfff"}}',
        b"[" * 100_000,
    ):
        os.write(1, b"\x1e" + forged + b"\n")
    return "told"


@task
async def many_levels(depth: int) -> int:
    return depth if depth == 0 else 1 + await many_levels.trigger_and_wait(depth - 1)


@task
def mounts_and_dies() -> None:
    """As a process that is killed while CRIU has mounted a /proc in its working directory, or whose code mounts things."""
    os.mkdir("a b")
    subprocess.run(["mount", "-t", "tmpfs", "none", "a b"], check=True)
    os.mkdir("a b/inner")
    subprocess.run(["mount", "-t", "tmpfs", "none", "a b/inner"], check=True)


@task(retry=Retry(max_attempts=1))
async def picky(number: int) -> int:
    """Every third one fails."""
    if number % 3 == 0:
        raise ValueError(f"not {number}")
    return number * number


@task
async def batch_parent(journal: str, count: int, token_id: str) -> list[object]:
    """Waits for a batch that ends when a token does: one of its children waits for that."""
    note(journal, "before")
    results = await batch_trigger_and_wait(
        [*(picky.item(number) for number in range(count)), waits_for_token.item(journal, token_id)]
    )
    note(journal, "after")
    return [result.output if result.ok else result.error and result.error["message"] for result in results]


narrow = Queue("narrow", concurrency_limit=1)


@task(queue=narrow)
async def nested(depth: int, token: str | None = None) -> int:
    """Each run waits for one of its own queue, which lets one work at a time. The innermost waits for a token."""
    if depth:
        return 1 + await nested.trigger_and_wait(depth - 1, token)
    if token is not None:
        await wait.for_token(token)
    return 0


@task(queue=narrow)
async def one_at_a_time(journal: str, name: str) -> None:
    note(journal, f"begin {name}")
    await asyncio.sleep(0.3)
    note(journal, f"end {name}")
