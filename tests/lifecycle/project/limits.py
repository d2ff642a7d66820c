"""Tasks that meet their limits."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

from torpor import Retry, task, wait

MB = 1 << 20


def take(megabytes: int) -> list[bytearray]:
    """Memory that is really there: its pages are written to."""
    return [bytearray(b"x") * MB for _ in range(megabytes)]


@task(retry=Retry(max_attempts=1))
async def takes_memory(megabytes: int) -> int:
    return len(take(megabytes))


@task(retry=Retry(max_attempts=1))
async def takes_memory_after_a_wait(token: str, before: int, after: int) -> int:
    kept = take(before)
    await wait.for_token(token)
    more = take(after)
    return sum(each.count(b"x") for each in kept + more) // MB  # wants all of it, also what comes later


@task
async def has_a_child_that_takes_memory(megabytes: int, until: str) -> int:
    code = f"kept = [bytearray(b'x') * {MB} for _ in range({megabytes})]"
    status = subprocess.run([sys.executable, "-c", code], check=False).returncode
    while not Path(until).exists():  # lives on
        await asyncio.sleep(0.02)
    return status


@task
async def starts_processes_without_end() -> str:
    children: list[subprocess.Popen[bytes]] = []
    try:
        while True:
            children.append(subprocess.Popen(["sleep", "60"]))
    except BlockingIOError as error:
        return f"{error.strerror} after {len(children)}"


@task
async def fills_all_of_its_disk() -> tuple[str, int]:
    written = 0
    with open("large", "wb") as file:
        try:
            while True:
                written += file.write(bytes(MB))
                file.flush()
        except OSError as error:
            return str(error.strerror), written // MB


@task
async def opens_files_without_end() -> str:
    opened: list[int] = []
    try:
        while True:
            opened.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        return str(error.strerror)


@task
async def writes_without_end(megabytes: int) -> str:
    """To its output: without a newline, through the bare descriptor, and by all ways to make a file long."""
    for _ in range(megabytes):
        os.write(1, b"\xff" * MB)
    told = ""
    try:
        os.posix_fallocate(1, 0, 1 << 50)
    except OSError as error:
        told = str(error.strerror)
    os.ftruncate(1, 1 << 40)
    print("at the end", flush=True)
    return told


@task
async def works(seconds: float, megabytes: int, token_id: str = "") -> int:
    kept = take(megabytes)
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    await wait.for_token(token_id)
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return len(kept)
