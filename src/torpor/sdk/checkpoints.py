"""`Checkpoints`: when a task's runs are saved by themselves, and how long their checkpoints are kept."""

from dataclasses import dataclass
from datetime import timedelta

from torpor.durations import parse_duration
from torpor.wire.runner import CheckpointPolicy

SHORTEST_S = 10.0
MOST = 1000


@dataclass(frozen=True)
class Checkpoints:
    """Save points that nobody has to write, and how long checkpoints can be forked.

    Args:
        every: the run is saved whenever it has worked for so long without a checkpoint: text such as "10m", seconds, or a
            timedelta, from 10 seconds on. None: only where the code says `checkpoint(...)`, and at waits.
        keep: for how long after the run's end its checkpoints are kept. None: as the server is set (a day).
        keep_last: while the run lives, how many of the newest checkpoints without a name are kept; the older ones are
            what it falls back on when an image can't be used. Those with a name are kept, up to a hundred.

    Raises:
        ValueError: an argument makes no sense.

    Example:
        >>> from torpor import Checkpoints, Retry, task
        >>> @task(checkpoints=Checkpoints(every="10m", keep="7d"), retry=Retry(resume="checkpoint"))
        ... async def train(epochs: int) -> None:
        ...     print("training for", epochs, "epochs")
    """

    every: str | float | timedelta | None = None
    keep: str | float | timedelta | None = None
    keep_last: int = 2

    def __post_init__(self) -> None:
        every_s, last = _seconds(self.every), self.keep_last
        _seconds(self.keep)
        if every_s is not None and every_s < SHORTEST_S:
            raise ValueError(f"Checkpoints(every={self.every!r}): at least {SHORTEST_S:.0f} seconds are needed")
        if isinstance(last, bool) or not isinstance(last, int) or not 1 <= last <= MOST:
            raise ValueError(f"Checkpoints(keep_last={last!r}): a whole number from 1 to {MOST} is needed")

    @property
    def policy(self) -> CheckpointPolicy:
        """As worker and engine read it, in seconds."""
        return CheckpointPolicy(_seconds(self.every), _seconds(self.keep), self.keep_last)


def _seconds(value: str | float | timedelta | None) -> float | None:
    return None if value is None else parse_duration(value).total_seconds()
