"""What attacks are made of: a name, a function that tries something, and what came of it.

A quiet attack disturbs nobody, whatever comes of it: many of them are made in one run. What it returns is what it has got; an
error of the kernel's is told by its name (`EPERM`). Should it succeed, it undoes what it did, or does nothing but look.
"""

import ctypes
import errno
import os
import platform
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from torpor import create_token, wait


class World(BaseModel):
    """What an attacker may know: names that are no secrets. The secrets themselves are not among them.

    Attributes:
        pids: of the supervisor, of its zygote and of another run, as anybody may see them from somewhere.
        others: paths of another run: its directory, as the supervisor sees it and as it sees itself.
        data: the worker's data directory.
        secret: a file outside of everything, which everybody may read who sees it.
        socket: a unix socket of somebody else, and `abstract`, one without a file.
        port: where somebody listens on 127.0.0.1.
        memory_key: of a segment of System V shared memory that is somebody else's.
        shared: a file of somebody else's in /dev/shm.
        project, packages: directories that the run's code is from.
        api_port: where the server listens on 127.0.0.1.
        token_pattern: a regular expression for the worker's token.
        sleep: for how many seconds the processes sleep that are to outlive their run: by that they are known.
    """

    pids: list[int]
    others: list[str]
    data: str
    secret: str
    socket: str
    abstract: str
    port: int
    memory_key: int
    shared: str
    project: str
    packages: str
    api_port: int
    token_pattern: str
    sleep: int


Attack = Callable[[World], object]
quiet: dict[str, Attack] = {}
ALLOWED = "allowed"


def attack(function: Attack) -> Attack:
    """Register it under its name. What it returns is told as it is; None is told as `allowed`."""
    assert function.__name__ not in quiet
    quiet[function.__name__] = function
    return function


def made(act: Callable[[], object]) -> str:
    """What comes of it."""
    try:
        found = act()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__}: {error}"
    return ALLOWED if found is None else str(found)


def each(acts: dict[str, Callable[[], object]]) -> str:
    """What comes of several ways to the same end, none of which may lead there: the ways out of what was expected are told."""
    answers = {way: made(act) for way, act in acts.items()}
    through = {way: answer for way, answer in answers.items() if answer not in errno.errorcode.values()}
    return str(through) if through else " ".join(sorted(set(answers.values())))


async def frozen() -> None:
    """Be frozen and thawed."""
    await wait.for_token(await create_token())


# -- the kernel, by number --------------------------------------------------------------------------------------------

_libc = ctypes.CDLL(None, use_errno=True)
_IS_ARM = platform.machine() == "aarch64"


def call(of_x86_64: int, of_arm64: int, *arguments: Any) -> int:
    """A system call. The numbers are written down here once more, and not those of the filter that is attacked."""
    number = of_arm64 if _IS_ARM else of_x86_64
    converted = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    answer = _libc.syscall(ctypes.c_long(number), *converted)
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return answer


def in_child(act: Callable[[], object]) -> str:
    """What comes of it in a process that may be ruined by it."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(theirs, made(act).encode()[:4000])
        finally:
            os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as told:
        answer = told.read()
    _, status = os.waitpid(child, 0)
    return answer or f"ended with {os.waitstatus_to_exitcode(status)}"
