"""The states of a run, the edges between them, and the one public status of each.

    delayed -> queued -> dequeued -> executing -> completed | failed | crashed | timed_out
               ^  |         |         |     ^
               |  |         |         v     | answered while still in memory
               |  |         |        waiting
               |  |         |         |  checkpoint accepted
               |  |         +---------|---------> queued     (refused by its worker, or its lease ran out)
               +--|------ resume -- suspended
                  +-> expired                   (its ttl is over before it has started)
    a process that goes on elsewhere (move): executing, waiting -> queued
    a failed or crashed attempt with tries left: executing, waiting -> queued or delayed
    a lease that ran out: dequeued, executing, waiting -> queued | system_failure | canceled (it was asked to end)
    any state that is not an end -> canceled    (one with a process was asked to end first)

`pending_version` is a run that no version can start: <-> queued as versions come and go; delayed runs may be released to it.
"""

from enum import StrEnum


class RunState(StrEnum):
    DELAYED = "delayed"
    PENDING_VERSION = "pending_version"
    QUEUED = "queued"
    DEQUEUED = "dequeued"
    EXECUTING = "executing"
    WAITING = "waiting"  # blocked, in memory
    SUSPENDED = "suspended"  # blocked, no process
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"
    CRASHED = "crashed"
    TIMED_OUT = "timed_out"
    EXPIRED = "expired"
    SYSTEM_FAILURE = "system_failure"


S = RunState

ENDS = frozenset({S.COMPLETED, S.FAILED, S.CANCELED, S.CRASHED, S.TIMED_OUT, S.EXPIRED, S.SYSTEM_FAILURE})
"""Final: no verb leaves them."""

LEASED = frozenset({S.DEQUEUED, S.EXECUTING, S.WAITING})
"""A worker holds the run, under a lease that heartbeats renew."""

EDGES: dict[str, frozenset[tuple[RunState, RunState]]] = {
    "trigger": frozenset(),
    "dequeue": frozenset({(S.QUEUED, S.DEQUEUED)}),
    "start": frozenset({(S.DEQUEUED, S.EXECUTING)}),
    "block": frozenset({(S.EXECUTING, S.WAITING), (S.WAITING, S.EXECUTING)}),
    "collect": frozenset({(S.WAITING, S.EXECUTING), (S.EXECUTING, S.WAITING)}),
    "suspend": frozenset({(S.WAITING, S.SUSPENDED), (S.WAITING, S.QUEUED)}),
    "save": frozenset(),
    "move": frozenset({(S.EXECUTING, S.QUEUED), (S.WAITING, S.QUEUED)}),
    "fork": frozenset(),
    "grant": frozenset({(S.WAITING, S.EXECUTING)}),
    "resume": frozenset({(S.SUSPENDED, S.QUEUED)}),
    "refuse": frozenset((state, to) for state in LEASED for to in (S.QUEUED, S.CRASHED, S.SYSTEM_FAILURE, S.CANCELED)),
    "finish": frozenset(
        (state, end)
        for state in (S.DEQUEUED, S.EXECUTING, S.WAITING)
        for end in (S.COMPLETED, S.FAILED, S.CRASHED, S.TIMED_OUT, S.CANCELED, S.QUEUED, S.DELAYED)
    ),
    "cancel": frozenset(
        (state, S.CANCELED)
        for state in (S.DELAYED, S.PENDING_VERSION, S.QUEUED, S.DEQUEUED, S.EXECUTING, S.WAITING, S.SUSPENDED)
    ),
    "release": frozenset({(S.DELAYED, S.QUEUED), (S.DELAYED, S.PENDING_VERSION)}),
    "match_versions": frozenset({(S.QUEUED, S.PENDING_VERSION), (S.PENDING_VERSION, S.QUEUED)}),
    "expire": frozenset({(S.QUEUED, S.EXPIRED), (S.PENDING_VERSION, S.EXPIRED)}),
    "give_up": frozenset({(S.QUEUED, S.CRASHED)}),
    "repair": frozenset({(S.SUSPENDED, S.QUEUED), (S.PENDING_VERSION, S.QUEUED)}),
    "rescue": frozenset((state, to) for state in LEASED for to in (S.QUEUED, S.SYSTEM_FAILURE, S.CANCELED)),
}
"""Which verb may move a run along which edge; the verb x state test crosses them all."""

STATUS: dict[RunState, str] = {
    S.DELAYED: "DELAYED",
    S.PENDING_VERSION: "PENDING_VERSION",
    S.QUEUED: "QUEUED",
    S.DEQUEUED: "DEQUEUED",
    S.EXECUTING: "EXECUTING",
    S.WAITING: "WAITING",
    S.SUSPENDED: "WAITING",
    S.COMPLETED: "COMPLETED",
    S.FAILED: "FAILED",
    S.CANCELED: "CANCELED",
    S.CRASHED: "CRASHED",
    S.TIMED_OUT: "TIMED_OUT",
    S.EXPIRED: "EXPIRED",
    S.SYSTEM_FAILURE: "SYSTEM_FAILURE",
}
"""The name that the public API shows. A run queued to resume is shown as QUEUED."""
