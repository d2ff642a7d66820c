"""Prove that a CRIU works on this machine: dump, kill and restore a small process that holds an inet socket.

`criu check` says "Looks good" for versions that then fail, so nothing less than a round trip is believed. The proof
runs in namespaces of its own (pids, mounts, a tmpfs on /run where CRIU keeps its cache of the kernel's features):
whatever happens in it, no process, mount or file is left behind.

    find() -> python -m torpor.worker.criu_proof apart COMMAND…     unshares, waits
                └ … inside COMMAND…, pid 1 of the namespace            talks with CRIU, prints one line of JSON
                    └ the target, pid 1 of another one                 beats into a file, as a run would
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from torpor.errors import CriuError
from torpor.worker import criu, namespaces

_STEP_TIMEOUT_S = 20.0
_PROOF_TIMEOUT_S = 90.0

_NOBODY = 65534
_ROOM = "/run/proof/room"

# The target leaves its namespace for a new one by a child, as a runner does, and tells that child's pid. With a third argument
# it is what a run in a room is: in a root directory of its own with a /proc of its own, and another user without a capability.
_TARGET = f"""
import ctypes, os, socket, sys, time
libc = ctypes.CDLL(None)
if libc.unshare({namespaces.CLONE_NEWPID | namespaces.CLONE_NEWIPC | namespaces.CLONE_NEWUTS}) != 0:
    raise SystemExit("unshare is refused")
child = os.fork()
if child:
    print(child, flush=True)
    os._exit(0)
os.setsid()
if sys.argv[1:]:
    room, user = sys.argv[1], int(sys.argv[2])
    if libc.mount(b"proc", os.fsencode(room + "/proc"), b"proc", 0, None) != 0:
        raise SystemExit("mount is refused")
    os.chroot(room)
    os.chdir("/run/proof")
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    libc.prctl(4, 1, 0, 0, 0)  # what is about it in /proc is its own
nowhere = os.open("/dev/null", os.O_RDWR)
for number in 0, 1, 2:
    os.dup2(nowhere, number)
os.close(nowhere)
beats = os.open("beats", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
held.bind(("127.0.0.1", 0))
address = held.getsockname()
while held.getsockname() == address:
    os.write(beats, b".")
    time.sleep(0.01)
"""


@dataclass(frozen=True)
class Proof:
    """What a proof measured."""

    version: str
    dump_ms: float
    restore_ms: float


async def prove(command: tuple[str, ...], *, in_room: bool = False) -> Proof:
    """Prove the CRIU that `command` starts. Needs root.

    Args:
        in_room: with a process that is in a root directory of its own, and another user, as runs in rooms are.

    Raises:
        CriuError: it failed; the reason is in plain words.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "torpor.worker.criu_proof", "apart", "room" if in_room else "bare", *command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_PROOF_TIMEOUT_S):
            output, trouble = await process.communicate()
    except BaseException as error:
        # The namespace's pid 1 dies with its parent, and takes everything else along.
        with suppress(ProcessLookupError):
            process.kill()
        if isinstance(error, TimeoutError):
            raise CriuError(f"no answer within {_PROOF_TIMEOUT_S:g} s") from None
        raise
    try:
        told = json.loads(output)
    except ValueError:
        last = (trouble.decode(errors="replace").strip().splitlines() or ["it ended without a word"])[-1]
        raise CriuError(f"the proof itself failed: {last}") from None
    if "reason" in told:
        raise CriuError(told["reason"], told["log"])
    return Proof(**told)


def run_apart(command: list[str]) -> int:
    """Run a command as pid 1 of its own pid and mount namespaces, with its own /proc and an empty tmpfs on /run.

    When it ends, or this process dies, every process and mount made inside is gone. A command rather than a function,
    because CRIU can't dump a process whose program was mapped before the mount namespace was made.
    """
    namespaces.unshare(namespaces.CLONE_NEWNS | namespaces.CLONE_NEWPID)
    namespaces.mount(None, "/", None, namespaces.MS_REC | namespaces.MS_PRIVATE)
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        namespaces.prctl(namespaces.PR_SET_PDEATHSIG, signal.SIGKILL)
        namespaces.mount("proc", "/proc", "proc")
        namespaces.mount("tmpfs", "/run", "tmpfs", data="mode=755")
        os.execv(command[0], command)
    except OSError as error:
        print(error, file=sys.stderr, flush=True)
    finally:
        # The parent's stack must not unwind here a second time.
        os._exit(1)


def _round_trip(command: tuple[str, ...], *, in_room: bool) -> Proof:
    tool = criu.Criu(command, asyncio.run(criu.version(command)), "on trial")
    work = Path("/run/proof")
    images = work / "images"
    images.mkdir(parents=True)
    beats = work / "beats"
    arguments: tuple[str, ...] = ()
    user: tuple[int, int] | None = None
    if in_room:
        os.chown(work, _NOBODY, _NOBODY)
        Path(_ROOM).mkdir()
        namespaces.bind("/", _ROOM)
        arguments, user = (_ROOM, str(_NOBODY)), (_NOBODY, _NOBODY)
    target = _start_target(_TARGET, work, *arguments)
    _wait_for_beats(beats, 0)

    begun = time.perf_counter()
    asyncio.run(criu.dump(tool, pid=target, images=images, real_uid=user, timeout_s=_STEP_TIMEOUT_S))
    dump_ms = (time.perf_counter() - begun) * 1000
    os.kill(target, signal.SIGKILL)
    os.waitpid(target, 0)
    frozen_at = beats.stat().st_size

    begun = time.perf_counter()
    if in_room:
        namespaces.unmount(f"{_ROOM}/proc")
    asyncio.run(
        criu.restore(
            tool,
            images=images,
            real_uid=user,
            on_root=_mount_proc if in_room else None,
            timeout_s=_STEP_TIMEOUT_S,
        )
    )
    restore_ms = (time.perf_counter() - begun) * 1000
    _wait_for_beats(beats, frozen_at)
    return Proof(tool.version, round(dump_ms, 1), round(restore_ms, 1))


def _mount_proc(pid: int) -> None:
    namespaces.elsewhere(lambda: namespaces.mount_proc_of(pid, f"{_ROOM}/proc"))


def _start_target(code: str, work: Path, *arguments: str) -> int:
    """Start a bare Python on `code` in `work`, and return the pid that it prints as its first line.

    Raises:
        CriuError: it could not be started.
    """
    started = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, *arguments], cwd=work, capture_output=True, text=True, check=False
    )
    if started.returncode != 0:
        raise CriuError(f"the small process to freeze could not be started: {started.stderr.strip()}")
    return int(started.stdout)


def _wait_for_beats(beats: Path, size: int) -> None:
    deadline = time.monotonic() + _STEP_TIMEOUT_S
    while not beats.exists() or beats.stat().st_size <= size:
        if time.monotonic() > deadline:
            raise CriuError("the small process does not run")
        time.sleep(0.005)


def _main() -> int:
    where, what, *command = sys.argv[1:]
    if where == "apart":
        return run_apart([sys.executable, "-m", "torpor.worker.criu_proof", "inside", what, *command])
    try:
        told = vars(_round_trip(tuple(command), in_room=what == "room"))
    except CriuError as error:
        told = {"reason": error.reason, "log": error.log}
    print(json.dumps(told))
    return 1 if "reason" in told else 0


if __name__ == "__main__":
    raise SystemExit(_main())
