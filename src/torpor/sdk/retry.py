"""`torpor.Retry`: how often and how late a failed attempt is tried again."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from torpor.durations import parse_duration
from torpor.wire.runner import RetryPolicy


@dataclass(frozen=True)
class Retry:
    """What happens when an attempt fails: it is tried again, later each time.

    Args:
        max_attempts: all attempts together, the first one included.
        min_delay: the pause after the first failure: text such as "1s", seconds, or a timedelta.
        max_delay: no pause is longer.
        factor: each pause is this many times the one before.
        jitter: spread pauses at random, so that runs that failed together don't come back together.
        resume: where the next attempt begins. "top": with the function's first line. "checkpoint": where the newest
            checkpoint was made (a wait, or a save point), with all the memory of that moment; from the top if there is
            none. A process that died goes on from its newest checkpoint in either case.
        on_oom: a larger machine, by name: where the run goes on, once, when its memory was used up. From its newest
            checkpoint, else from the top; this costs no attempt. None: that is a crash like any other.

    Raises:
        ValueError: an argument makes no sense; the message says which.

    Example:
        >>> Retry(max_attempts=5, min_delay="2s").policy.max_attempts
        5
    """

    max_attempts: int = 3
    min_delay: str | float | timedelta = "1s"
    max_delay: str | float | timedelta = "1m"
    factor: float = 2.0
    jitter: bool = True
    resume: Literal["top", "checkpoint"] = "top"
    on_oom: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.max_attempts, bool) or not isinstance(self.max_attempts, int) or self.max_attempts < 1:
            raise ValueError(f"Retry(max_attempts={self.max_attempts!r}): a whole number from 1 on is needed")
        if not 1 <= self.factor <= 1000:
            raise ValueError(f"Retry(factor={self.factor!r}): a number from 1 to 1000 is needed")
        if self.resume not in ("top", "checkpoint"):
            raise ValueError(f'Retry(resume={self.resume!r}): "top" or "checkpoint" is needed')
        if self.on_oom is not None and (not isinstance(self.on_oom, str) or not self.on_oom):
            raise ValueError(f'Retry(on_oom={self.on_oom!r}): the name of a machine is needed, such as "large-1x"')
        if self.policy.min_delay_s > self.policy.max_delay_s:
            raise ValueError(f"Retry(min_delay={self.min_delay!r}) is longer than max_delay={self.max_delay!r}")

    @property
    def policy(self) -> RetryPolicy:
        """As the engine reads it, in seconds."""
        min_delay_s = parse_duration(self.min_delay).total_seconds()
        max_delay_s = parse_duration(self.max_delay).total_seconds()
        return RetryPolicy(
            self.max_attempts,
            min_delay_s,
            max_delay_s,
            float(self.factor),
            bool(self.jitter),
            self.resume,
            self.on_oom,
        )
