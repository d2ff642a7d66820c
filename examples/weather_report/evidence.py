"""What the system itself says about a run's processes: read from /proc, and from nowhere else."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """One process as /proc shows it."""

    pid: int
    title: str
    rss: int  # bytes in memory, shared pages included
    pss: int  # its fair share: pages shared with others (the zygote's, libraries) count by their part
    threads: int
    pid_namespace: int  # inode number
    is_stopped: bool  # held still, as while it is dumped


def find_processes(text: str) -> list[Process]:
    """Every process on this machine whose title holds this text, except the one that asks."""
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid())
    found = (_look_at(pid) for pid in pids if text in title_of(pid))
    return [process for process in found if process]


def in_namespace(inode: int) -> list[Process]:
    """Every process in this pid namespace: a run's children are in it too, whatever they are called."""
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
    found = (_look_at(pid) for pid in pids if _namespace_of(pid) == inode)
    return [process for process in found if process]


def is_alive(pid: int) -> bool:
    """Whether there is such a process, and not only its remains."""
    try:
        return _state(pid) not in "ZX"
    except OSError:
        return False


def _state(pid: int) -> str:
    """The one letter that /proc has for it: R runs, S sleeps, T is stopped, Z is a dead one's remains."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def title_of(pid: int) -> str:
    """Its command line, as `ps` shows it; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _namespace_of(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except OSError:
        return None


def _look_at(pid: int) -> Process | None:
    """None when it has ended meanwhile, or isn't ours to look at."""
    title, namespace = title_of(pid), _namespace_of(pid)
    try:
        sizes = _numbers(Path(f"/proc/{pid}/smaps_rollup"))
        threads = _numbers(Path(f"/proc/{pid}/status")).get("Threads", 1)
        state = _state(pid)
    except OSError:
        return None
    if not title or namespace is None or "Rss" not in sizes:
        return None
    return Process(pid, title, sizes["Rss"] * 1024, sizes.get("Pss", 0) * 1024, threads, namespace, state in "Tt")


def _numbers(file: Path) -> dict[str, int]:
    """The `Name:  123 kB` lines of a /proc file."""
    numbers: dict[str, int] = {}
    for line in file.read_text().splitlines():
        name, colon, rest = line.partition(":")
        first = rest.split()[:1]
        if colon and first and first[0].isdigit():
            numbers[name] = int(first[0])
    return numbers
