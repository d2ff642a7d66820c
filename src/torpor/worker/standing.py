"""How a process stands, as the kernel tells it: whether it is stopped or dying; and for the log, where each thread is."""

import os
import signal
from pathlib import Path

_STILL = {"T", "t", "X", "Z"}
_PF_EXITING = 0x4
_SIGNALS = ("SigPnd", "ShdPnd", "SigBlk")


def is_still(pid: int) -> bool:
    """Whether all of its threads are stopped."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
        states = [Path(f"/proc/{pid}/task/{each}/stat").read_text().rpartition(")")[2] for each in threads]
    except OSError:
        return False
    return all(state.split()[0] in _STILL for state in states)


def is_dying(pid: int) -> bool:
    """Whether it was killed, or is gone."""
    try:
        flags = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[6])
        status = Path(f"/proc/{pid}/status").read_text()
    except (OSError, IndexError):
        return True
    pending = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd:", "ShdPnd:"))]
    return bool(flags & _PF_EXITING) or any(each & 1 << (signal.SIGKILL - 1) for each in pending)


def told(pid: int) -> str:
    """Each thread of a process: its state, the call that it is in with its arguments, where in the kernel it waits, and the masks
    of its pending and blocked signals.

    Example:
        >>> told(os.getpid()).startswith(f"thread {os.getpid()}: ")
        True
    """
    try:
        threads = sorted(map(int, os.listdir(f"/proc/{pid}/task")))
    except OSError as error:
        return f"nothing can be told of process {pid}: {error.strerror}"
    return "; ".join(_thread(Path(f"/proc/{pid}/task/{thread}")) for thread in threads)


def _thread(place: Path) -> str:
    status = dict(line.split(":", 1) for line in _read(place / "status").splitlines() if ":" in line)
    signals = ", ".join(f"{name} {status.get(name, '?').strip().lstrip('0') or '0'}" for name in _SIGNALS)
    state = status.get("State", "?").strip()
    return (
        f"thread {place.name}: {state}, call {_read(place / 'syscall')}, waits in {_read(place / 'wchan')}, {signals}"
    )


def _read(file: Path) -> str:
    try:
        return file.read_text().strip() or "?"
    except OSError as error:
        return f"? ({error.strerror})"
