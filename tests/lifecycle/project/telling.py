"""Tasks that say how far they are, and give out what they make, while they are frozen, moved and killed."""

import os
import threading
from pathlib import Path
from typing import Any

from torpor import Retry, checkpoint, inputs, metadata, stream, tags, task, wait

AGAIN = Retry(max_attempts=3, min_delay=0, max_delay=0, jitter=False)


@task
async def tells(token_id: str) -> dict[str, Any]:
    """Before a wait, in a wait's other threads, and behind it."""
    metadata.set("step", "before")
    metadata.increment("n")
    stream("words").append("before")
    tags.add("told")
    await wait.for_token(token_id)
    metadata.set("step", "after")
    metadata.increment("n", 10)

    def count(name: str) -> None:
        for number in range(50):
            metadata.increment("n", 100)
            stream(name).append(number)

    threads = [threading.Thread(target=count, args=(name,)) for name in ("one", "other")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stream("words").append("after")
    metadata.parent.increment("children")
    return metadata.current()


@task
async def parent_of(token_ids: list[str]) -> dict[str, Any]:
    metadata.set("children", 0)
    runs = [await tells.trigger(token_id) for token_id in token_ids]
    for run in runs:
        await wait.for_run(run)
    return await metadata.flush()


@task(retry=AGAIN)
async def dies_telling(journal: str) -> list[Any]:
    """What was said before a save point is not said again by who comes back from it; what came after it is."""
    for number in range(200):
        stream("words").append(number)
        metadata.increment("n")
    saved = await checkpoint("told")
    stream("words").append("restored" if saved.restored else "saved")
    metadata.append("lives", saved.restored)
    while not Path(journal + ".go").exists():
        metadata.increment("works")
        await wait.for_(seconds=0.05)
    return metadata.get("lives")


@task(retry=Retry(max_attempts=1))
def streams_on(journal: str) -> int:
    """Gives out numbers, one by one and without a wait, until the journal's `.go` file appears."""
    number = 0
    while not Path(journal + ".go").exists():
        stream("numbers").append(number)
        metadata.increment("n")
        number += 1
        if number % 50 == 0:
            with open(journal, "a") as file:
                file.write(f"{number}\n")
    return number


@task
async def chats() -> list[Any]:
    heard: list[Any] = []
    async for part in inputs("chat"):
        if part == "bye":
            return heard
        heard.append(part)
        stream("answers").append(f"you said {part}")
    return heard


@task
async def tells_too_much() -> dict[str, Any]:
    metadata.set("small", 1)
    metadata.set("first", "x" * 200_000)
    metadata.set("second", "x" * 200_000)
    metadata.increment("n")
    await wait.for_(seconds=0.05)
    return {key: value if isinstance(value, int) else len(value) for key, value in metadata.current().items()}


@task(retry=Retry(max_attempts=1))
def dies_at_once() -> None:
    for number in range(300):
        stream("words").append(number)
        metadata.increment("n")
    os._exit(3)
