"""May this run be frozen? One asyncio shape each: what only an answer can wake is idle, all else is told in words."""

import asyncio
import contextlib
import queue
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import anyio
import pytest

from torpor.sdk import idle
from torpor.sdk.idle import Verdict, WaitFuture

Program = Callable[[], Coroutine[Any, Any, Any]]
PATIENCE_S = 30.0
over = threading.Event()
"""What was looked at may end."""


def is_idle(verdict: Verdict) -> bool:
    return verdict.is_idle


async def answered() -> Any:
    """A Torpor wait."""
    return await WaitFuture(loop=asyncio.get_running_loop())


def look(program: Program, until: Callable[[Verdict], bool]) -> Verdict:
    """Let the program run until it is where it has nothing left to do, and look."""
    loop = asyncio.new_event_loop()
    over.clear()
    try:
        task = loop.create_task(program(), name="main")
        end = time.monotonic() + PATIENCE_S
        while True:
            loop.run_until_complete(asyncio.sleep(0.02))
            verdict = idle.look(loop)
            assert not task.done() or task.exception() is None
            if until(verdict) or time.monotonic() > end:
                return verdict
    finally:
        over.set()
        for left in asyncio.all_tasks(loop):
            left.cancel()
        loop.run_until_complete(asyncio.sleep(0.01))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        for thread in threading.enumerate():
            if thread.name.startswith("AnyIO"):
                thread.join()


# -- idle -------------------------------------------------------------------------------------------------------------


async def in_gather() -> None:
    await asyncio.gather(answered(), answered())


async def in_nested_gather() -> None:
    await asyncio.gather(asyncio.gather(answered()), asyncio.gather(answered(), answered()))


async def in_a_task_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(answered())
        group.create_task(answered())


async def behind_asyncio_wait() -> None:
    tasks = [asyncio.ensure_future(answered()) for _ in range(2)]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)


async def behind_asyncio_wait_with_a_timeout() -> None:
    await asyncio.wait([asyncio.ensure_future(answered())], timeout=1000)


async def behind_wait_for() -> None:
    await asyncio.wait_for(answered(), 1000)


async def behind_a_shield() -> None:
    await asyncio.shield(answered())


async def behind_a_shielded_gather() -> None:
    await asyncio.shield(asyncio.gather(answered(), answered()))


async def under_a_timeout() -> None:
    async with asyncio.timeout(1000):
        await answered()


async def behind_as_completed() -> None:
    for each in asyncio.as_completed([answered(), answered()]):
        await each


async def behind_a_queue() -> None:
    queue: asyncio.Queue[int] = asyncio.Queue()

    async def consume() -> None:
        await queue.get()

    async def produce() -> None:
        await answered()
        queue.put_nowait(1)

    await asyncio.gather(consume(), produce(), queue.join())


async def behind_locks() -> None:
    lock, event, semaphore = asyncio.Lock(), asyncio.Event(), asyncio.Semaphore(0)
    condition, barrier = asyncio.Condition(), asyncio.Barrier(2)

    async def hold() -> None:
        async with lock:
            await answered()

    async def notified() -> None:
        async with condition:
            await condition.wait()

    async def locked() -> None:
        async with lock:
            pass

    await asyncio.gather(hold(), event.wait(), semaphore.acquire(), notified(), barrier.wait(), locked())


async def in_an_async_generator() -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 1
        await answered()
        yield 2

    async for _ in numbers():
        pass


async def in_an_async_context() -> None:
    @contextlib.asynccontextmanager
    async def entered() -> AsyncIterator[None]:
        await answered()
        yield

    async with entered():
        pass


class ByHand:
    def __init__(self, awaited: Awaitable[Any]) -> None:
        self.awaited = awaited

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield from self.awaited.__await__())


async def in_an_awaitable_by_hand() -> None:
    await ByHand(answered())


async def with_a_timer_nobody_sleeps_on() -> None:
    asyncio.get_running_loop().call_later(1000, print)
    await answered()


async def in_an_anyio_group() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(answered)


async def behind_anyio_things() -> None:
    event, lock = anyio.Event(), anyio.Lock()
    send, receive = anyio.create_memory_object_stream[int](0)

    async def hold() -> None:
        async with lock:
            await answered()
            event.set()
            await send.send(1)

    async def acquire() -> None:
        async with lock:
            pass

    with anyio.move_on_after(1000):
        async with anyio.create_task_group() as group:
            for what in (hold, event.wait, receive.receive, acquire):
                group.start_soon(what)


IDLE = [
    answered,
    in_gather,
    in_nested_gather,
    in_a_task_group,
    behind_asyncio_wait,
    behind_asyncio_wait_with_a_timeout,
    behind_wait_for,
    behind_a_shield,
    behind_a_shielded_gather,
    under_a_timeout,
    behind_as_completed,
    behind_a_queue,
    behind_locks,
    in_an_async_generator,
    in_an_async_context,
    in_an_awaitable_by_hand,
    with_a_timer_nobody_sleeps_on,
    in_an_anyio_group,
    behind_anyio_things,
]


@pytest.mark.parametrize("program", IDLE, ids=lambda program: program.__name__)
def test_what_only_an_answer_can_wake_is_idle(program: Program) -> None:
    assert look(program, is_idle) == Verdict(True, [])


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
def test_eager_tasks_are_seen() -> None:
    async def eager() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # pyright: ignore
        await asyncio.gather(answered(), asyncio.sleep(1000))

    (blocker,) = look(eager, lambda verdict: bool(verdict.blockers)).blockers
    assert "asyncio.sleep" in blocker


# -- awake ------------------------------------------------------------------------------------------------------------


async def sleeps() -> None:
    await asyncio.gather(answered(), asyncio.sleep(1000))


async def sleeps_below() -> None:
    async def backoff() -> None:
        await asyncio.sleep(1000)

    async with asyncio.TaskGroup() as group:
        group.create_task(answered())
        group.create_task(backoff(), name="backing off")


def crunch() -> None:
    while not over.is_set():
        time.sleep(0.01)


async def in_a_thread() -> None:
    await asyncio.gather(answered(), asyncio.to_thread(crunch))


async def in_an_executor() -> None:
    with ThreadPoolExecutor() as executor:
        await asyncio.get_running_loop().run_in_executor(executor, crunch)


async def in_a_shielded_thread() -> None:
    await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, crunch))


async def in_a_gathered_thread() -> None:
    await asyncio.gather(asyncio.get_running_loop().run_in_executor(None, crunch), answered())


async def in_an_anyio_thread() -> None:
    await anyio.to_thread.run_sync(crunch)  # pyright: ignore[reportAttributeAccessIssue]


async def a_bare_future() -> None:
    await asyncio.get_running_loop().create_future()


async def waits_for_a_bare_future() -> None:
    await asyncio.wait([asyncio.get_running_loop().create_future()])


async def times_out_a_bare_future() -> None:
    await asyncio.wait_for(asyncio.get_running_loop().create_future(), 1000)


async def completes_a_bare_future() -> None:
    for each in asyncio.as_completed([asyncio.get_running_loop().create_future(), answered()]):
        await each


async def a_stream() -> None:
    left, right = socket.socketpair()
    with left:
        reader, writer = await asyncio.open_connection(sock=right)
        try:
            await reader.readline()
        finally:
            writer.close()


async def a_socket() -> None:
    left, right = socket.socketpair()
    left.setblocking(False)
    with left, right:
        await asyncio.get_running_loop().sock_recv(left, 1)


async def a_subprocess() -> None:
    process = await asyncio.create_subprocess_exec("sleep", "60")
    try:
        await process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()


async def spins() -> None:
    asyncio.get_running_loop().create_task(answered())
    while True:
        await asyncio.sleep(0)


AWAKE: dict[Program, str] = {
    sleeps: " awaits asyncio.sleep",
    sleeps_below: "task 'backing off' awaits asyncio.sleep at test_idle.py:",
    in_a_thread: "awaits a thread of asyncio.to_thread that runs crunch",
    in_an_executor: "task 'main' awaits a thread or process of an executor at test_idle.py:",
    in_a_shielded_thread: "task 'main' awaits a thread or process of an executor at test_idle.py:",
    in_a_gathered_thread: "task 'main' awaits a thread or process of an executor at test_idle.py:",
    in_an_anyio_thread: "task 'main' awaits anyio.run_sync at test_idle.py:",
    a_bare_future: "task 'main' awaits a future that only code outside of tasks can complete at test_idle.py:",
    waits_for_a_bare_future: "task 'main' awaits a future that only code outside of tasks can complete at test_idle.py:",
    times_out_a_bare_future: "task 'main' awaits a future that only code outside of tasks can complete",
    a_stream: "task 'main' awaits asyncio.StreamReader.readline at test_idle.py:",
    a_socket: "task 'main' awaits asyncio.",
    a_subprocess: "task 'main' awaits asyncio.Process.wait at test_idle.py:",
}


if sys.version_info >= (3, 13):
    AWAKE[completes_a_bare_future] = "awaits a future that only code outside of tasks can complete"


@pytest.mark.parametrize("program", AWAKE, ids=lambda program: program.__name__)
def test_what_something_else_can_wake_is_told(program: Program) -> None:
    verdict = look(program, lambda verdict: any(AWAKE[program] in blocker for blocker in verdict.blockers))
    assert not verdict.is_idle
    (blocker,) = verdict.blockers
    assert AWAKE[program] in blocker


def test_a_task_that_is_about_to_run_is_not_idle_but_nothing_to_tell() -> None:
    assert look(spins, lambda verdict: verdict == Verdict(False, [])) == Verdict(False, [])


@contextlib.contextmanager
def another_thread(target: Callable[..., Any], *args: Any, daemon: bool = False) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=target, args=args, daemon=daemon, name="the other")
    thread.start()
    yield thread
    thread.join()


def asleep_in(what: str, stop: threading.Event) -> None:
    """Until `stop` is set by another thread, in one of Python's ways to wait for one."""
    lock, simple, queued = threading.Lock(), queue.SimpleQueue[int](), queue.Queue[int]()
    lock.acquire()
    condition, future = threading.Condition(), Future[int]()

    def wake() -> None:
        stop.wait()
        lock.release()
        simple.put(1)
        queued.put(1)
        future.set_result(1)
        with condition:
            condition.notify_all()

    waker = threading.Thread(target=wake, daemon=True)
    waker.start()
    match what:
        case "a lock":
            lock.acquire()
        case "a with":
            with lock:
                pass
        case "a simple queue":
            simple.get()
        case "a queue":
            queued.get()
        case "a condition":
            with condition:
                condition.wait()
        case "a future":
            future.result()
        case _:
            waker.join()


@pytest.mark.parametrize(
    "what", ["a lock", "a with", "a simple queue", "a queue", "a condition", "a future", "another thread"]
)
def test_a_thread_that_only_another_can_wake_is_asleep(what: str) -> None:
    stop = threading.Event()
    with another_thread(asleep_in, what, stop):
        assert look(answered, is_idle) == Verdict(True, [])
        stop.set()


def spin(stop: threading.Event) -> None:
    while not stop.is_set():
        pass


def nap(stop: threading.Event) -> None:
    while not stop.is_set():
        time.sleep(0.2)


def wait_with_a_timeout(stop: threading.Event) -> None:
    stop.wait(20)


@pytest.mark.parametrize("work", [spin, nap, wait_with_a_timeout])
def test_a_thread_at_work_keeps_a_run_awake_and_is_named(work: Callable[..., Any]) -> None:
    stop = threading.Event()
    with another_thread(work, stop):
        verdict = look(answered, lambda verdict: any("test_idle.py:" in blocker for blocker in verdict.blockers))
        stop.set()
    assert not verdict.is_idle
    assert verdict.is_up_to_threads
    (blocker,) = verdict.blockers
    assert blocker.startswith("thread 'the other' is at work at test_idle.py:")


def test_a_daemon_thread_does_not_keep_a_run_awake() -> None:
    stop = threading.Event()
    with another_thread(nap, stop, daemon=True):
        assert look(answered, is_idle).is_idle
        stop.set()


def test_threads_of_an_executor_that_are_idle_or_asleep_do_not_keep_a_run_awake() -> None:
    stop = threading.Event()

    async def in_threads() -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(2) as executor:
            await asyncio.gather(*[loop.run_in_executor(executor, stop.wait) for _ in range(4)])

    loop = asyncio.new_event_loop()
    with ThreadPoolExecutor(1) as idling:
        idling.submit(int).result()
        task = loop.create_task(in_threads())
        while not (verdict := idle.look(loop)).is_idle:
            loop.run_until_complete(asyncio.sleep(0.02))
        assert verdict == Verdict(True, []), "two run and sleep, two are in line for them"
        stop.set()
        loop.run_until_complete(task)
    loop.close()
