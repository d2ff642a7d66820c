"""Which of its limits a run has met: looked at now and then while it lives, and once more when its process has ended."""

import os
import signal
from dataclasses import dataclass
from typing import Any

from torpor.wire.http import OutOfMemory
from torpor.wire.presets import BUILT_IN, Preset
from torpor.wire.runner import TaskError
from torpor.worker.cgroups import Cgroup

INTERVAL_S = 2.0


@dataclass(frozen=True)
class Met:
    """Something for the run's story."""

    kind: str
    data: dict[str, Any]


class Limits:
    """The limits of one process of a run.

    Args:
        cgroup: its group.
    """

    def __init__(self, cgroup: Cgroup) -> None:
        self._cgroup = cgroup
        self._kills_seen = 0
        self._kills_told = 0
        self._was_refused = False

    def look(self) -> list[Met]:
        """What it has met since the last time. Call it while the process lives.

        A kill is told at the second look: at the first one it may have been the run's own process, whose end we have yet to
        hear of.
        """
        self._cgroup.keep_tight()
        met: list[Met] = []
        if self._kills_seen > self._kills_told:
            met.append(self._of_kills(self._kills_seen - self._kills_told))
            self._kills_told = self._kills_seen
        return met + self._look_again()

    def _look_again(self) -> list[Met]:
        """Count, without telling of kills."""
        self._cgroup.measure()
        met: list[Met] = []
        self._kills_seen = self._cgroup.oom_kills()
        if not self._was_refused and self._cgroup.refused_pids():
            self._was_refused = True
            preset = self._cgroup.preset
            met.append(Met("run.pids_exhausted", {"pids": preset.pids, "machine": preset.name}))
        return met

    def at_the_end(self, status: int) -> tuple[list[Met], OutOfMemory | None]:
        """What was not told yet when the process has ended, with this wait status; and whether that was its end."""
        # Not `look`: the last one may have seen its own kill, a moment ago.
        met = self._look_again()
        kills = self._kills_seen - self._kills_told
        if not kills:
            return met, None
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            used_bytes = min(self._cgroup.usage().peak_memory_bytes, self._cgroup.preset.memory_bytes)
            return met, OutOfMemory(self._cgroup.preset.memory_bytes, used_bytes)
        self._kills_told = self._kills_seen
        return [*met, self._of_kills(kills)], None

    def _of_kills(self, count: int) -> Met:
        preset = self._cgroup.preset
        return Met(
            "run.child_out_of_memory",
            {"count": count, "limit_bytes": preset.memory_bytes, "machine": preset.name},
        )


def out_of_memory(met: OutOfMemory, preset: Preset) -> TaskError:
    """The failure, told with what to do about it."""
    told = f"the run used {met.used_bytes >> 20} MB of the {met.limit_bytes >> 20} MB that {preset.name} allows, and was killed."
    larger = [each for each in BUILT_IN.values() if each.memory_bytes > met.limit_bytes]
    if larger:
        name = min(larger, key=lambda each: each.memory_bytes).name
        told += (
            f' Give it more: @task(machine="{name}"), or retry=Retry(on_oom="{name}") for those runs only that need it'
        )
    return TaskError("OutOfMemory", told)
