"""What hangs on an event loop: tasks and what they await, generators half way, context variables, readers, uvloop."""

import asyncio
import contextvars
import os
import threading
from collections.abc import AsyncIterator, Iterator

from freezing import freeze, freeze_blocking, program


@program
async def asyncio_loop() -> None:
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


@program
async def callbacks_of_a_loop() -> None:
    """A reader, a callback from another thread, and a future that a callback completes."""
    loop = asyncio.get_running_loop()
    reading, writing = os.pipe()
    read: asyncio.Queue[bytes] = asyncio.Queue()
    loop.add_reader(reading, lambda: read.put_nowait(os.read(reading, 100)))
    future: asyncio.Future[int] = loop.create_future()
    for n in range(2):
        await freeze()
        os.write(writing, b"%d" % n)
        assert await read.get() == b"%d" % n
    threading.Thread(target=loop.call_soon_threadsafe, args=(future.set_result, 7)).start()
    assert await future == 7
    assert await asyncio.to_thread(lambda: 8) == 8


@program
async def task_group() -> None:
    """Members wait in the group while it is frozen; one that fails then cancels the others."""
    ended: list[str] = []
    go = asyncio.Event()

    async def member(name: str) -> None:
        try:
            await go.wait()
            if name == "bad":
                raise LookupError(name)
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append(name)
            raise

    async def frozen() -> None:
        for _ in range(2):
            await freeze()
        go.set()

    try:
        async with asyncio.TaskGroup() as group:
            for name in ("one", "bad", "two"):
                group.create_task(member(name))
            group.create_task(frozen())
    except* LookupError as failed:
        assert [str(error) for error in failed.exceptions] == ["bad"]  # noqa: PT017 - except* is what is tested
    assert sorted(ended) == ["one", "two"]


@program
async def gathered_waits() -> None:
    """Two tasks are frozen together and come back one after the other."""
    done: list[str] = []

    async def half(name: str) -> str:
        await freeze()
        done.append(name)
        return name

    assert await asyncio.gather(half("left"), half("right")) == ["left", "right"]
    assert sorted(done) == ["left", "right"]


@program
async def context_variables() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

    async def of_its_own() -> str:
        variable.set("inner")
        await going.wait()
        return variable.get()

    going = asyncio.Event()
    variable.set("outer")
    inner = asyncio.create_task(of_its_own())
    copied = contextvars.copy_context()
    token = variable.set("changed")
    for _ in range(2):
        await freeze()
        assert variable.get() == "changed"
        assert copied.run(variable.get) == "outer"
    variable.reset(token)
    assert variable.get() == "outer"
    going.set()
    assert await inner == "inner"


@program
async def async_generator_half_way() -> None:
    """One stands between two values, another is frozen inside of its own wait; both clean up in the end."""
    ended: list[str] = []

    async def counting() -> AsyncIterator[int]:
        try:
            for n in range(10):
                await asyncio.sleep(0)
                yield n
        finally:
            ended.append("counting")

    async def freezing() -> AsyncIterator[int]:
        try:
            for n in range(2):
                await freeze()
                yield n
        finally:
            ended.append("freezing")

    numbers = counting()
    async for n in freezing():
        assert await anext(numbers) == n
    assert await anext(numbers) == 2
    await numbers.aclose()  # pyright: ignore[reportAttributeAccessIssue]
    assert ended == ["freezing", "counting"]


@program
async def sync_generator() -> None:
    def adding() -> Iterator[int]:
        total = 0
        while True:
            total += yield total  # pyright: ignore[reportReturnType]

    def nested() -> Iterator[str]:
        yield from (f"{letter}{digit}" for letter in "ab" for digit in range(2))

    sums, names = adding(), nested()
    next(sums)
    for n in range(2):
        assert sums.send(10) == 10 * (n + 1)  # pyright: ignore[reportAttributeAccessIssue]
        assert next(names) == f"a{n}"
        await freeze()
    assert sums.send(1) == 21  # pyright: ignore[reportAttributeAccessIssue]
    assert list(names) == ["b0", "b1"]


@program
def uvloop_between_freezes() -> None:
    """A loop of uvloop with a task half way and a server that listens; it stands still while the run is frozen."""
    import uvloop

    loop = uvloop.new_event_loop()
    queue: asyncio.Queue[int] = asyncio.Queue()

    async def consumer() -> list[int]:
        return [await queue.get() for _ in range(3)]

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()

    async def call(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"hello\n")
        heard = await reader.readline()
        writer.close()
        await writer.wait_closed()
        return heard

    eating = loop.create_task(consumer())
    server = loop.run_until_complete(asyncio.start_server(echo, "127.0.0.1", 0))
    later: asyncio.Future[str] = loop.create_future()
    loop.call_later(0.05, later.set_result, "on time")
    for n in range(3):
        loop.run_until_complete(queue.put(n))
        assert loop.run_until_complete(call(server.sockets[0].getsockname()[1])) == b"hello\n"
        if n < 2:
            freeze_blocking()
    assert loop.run_until_complete(eating) == [0, 1, 2]
    assert loop.run_until_complete(later) == "on time"
    server.close()
    loop.close()


@program
async def uvloop_in_a_thread() -> None:
    """A loop of uvloop that runs all the time, in a daemon thread beside the run's own loop."""
    import uvloop

    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def nap() -> str:
        await asyncio.sleep(0.01)
        return threading.current_thread().name

    async def stand() -> str:
        await gate.wait()
        return "passed"

    async def make() -> asyncio.Event:
        return asyncio.Event()

    gate = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(make(), loop))
    standing = asyncio.run_coroutine_threadsafe(stand(), loop)
    for n in range(3):
        assert await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(nap(), loop)) == thread.name
        if n < 2:
            await freeze()
    loop.call_soon_threadsafe(gate.set)
    assert await asyncio.wrap_future(standing) == "passed"
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
