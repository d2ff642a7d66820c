"""Threads that wait for each other, for work, or for a time to pass."""

import asyncio
import collections
import concurrent.futures
import queue
import threading
import time

from freezing import freeze, freeze_blocking, program


@program
async def threads_on_event_lock_queue_and_condition() -> None:
    event, lock, letters, condition = threading.Event(), threading.Lock(), queue.Queue[str](), threading.Condition()
    passed: list[str] = []

    def on_event() -> None:
        event.wait()
        passed.append("event")

    def on_lock() -> None:
        with lock:
            passed.append("lock")

    def on_queue() -> None:
        passed.append(letters.get() + letters.get())

    def on_condition() -> None:
        with condition:
            condition.wait()
        passed.append("condition")

    lock.acquire()
    threads = [threading.Thread(target=target) for target in (on_event, on_lock, on_queue, on_condition)]
    for thread in threads:
        thread.start()
    letters.put("que")
    for _ in range(2):
        await freeze()
        assert passed == []
        assert all(thread.is_alive() for thread in threads)
    event.set()
    lock.release()
    letters.put("ue")
    with condition:
        condition.notify_all()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert sorted(passed) == ["condition", "event", "lock", "queue"]


@program
async def condition_with_a_timeout() -> None:
    """In daemon threads, which are frozen wherever they are: one is notified after it, the time of the other runs out.

    Their time stands still meanwhile, so a wait doesn't end early.
    """
    condition = threading.Condition()
    told: dict[str, bool] = {}
    took: dict[str, float] = {}

    def wait(name: str, timeout_s: float) -> None:
        began = time.monotonic()
        with condition:
            told[name] = condition.wait(timeout_s)
        took[name] = time.monotonic() - began

    threads = [
        threading.Thread(target=wait, args=arguments, daemon=True)
        for arguments in (("notified", 3600.0), ("timed out", 0.7))
    ]
    for thread in threads:
        thread.start()
    for _ in range(2):
        await freeze()
    await asyncio.to_thread(threads[1].join)
    with condition:
        condition.notify_all()
    await asyncio.to_thread(threads[0].join)
    assert told == {"notified": True, "timed out": False}
    assert took["timed out"] >= 0.7


@program
async def a_thread_that_goes_on() -> None:
    """A daemon thread that works all the time is frozen in the middle of it and misses nothing."""
    counted = [0]
    stop = threading.Event()

    def count() -> None:
        while not stop.is_set():
            before = counted[0]
            counted[0] += 1
            assert counted[0] == before + 1
            if counted[0] % 1000 == 0:
                time.sleep(0.001)

    thread = threading.Thread(target=count, daemon=True)
    thread.start()
    for _ in range(2):
        before = counted[0]
        await freeze()
        while counted[0] <= before + 1000:
            await asyncio.sleep(0.01)
    stop.set()
    thread.join()


@program
async def thread_pool_executor() -> None:
    """Idle workers, one that is stuck in a call, calls in line, and a callback."""
    gate = threading.Event()
    called: list[int] = []

    def call(n: int) -> int:
        gate.wait()
        return n * n

    with concurrent.futures.ThreadPoolExecutor(2, thread_name_prefix="pool") as pool:
        futures = [pool.submit(call, n) for n in range(5)]
        futures[4].add_done_callback(lambda done: called.append(done.result()))
        for _ in range(2):
            await freeze()
            assert not any(future.done() for future in futures)
        gate.set()
        assert [future.result(60) for future in futures] == [0, 1, 4, 9, 16]
        assert list(pool.map(str, range(3))) == ["0", "1", "2"]
    assert called == [16]


@program
def a_blocking_task_with_threads() -> None:
    results: collections.deque[int] = collections.deque()
    gate = threading.Barrier(3)
    local = threading.local()

    def work(n: int) -> None:
        local.mine = n
        gate.wait()
        results.append(local.mine)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(2):
        freeze_blocking()
    gate.wait()
    for thread in threads:
        thread.join()
    assert sorted(results) == [0, 1]


@program
def threads_that_wait_for_torpor() -> None:
    """Each thread of a pool has a wait of its own; the run is frozen in all of them at once."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: freeze_blocking(), range(2)))
        freeze_blocking()
