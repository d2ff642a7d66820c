"""A worker that is to stop gets rid of its runs: those that wait are frozen, the others as well, wherever they are.

What became of each is appended to a file, a JSON object per line, for whoever has asked: `torpor worker drain`.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from torpor.worker.live_run import LiveRun
from torpor.worker.saving import MoveOn

log = logging.getLogger(__name__)

LOOK_INTERVAL_S = 0.05


class Drain:
    """One drain.

    Args:
        runs: those that the worker holds, by id; they leave it as they go.
        told: the file for what became of them.
        window_s: how long it is tried; connections with others are given half of it to end.
    """

    def __init__(self, runs: Mapping[str, LiveRun], told: Path, window_s: float) -> None:
        self._runs = runs
        self._told = told
        self._window_s = window_s
        self._watched: dict[str, LiveRun] = {}

    async def perform(self, reason: str, *, is_over: Callable[[float], bool]) -> None:
        """Until all have left, or `is_over` (by the seconds since it began)."""
        self._told.unlink(missing_ok=True)
        began = time.monotonic()
        order = MoveOn(reason, began + self._window_s / 2, began + self._window_s)
        while self._look(order) and not is_over(time.monotonic() - began):
            await asyncio.sleep(LOOK_INTERVAL_S)
        for run_id, run in self._watched.items():
            log.warning("run %s stays until the worker ends: %s", run_id, run.not_moved or "it could not be frozen")
            self._tell(run_id, "left", run.not_moved)
        self._watched.clear()

    def _look(self, order: MoveOn) -> bool:
        """Whether there is anything left to wait for."""
        for run_id, run in [*self._runs.items()]:
            if self._watched.setdefault(run_id, run) is run:
                run.move_on(order)
        for run_id, run in [*self._watched.items()]:
            if run.gone.is_set():
                del self._watched[run_id]
                self._tell(run_id, run.left or "ended", None)
        return bool(self._watched)

    def _tell(self, run_id: str, what: str, reason: str | None) -> None:
        log.info("run %s: %s", run_id, what)
        with open(self._told, "a") as file:
            file.write(json.dumps({"run_id": run_id, "what": what, "reason": reason}) + "\n")
