"""What each state of a run is called on a page, and which colour it has. Frozen has its own."""

from dataclasses import dataclass

from torpor.engine.read_story import Kin
from torpor.engine.states import RunState
from torpor.store.records import Run

S = RunState


@dataclass(frozen=True, slots=True)
class Look:
    """How a state is shown. `tone` names the colour and the sign of a badge: see style.css and macros.html."""

    name: str
    tone: str


LOOKS: dict[RunState, Look] = {
    S.DELAYED: Look("Delayed", "queued"),
    S.PENDING_VERSION: Look("No version", "queued"),
    S.QUEUED: Look("Queued", "queued"),
    S.DEQUEUED: Look("Starting", "running"),
    S.EXECUTING: Look("Running", "running"),
    S.WAITING: Look("Waiting", "waiting"),
    S.SUSPENDED: Look("Frozen", "frozen"),
    S.COMPLETED: Look("Completed", "completed"),
    S.FAILED: Look("Failed", "failed"),
    S.CRASHED: Look("Crashed", "failed"),
    S.TIMED_OUT: Look("Timed out", "failed"),
    S.SYSTEM_FAILURE: Look("System failure", "failed"),
    S.CANCELED: Look("Canceled", "canceled"),
    S.EXPIRED: Look("Expired", "canceled"),
}

TONES = {
    "running": "Running",
    "frozen": "Frozen",
    "waiting": "Waiting",
    "queued": "Queued",
    "completed": "Completed",
    "failed": "Failed",
    "canceled": "Canceled",
}
"""Groups of states, in the order in which a chart stacks them."""


def look(run: Run | Kin) -> Look:
    """How this run is shown. A frozen one that is queued to go on is still in its image."""
    state = RunState(run.state)
    if state is S.QUEUED and run.frozen_since is not None:
        return Look("Thawing", "frozen")
    return LOOKS[state]
