"""What verbs answer with, where more than one verb answers it, and the lease that they are asked with."""

from dataclasses import dataclass, field

from torpor.wire.http import OpenWait
from torpor.wire.runner import Answer


@dataclass(frozen=True, slots=True)
class Lease:
    """A worker's numbered right to act on a run."""

    run_id: str
    number: int


@dataclass(frozen=True, slots=True)
class Ok:
    """Done, or done already: the same message twice."""


@dataclass(frozen=True, slots=True)
class Stale:
    """The lease is over (rescued, canceled, ended, or this very message came before). Nothing has changed.

    The worker kills that process. `held_by` is the run's present lease number; None: there is no such run.
    """

    held_by: int | None


@dataclass(frozen=True, slots=True)
class Suspended:
    """The image is the run now: kill the process."""


@dataclass(frozen=True, slots=True)
class Awake:
    """Keep the process, drop the image: something was answered while it was being dumped, it isn't blocked, or is to end."""


@dataclass(frozen=True, slots=True)
class ImageRejected:
    """That image can't be referred to: it was taken for garbage, as nobody spoke of it for so long. Drop it, and go on."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """There is no such thing in this environment."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """What a run still waits for, and what has been answered."""

    answers: list[Answer] = field(default_factory=list)
    open: list[OpenWait] = field(default_factory=list)
