"""What all runs of a worker share."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torpor.config import Settings
from torpor.images import Images
from torpor.wire.networks import HOST
from torpor.wire.runner import WordLimits
from torpor.worker.cgroups import Cgroups
from torpor.worker.criu import Criu
from torpor.worker.fitness import Machine
from torpor.worker.isolation import Isolation
from torpor.worker.link import Link
from torpor.worker.network import Networks
from torpor.worker.room import Rooms
from torpor.worker.trust import Trust, environment_of_runs, with_variables
from torpor.worker.variables import Variables
from torpor.worker.version import Version


@dataclass
class House:
    """Made once by the supervisor, and handed to each run."""

    settings: Settings
    link: Link
    images: Images
    run_root: Path
    version: Callable[[str], Version | None]
    networks: Networks
    variables: Variables
    """What the server has for all runs."""
    keep_up: Callable[[int], Awaitable[None]]
    """Have the variables as they were at that revision, or newer, and versions that were imported with them."""
    isolation: Isolation = field(default_factory=lambda: Isolation("off"))
    """How far its runs are kept apart, and what they lack."""
    trust: Trust = Trust.OWN
    """How far it trusts the project's code."""
    network: str = HOST
    """What its runs reach at most; a task may ask for less."""
    refusal: str | None = None
    """Why nothing may run here now, so that no promise is broken."""
    cgroups: Cgroups | None = None
    """Where they get their limits; None: they have none."""
    criu: Criu | None = None
    no_freeze_reason: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    """Of this machine, recorded with each image: what it will need to be restored, and what explains it."""
    machine: Machine | None = None
    """This machine, to be compared with an image's facts; known before any run is taken."""
    store_id: str = ""
    """Of the object store that the images are in."""
    strays: list[str] = field(default_factory=list)
    """Objects that were stored for nothing, as the engine did not want the image: it is told of them."""
    rooms: Rooms | None = None
    """Makes what runs see; None where it can't be made."""
    limits: WordLimits = field(default_factory=WordLimits)
    """How much runs may say of themselves, as the server says."""
    vacancy: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when there may be a place for another run."""

    _given: tuple[tuple[Trust, int], dict[str, str], dict[str, str]] | None = None
    """What `environment` and `set_at_server` are for this trust and this revision: each start of a run asks for them."""

    @property
    def own_environment(self) -> dict[str, str]:
        """The variables that user code has here of the worker's."""
        return environment_of_runs(self.trust, self.settings)

    @property
    def environment(self) -> dict[str, str]:
        """All that user code has here: those of the server win."""
        return self._environments()[0]

    @property
    def set_at_server(self) -> dict[str, str]:
        """Those of them that the server has."""
        return self._environments()[1]

    def _environments(self) -> tuple[dict[str, str], dict[str, str]]:
        now = (self.trust, self.variables.revision)
        if self._given is None or self._given[0] != now:
            everything = with_variables(self.own_environment, self.variables.values, self.settings)
            self._given = (now, everything, {name: everything[name] for name in self.variables.values})
        return self._given[1:]
