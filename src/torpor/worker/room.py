"""A run's room: what it sees, and who it is.

    Template    what all runs of one version see alike: the system, the interpreter, the project, read-only; made once
    Room        one run's: the template, a file system of its own on top, and a user of its own

Nothing is made yet: without a room a run is root and sees what its worker sees.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Template:
    """A root directory with everything that is the same for all runs of a version.

    Attributes:
        path: where it is mounted.
    """

    path: Path


@dataclass(frozen=True)
class Room:
    """One run's.

    Attributes:
        root: where its root directory is mounted, in the mount namespace that the run is in.
        own: its own file system, as the supervisor sees it: `work`, `tmp`, `shm`, and `ctl.sock`.
        uid, gid: who the run is.
    """

    root: Path
    own: Path
    uid: int
    gid: int
