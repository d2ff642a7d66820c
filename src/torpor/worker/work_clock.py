"""How long an attempt has worked, and when that is too long. Pure arithmetic; the clock is the caller's.

Time in which the run waits doesn't count, in memory or frozen; what it worked before a freeze does.
"""


class WorkClock:
    """The working time of one attempt, and its limit.

    Args:
        limit_s: max_duration; None: there is none.
        worked_s: what the attempt had worked before it came here.

    Example:
        >>> clock = WorkClock(60.0, 50.0)
        >>> clock.go(now=0.0)
        >>> clock.left_s(now=4.0)
        6.0
    """

    def __init__(self, limit_s: float | None, worked_s: float) -> None:
        self.limit_s = limit_s
        self._worked_s = worked_s
        self._since: float | None = None

    @property
    def is_going(self) -> bool:
        return self._since is not None

    def go(self, *, now: float) -> None:
        """The run works. `now` is monotonic."""
        if self._since is None:
            self._since = now

    def stop(self, *, now: float) -> None:
        """The run waits, or stands still."""
        if self._since is not None:
            self._worked_s += now - self._since
            self._since = None

    def worked_s(self, *, now: float) -> float:
        return self._worked_s + (0.0 if self._since is None else now - self._since)

    def left_s(self, *, now: float) -> float | None:
        """Until the limit, at least 0; None when there is no limit."""
        return None if self.limit_s is None else max(self.limit_s - self.worked_s(now=now), 0.0)
