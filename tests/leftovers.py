"""What Torpor could leave on a machine: looked at before and after, and told line by line.

    python tests/leftovers.py note > FILE        what is there now
    python tests/leftovers.py compare FILE       exits with 1, and prints what has come since and is still there

bin/test does both around the whole suite; nothing else of Torpor should run beside, for what it makes meanwhile is taken for a
left-over. Only processes are told apart, by the variable that bin/test sets for all of its own (`MARK`).

Not looked at: namespaces that only an open descriptor keeps (its process is a left-over itself), and what pytest keeps in
its own temporary directories.
"""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

MARK = "BIN_TEST"
PATIENCE_S = 20.0
"""The kernel takes namespaces and control groups down behind everybody's back."""

_OURS = ("torpor", "criu")
_MOUNT_POINTS = ("/run/torpor", "/run/torpor-images", "/run/torpor-rooms", "/run/torpor.moves")
"""A machine whose /run is in memory keeps these, empty: to remove one takes away what other workers have mounted on it."""
_STAYS = (*_MOUNT_POINTS, "/run/criu.kdat")
"""The last one is what CRIU knows of the kernel, for all that use it."""


def look(mark: str | None = None) -> set[str]:
    """One line for each thing that is there. Processes: those of this mark, or without one all of Torpor's."""
    looks = (_processes(mark), _mounts(), _control_groups(), _links(), _tables(), _files(), _shared_memory_by_key())
    return {line for each in looks for line in each}


def left_since(before: set[str], mark: str | None = None, patience_s: float = PATIENCE_S) -> list[str]:
    """What has come since then, and does not go."""
    end = time.monotonic() + patience_s
    while (left := look(mark) - before) and time.monotonic() < end:
        time.sleep(0.2)
    return sorted(left)


def _processes(mark: str | None) -> Iterator[str]:
    own = _ancestors()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in own:
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            environment = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
            state, *_, started = (entry / "stat").read_text().rpartition(")")[2].split()[:20]
        except OSError:
            continue  # it has just ended
        is_marked = f"{MARK}={mark}" in environment if mark else any(word in command for word in _OURS)
        is_titled = command.startswith("torpor ") and environment in ([], [""])
        if state != "Z" and (is_marked or is_titled):
            yield f"process {entry.name} ({command[:100]}), begun at {started}"


def _ancestors() -> set[int]:
    found: set[int] = set()
    pid = os.getpid()
    while pid:
        found.add(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return found


def _mounts() -> Iterator[str]:
    """Of our own mount namespace: what others have made is gone with them."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        head, _, tail = line.partition(" - ")
        number, *_ = fields = head.split()
        yield f"mount {number}, of {tail.split()[0]} on {fields[4]}"


def _control_groups() -> Iterator[str]:
    for place, _, _ in os.walk("/sys/fs/cgroup"):
        if "torpor" in place:
            yield f"control group {place}"


def _links() -> Iterator[str]:
    for name in _listed(Path("/sys/class/net")):
        yield f"network device {name}"


def _tables() -> Iterator[str]:
    """Of the packet filter; empty where the kernel doesn't tell without a tool."""
    for kind in ("ip_tables_names", "ip6_tables_names"):
        try:
            for name in Path("/proc/net", kind).read_text().split():
                yield f"packet filter table {kind.split('_')[0]} {name}"
        except OSError:
            continue


def _files() -> Iterator[str]:
    for place in ("/run/netns", "/var/lib/torpor", "/dev/shm", *_MOUNT_POINTS):
        for name in _listed(Path(place)):
            yield f"file {place}/{name}"
    for place in ("/run", "/tmp"):
        for name in _listed(Path(place)):
            if name.startswith(_OURS) and f"{place}/{name}" not in _STAYS:
                yield f"file {place}/{name}"


def _shared_memory_by_key() -> Iterator[str]:
    """System V's, in our own IPC namespace."""
    for kind in ("shm", "sem", "msg"):
        try:
            _, *lines = Path("/proc/sysvipc", kind).read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            key, number, *_ = line.split()
            yield f"System V {kind} {number} with key {key}"


def _listed(place: Path) -> list[str]:
    try:
        return os.listdir(place)
    except OSError:
        return []


def _main() -> int:
    match sys.argv[1:]:
        case ["note"]:
            print("\n".join(sorted(look(os.environ.get(MARK)))))
            return 0
        case ["compare", file]:
            left = left_since(set(Path(file).read_text().splitlines()), os.environ.get(MARK))
            print("".join(f"left over: {line}\n" for line in left) or "nothing is left over\n", end="")
            return 1 if left else 0
        case _:
            print(__doc__, file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(_main())
