"""Tasks that work while their process is moved, saved and killed."""

import asyncio
import hashlib
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torpor import Checkpoints, Retry, checkpoint, current, task, wait
from torpor import sync as blocking
from torpor.sdk import checkpoints as saved

saved.SHORTEST_S = 0.1  # a test has no ten seconds to wait for each of its save points
ONCE = Retry(max_attempts=1)
AGAIN = Retry(max_attempts=5, min_delay=0, max_delay=0, jitter=False)


def note(journal: str, line: str) -> None:
    with open(journal, "a") as file:
        file.write(line + "\n")


def matrices(seed: int, until: Callable[[int], bool], size: int = 400) -> list[Any]:
    """A long computation in C whose every bit counts: how many rounds it went, until it was to end, and what came out."""
    import numpy as np

    generator = np.random.default_rng(seed)
    values = generator.standard_normal((size, size))
    factor = generator.standard_normal((size, size)) / size
    rounds = 0
    while not until(rounds):
        values = np.tanh(values @ factor + values)
        rounds += 1
    return [rounds, hashlib.sha256(values.tobytes()).hexdigest()]


@task(retry=ONCE)
def computes(journal: str, rounds: int | None = None) -> list[Any]:
    """Until the journal's `.go` file appears, or so many rounds; without a look at anything of ours in between."""
    note(journal, "begins")
    Path("kept").write_text("its own file")
    answer = matrices(7, lambda done: Path(journal + ".go").exists() if rounds is None else done == rounds)
    note(journal, f"ends with {Path('kept').read_text()}")
    return answer


@task(retry=ONCE)
async def counts_on(journal: str, token_id: str | None = None) -> list[Any]:
    """Calls, waits and works in turns until the journal's `.go` file appears."""
    total = 0
    waiting = asyncio.create_task(wait.for_token(token_id)) if token_id else None
    while not Path(journal + ".go").exists():
        total += await doubled.trigger_and_wait(1)
        note(journal, str(total))
        await asyncio.sleep(0.15)
    return [total, await waiting if waiting else None]


@task
async def doubled(number: int) -> int:
    return 2 * number


@task(retry=AGAIN)
def saved_by_name(journal: str) -> list[Any]:
    """Dies once behind its save point, when the journal's `.go` file appears."""
    note(journal, "before")
    Path("file").write_text("as it was")
    made = blocking.checkpoint("half way")
    note(journal, f"after, restored={made.restored}")
    told = Path("file").read_text()
    Path("file").write_text("changed since")
    while not made.restored:
        time.sleep(0.01)
        if Path(journal + ".go").exists():
            os._exit(9)
    return [told, bool(made), made.name]


@task(retry=ONCE)
async def goes_its_way(journal: str, token_id: str) -> list[Any]:
    """Works on with its answer until the journal's `.go` file appears; looks what became of its memory and its file."""
    answers: list[Any] = []
    with open("answer", "w+") as file:
        answers.append(await wait.for_token(token_id))
        file.write(answers[0])
        file.flush()
        note(journal, answers[0])
        while not Path(journal + ".go").exists():
            await asyncio.sleep(0.01)
        file.seek(0)
        return [current.run_id, answers, file.read(), Path("answer").read_text()]


@task(retry=ONCE)
async def saved_twice(journal: str) -> list[bool]:
    first = await checkpoint("first")
    note(journal, "first")
    second = await checkpoint("second")
    note(journal, "second")
    return [bool(first), bool(second), first.restored, second.restored]


@task(retry=AGAIN, checkpoints=Checkpoints(every="0.5s"))
async def saves_itself(journal: str) -> int:
    """Counts in a file of its own until it is told to go, and beside the journal, which no save point holds."""
    number = 0
    while not Path(journal + ".go").exists():
        number += 1
        Path("number").write_text(str(number))
        note(journal + ".numbers", str(number))
        await asyncio.sleep(0.01)
        assert Path("number").read_text() == str(number)
    note(journal, f"ends at {number}")
    return number


@task(retry=ONCE)
async def talks(journal: str, port: int) -> str:
    """Holds a connection for as long as the other end does."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setblocking(False)
        note(journal, "connected")
        try:
            while await asyncio.get_running_loop().sock_recv(connection, 100):
                pass
        except OSError as error:
            return f"broken: {error.strerror}"
    return "closed"
