"""`Debounce`: many triggers in quick succession, one run."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from torpor.durations import parse_duration, write_duration

SHORTEST_S = 1.0
LONGEST_KEY = 512


@dataclass(frozen=True)
class Debounce:
    """Perform the task once it has been quiet: each trigger with this key puts the run off by the delay again.

    Args:
        key: which triggers belong together, for this task; up to 512 characters.
        delay: how long it must be quiet: text such as "30s", seconds, or a timedelta; at least a second.
        mode: `"leading"`: the first trigger's payload is performed. `"trailing"`: the newest one's, with its metadata and
            tags.
        max_delay: the run is put off no longer than this, from the first trigger on. Default: without end.

    Raises:
        ValueError: an argument makes no sense.

    Example:
        >>> from torpor import Debounce, task
        >>> @task
        ... async def reindex(document: str) -> None:
        ...     print("indexing", document)
        >>> async def saved(document: str) -> None:
        ...     quiet = Debounce(document, "10s", mode="trailing", max_delay="5m")
        ...     await reindex.options(debounce=quiet).trigger(document)
    """

    key: str
    delay: str | float | timedelta
    mode: Literal["leading", "trailing"] = "leading"
    max_delay: str | float | timedelta | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.key, str) or not 1 <= len(self.key) <= LONGEST_KEY:
            raise ValueError(f"Debounce({self.key!r}): a key of 1 to {LONGEST_KEY} characters is needed")
        if self.mode not in ("leading", "trailing"):
            raise ValueError(f'Debounce(mode={self.mode!r}): it is "leading" or "trailing"')
        delay_s = parse_duration(self.delay).total_seconds()
        if delay_s < SHORTEST_S:
            raise ValueError(f"Debounce(delay={self.delay!r}): at least a second is needed")
        if self.max_delay is not None and parse_duration(self.max_delay).total_seconds() < delay_s:
            raise ValueError(f"Debounce(max_delay={self.max_delay!r}): it is shorter than the delay")

    def to_api(self) -> dict[str, Any]:
        """As the public API has it."""
        told = {"key": self.key, "delay": write_duration(self.delay), "mode": self.mode}
        return told if self.max_delay is None else {**told, "maxDelay": write_duration(self.max_delay)}
