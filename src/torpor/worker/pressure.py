"""The duty that minds the memory: when little is free, waiting runs leave it, the idlest first."""

from collections.abc import Callable, Iterable

from torpor.images.workspace import available_memory, memory_limit
from torpor.worker.checkpoint import resident_bytes
from torpor.worker.hold import Held, first_to_leave
from torpor.worker.live_run import LiveRun

INTERVAL_S = 1.0


def look() -> tuple[int, int]:
    """How many bytes of memory are free, and how many there are: of the machine, or of the control group that is tighter."""
    return available_memory(), memory_limit()


class Pressure:
    """Freezes waiting runs while less than `floor_percent` of the memory is free.

    Args:
        meter: as `look`.
    """

    def __init__(self, floor_percent: float, meter: Callable[[], tuple[int, int]] = look) -> None:
        self._floor_percent = floor_percent
        self._meter = meter

    def step(self, runs: Iterable[LiveRun]) -> list[str]:
        """Look once; returns which runs were sent away."""
        free_bytes, all_bytes = self._meter()
        floor_bytes = int(all_bytes * self._floor_percent / 100)
        if free_bytes >= floor_bytes:
            return []
        waiting = {run.lease.run_id: run for run in runs}
        held = [
            Held(run_id, since, resident_bytes(run.pid))
            for run_id, run in waiting.items()
            if (since := run.idle_since) is not None and run.pid is not None
        ]
        leaving = first_to_leave(held, free_bytes=free_bytes, floor_bytes=floor_bytes)
        for run_id in leaving:
            waiting[run_id].freeze_soon()
        return leaving
