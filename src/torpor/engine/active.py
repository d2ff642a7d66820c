"""How long an attempt has worked: executing, and neither waiting, suspended nor in line. `max_duration` counts only this.

`active_since` says since when it works (null: it doesn't now), `active_ms` what it had worked before that. Both change in
the statement that moves the run, so these are pieces of its `set`: whatever makes a run executing `begins`, whatever ends
that `ends`. A CHECK refuses a run that leaves executing without it.
"""

from datetime import datetime

from torpor.store.records import Run


def begins(now: str) -> str:
    """For a statement that makes a run executing; `now` is the parameter that holds the instant, such as `$2`."""
    return f"active_since = coalesce(active_since, {now})"


def ends(now: str) -> str:
    """For a statement after which a run doesn't execute; changes nothing if it didn't before."""
    # A clock that was set back must not give time as a present.
    worked = f"greatest(extract(epoch from {now}::timestamptz - active_since), 0)::float8 * 1000"
    return f"active_ms = active_ms + coalesce({worked}, 0), active_since = null"


def total_ms(run: Run, now: datetime) -> float:
    """What the run's latest attempt has worked until now."""
    running_ms = (now - run.active_since).total_seconds() * 1000 if run.active_since else 0.0
    return run.active_ms + max(running_ms, 0.0)
