"""Tasks that say and give out things, and how long that took."""

import time

from torpor import metadata, stream, task
from torpor.sync import metadata as blocking_metadata


@task
def gives_out(count: int, size: int) -> list[float]:
    """Parts as fast as they go. Seconds until the last `append` was back, and until all were stored."""
    words = stream("words")
    text = "x" * size
    began = time.perf_counter()
    for _ in range(count):
        words.append(text)
    said = time.perf_counter() - began
    blocking_metadata.flush()
    return [said, time.perf_counter() - began]


@task
def counts(count: int) -> list[float]:
    """The same of changes of metadata, which are merged on their way."""
    began = time.perf_counter()
    for _ in range(count):
        metadata.increment("n")
    said = time.perf_counter() - began
    blocking_metadata.flush()
    return [said, time.perf_counter() - began]


@task
def gives_out_slowly(count: int, pause_s: float) -> list[float]:
    """The instant of each part, one by one. How many seconds each `append` took."""
    clock, took = stream("clock"), list[float]()
    for _ in range(count):
        began = time.perf_counter()
        clock.append(time.time())
        took.append(time.perf_counter() - began)
        time.sleep(pause_s)
    return took
