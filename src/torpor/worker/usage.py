"""What a run has used: as its control group counts it, else as /proc and the kernel's accounts of an ended process tell.

Both count from the birth of this process. What is told of a run under a lease is all that it has used under it, so a report that
comes twice, or late, changes nothing.
"""

import os
from pathlib import Path
from resource import struct_rusage

from torpor.wire.http import Usage

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def anonymous_bytes(pid: int) -> int:
    """How much memory a process has that is in no file; what it shares with its forks included."""
    return _sizes(pid).get("RssAnon", 0)


def most(*usages: Usage) -> Usage:
    """What was measured at different times, or in different ways, of one process and its children."""
    return Usage(max(each.cpu_ms for each in usages), max(each.peak_memory_bytes for each in usages))


def of_process(pid: int) -> Usage:
    """Where there are no groups: its own, and the time of the children that it has waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return Usage()
    ticks = sum(int(field) for field in fields[11:15])
    return Usage(ticks * 1000 / _TICKS_PER_S, _sizes(pid).get("VmHWM", 0))


def of_ended(accounts: struct_rusage) -> Usage:
    """The same of a process that was collected."""
    return Usage((accounts.ru_utime + accounts.ru_stime) * 1000, accounts.ru_maxrss * 1024)


def _sizes(pid: int) -> dict[str, int]:
    """Those in `/proc/<pid>/status`, in bytes."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    pairs = [line.split() for line in lines if line.endswith(" kB")]
    return {name.rstrip(":"): int(value) * 1024 for name, value, _ in pairs}
