"""Presets: the sizes of machine that a run can have. `small-1x` is half a CPU and half a gigabyte.

Names and sizes are the model's (Trigger.dev's). A gigabyte is 2**30 bytes. Two figures are our own:

- `disk_bytes` bounds what a run may write (working directory, temporary files, shared memory). These are in memory, unless
  the worker says otherwise, and count towards the run's memory. So a preset's disk is half of its memory: what fills up is the
  disk, which is an error that code can catch, and not the memory, which is a kill. (The model gives ten gigabytes of real disk.)
- `pids` bounds processes and threads together.
"""

import msgspec

GB = 1 << 30


class Preset(msgspec.Struct, frozen=True):
    """A size of machine, and what else a worker must have (`labels`) to be given such runs."""

    name: str
    cpu: float  # shares of one CPU
    memory_bytes: int
    disk_bytes: int
    pids: int
    labels: dict[str, str] = {}  # a worker must have all of these; a label without a value has an empty one


def _built_in(name: str, cpu: float, memory_gb: float, pids: int) -> Preset:
    memory_bytes = int(memory_gb * GB)
    return Preset(name, cpu, memory_bytes, memory_bytes // 2, pids)


BUILT_IN: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        _built_in("micro", 0.25, 0.25, 256),
        _built_in("small-1x", 0.5, 0.5, 512),
        _built_in("small-2x", 1, 1, 512),
        _built_in("medium-1x", 1, 2, 1024),
        _built_in("medium-2x", 2, 4, 1024),
        _built_in("large-1x", 4, 8, 2048),
        _built_in("large-2x", 8, 16, 4096),
    )
}
DEFAULT_PRESET = "small-1x"
