"""Processes by pidfd, groups and trees of them, as /proc tells them: to see them end, or to end them and see that they have."""

import asyncio
import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

KILL_PATIENCE_S = 10.0


class Pinned:
    """A process by pidfd, so that a number which was used again is never signaled."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            self._fd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._fd = -1

    def kill(self) -> None:
        if self._fd >= 0:
            try:
                signal.pidfd_send_signal(self._fd, signal.SIGKILL)
            except ProcessLookupError:
                pass

    async def ended(self, timeout_s: float | None) -> bool:
        """Wait until it ends, whoever reaps it; False when it still runs after `timeout_s`, if there is one."""
        if self._fd < 0:
            return True
        loop = asyncio.get_running_loop()
        over = asyncio.Event()
        loop.add_reader(self._fd, over.set)
        try:
            async with asyncio.timeout(timeout_s):
                await over.wait()
            return True
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(self._fd)

    def forget(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


async def kill_group(leader: Pinned) -> None:
    """Kill CRIU, then the helpers that it had in its group, and wait until none of them runs."""
    leader.kill()
    await leader.ended(KILL_PATIENCE_S)
    # Looked for only now, because until its end it could start another one; the group's number lives on in them.
    await _kill_all(process.pid for process in processes() if process.group == leader.pid)


async def kill_tree(root: Pinned) -> None:
    """Kill a half-restored tree, wait until it is gone, and reap its first process, which is our child."""
    members = [process.pid for process in tree_of(root.pid, list(processes())) if process.pid != root.pid]
    root.kill()
    await root.ended(KILL_PATIENCE_S)
    await _kill_all(members)
    _reap(root.pid)


async def _kill_all(pids: Iterable[int]) -> None:
    pinned = [Pinned(pid) for pid in pids]
    for process in pinned:
        process.kill()
    for process in pinned:
        await process.ended(KILL_PATIENCE_S)
        process.forget()


def _reap(pid: int) -> None:
    """Take the exit status of a child that has ended."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass  # Our caller reaps every child by itself.


@dataclass(frozen=True)
class Stat:
    pid: int
    parent: int
    group: int


def processes() -> Iterator[Stat]:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                text = Path("/proc", entry, "stat").read_text(errors="replace")
            except OSError:
                continue  # It has just ended.
            # The name, in parentheses, may hold anything; the fields begin behind the last one.
            _state, parent, group = text.rpartition(")")[2].split()[:3]
            yield Stat(int(entry), int(parent), int(group))


def tree_of(root: int, table: list[Stat]) -> list[Stat]:
    found = [process for process in table if process.pid == root]
    for process in found:  # The list grows while we walk it: breadth first.
        found += [child for child in table if child.parent == process.pid]
    return found
