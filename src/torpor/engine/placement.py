"""Room: how much of a worker's machine is left, and which presets that is enough for.

A worker says at hello what it has to give: CPUs and memory (times its oversubscription, a bet that runs use less than they
may), and labels. A run takes its preset's part of it exactly while it holds a slot: `dequeued` or `executing`. As with
slots there is no counter that could disagree: what is taken is summed over the runs that the worker holds, under the lock
of the environment's turn. So neither two requests under way at once nor a reply that is lost count anything twice.

    fits    there is room now
    later   an idle worker of this size would have room: closes its line to this worker (lines.py)
    else    it can never be had here: too small, or a label is missing; passed by, as if it weren't there

**A run that waits takes no room**, though it has memory while it is held. If it did, parents that can't be frozen could
fill a worker, and the children they wait for would never come. It is held for seconds, unless it can't be frozen; no more than
`TORPOR_WORKER_HELD` are; and what they really use is watched by the worker, which freezes the idlest when memory
is short. Where it goes on it takes its room again unasked, as it must.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import Any

from torpor.store.database import Transaction
from torpor.store.records import Run
from torpor.wire.presets import Preset

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a worker has to give, when it does nothing. None: it doesn't say, so any amount."""

    cpu: float | None
    memory_bytes: int | None
    labels: dict[str, str]

    def suits(self, preset: Preset) -> bool:
        """Whether a run with this preset could be here."""
        return self.has_labels(preset) and self.holds(preset.cpu, preset.memory_bytes)

    def has_labels(self, preset: Preset) -> bool:
        return preset.labels.items() <= self.labels.items()

    def holds(self, cpu: float, memory_bytes: float) -> bool:
        """Whether so much is no more than all it has."""
        has_cpu = self.cpu is None or cpu <= self.cpu + _ROUNDING
        return has_cpu and (self.memory_bytes is None or memory_bytes <= self.memory_bytes)


class Room:
    """What is left of a worker, while it is handed runs."""

    def __init__(self, presets: dict[str, Preset], capacity: Capacity, *, cpu: float, memory_bytes: int) -> None:
        self._presets = presets
        self._capacity = capacity
        self._cpu, self._memory_bytes = cpu, memory_bytes  # that are taken

    @property
    def fits(self) -> set[str]:
        """Presets that there is room for now."""
        return {name for name, preset in self._presets.items() if self._fits(preset)}

    @property
    def later(self) -> set[str]:
        """Presets that there will be room for."""
        suits = self._capacity.suits
        return {name for name, preset in self._presets.items() if suits(preset) and not self._fits(preset)}

    def _fits(self, preset: Preset) -> bool:
        cpu, memory_bytes = self._cpu + preset.cpu, self._memory_bytes + preset.memory_bytes
        return self._capacity.has_labels(preset) and self._capacity.holds(cpu, memory_bytes)

    def take(self, runs: Iterable[Run]) -> list[Run]:
        """Those of them for which there is room, one after the other: it is theirs now. Where one has to wait, so have those
        behind it in its line."""
        taken: list[Run] = []
        closed: set[tuple[str, str]] = set()
        for run in runs:
            preset, line = self._presets[run.preset], (run.queue, run.concurrency_key)
            if line in closed or not self._fits(preset):
                closed.add(line)
                continue
            self._cpu += preset.cpu
            self._memory_bytes += preset.memory_bytes
            taken.append(run)
        return taken

    def preset(self, run: Run) -> Preset:
        return self._presets[run.preset]


async def room(tx: Transaction, environment_id: str, worker_id: str, capacity: Capacity) -> Room:
    """What is left of this worker. The caller has the environment's turn."""
    rows = await tx.fetch(
        """select presets.*, held.cpu as taken_cpu, held.memory_bytes as taken_memory_bytes
           from presets,
                (select coalesce(sum(theirs.cpu), 0) as cpu, coalesce(sum(theirs.memory_bytes), 0)::bigint as memory_bytes
                 from runs join presets as theirs
                      on theirs.environment_id = runs.environment_id and theirs.name = runs.preset
                 where runs.worker_id = $2 and runs.state in ('dequeued', 'executing')) as held
           where presets.environment_id = $1""",
        environment_id,
        worker_id,
    )
    presets = {row["name"]: preset_of(row) for row in rows}
    taken = rows[0] if rows else {"taken_cpu": inf, "taken_memory_bytes": 0}
    return Room(presets, capacity, cpu=taken["taken_cpu"], memory_bytes=taken["taken_memory_bytes"])


def preset_of(row: Any) -> Preset:
    """A preset, from a row of their table."""
    names = ("name", "cpu", "memory_bytes", "disk_bytes", "pids", "labels")
    return Preset(**{name: row[name] for name in names})
