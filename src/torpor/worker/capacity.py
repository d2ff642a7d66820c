"""What this worker has to give to runs: CPUs, memory and labels. The engine hands out what fits (its placement.py)."""

import contextlib
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from torpor.config import Settings
from torpor.errors import ConfigError
from torpor.images.workspace import memory_limit

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")


@dataclass(frozen=True)
class Offer:
    """As it is told at hello: oversubscription included."""

    cpu: float
    memory_bytes: int
    labels: dict[str, str]


def offer(settings: Settings) -> Offer:
    """What the settings say, else what the machine has, or the control group that we are in.

    Raises:
        ConfigError: a setting can't be used.
    """
    cpu = _positive("worker_cpu", settings.worker_cpu) or cpus()
    memory_mb = _positive("worker_memory_mb", settings.worker_memory_mb)
    memory_bytes = int(memory_mb * (1 << 20)) if memory_mb else _memory_bytes()
    return Offer(
        cpu * _at_least_one("cpu_oversubscription", settings.cpu_oversubscription),
        int(memory_bytes * _at_least_one("memory_oversubscription", settings.memory_oversubscription)),
        read_labels(settings.worker_labels or ""),
    )


def read_labels(text: str) -> dict[str, str]:
    """`gpu,zone=eu`: names, with a value or without.

    Raises:
        ConfigError: it isn't that.
    """
    labels: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = part.partition("=")
        if not _LABEL.fullmatch(name):
            raise ConfigError(f"TORPOR_WORKER_LABELS={text!r} can't be used: {part!r} should be a name or name=value")
        labels[name] = value
    return labels


def cpus() -> float:
    """How many CPUs this process may use: those it may run on, or the time that its control group has, if that is less."""
    count = float(len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1)
    for quota, period in _quotas():
        if quota > 0 and period > 0:
            count = min(count, quota / period)
    return count


def _quotas() -> list[tuple[int, int]]:
    """(quota, period) of control groups that limit us, in microseconds: those that are mounted where they always are."""
    found: list[tuple[int, int]] = []
    root = Path("/sys/fs/cgroup")
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        _, controllers, path = line.split(":", 2)
        below = Path(path.lstrip("/"))
        for group in (below, *below.parents):
            with contextlib.suppress(OSError, ValueError):
                if controllers == "":
                    quota, period = (root / group / "cpu.max").read_text().split()
                    found.append((int(quota), int(period)))  # "max" is no number: no limit
                elif "cpu" in controllers.split(","):
                    directory = root / "cpu" / group
                    quota = (directory / "cpu.cfs_quota_us").read_text()
                    found.append((int(quota), int((directory / "cpu.cfs_period_us").read_text())))
    return found


def _memory_bytes() -> int:
    if sys.platform == "linux":
        return memory_limit()
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _positive(name: str, value: float) -> float:
    if value < 0:
        raise ConfigError(
            f"TORPOR_{name.upper()}={value:g} can't be used: it should be more than 0, or 0 for all there is"
        )
    return value


def _at_least_one(name: str, value: float) -> float:
    if not 1 <= value <= 1000:
        raise ConfigError(f"TORPOR_{name.upper()}={value:g} can't be used: it should be from 1 to 1000")
    return value
