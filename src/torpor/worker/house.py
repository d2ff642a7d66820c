"""What all runs of a worker share, and what there is to share on this machine."""

import asyncio
import logging
import platform
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torpor.config import Settings
from torpor.errors import CriuError
from torpor.images import Images
from torpor.wire.networks import HOST, KINDS, PRIVATE, strictest
from torpor.wire.runner import WordLimits
from torpor.worker import criu, discovery, fitness, namespaces, router
from torpor.worker.cgroups import Cgroups
from torpor.worker.criu import Criu
from torpor.worker.criu_setup import NoCriu, find
from torpor.worker.fitness import Machine
from torpor.worker.isolation import Isolation
from torpor.worker.link import Link
from torpor.worker.network import Networks
from torpor.worker.room import Rooms
from torpor.worker.trust import Trust, environment_of_runs, stricter, why_refused, with_variables
from torpor.worker.variables import Variables
from torpor.worker.version import Version

log = logging.getLogger(__name__)


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

    # -- found out when the worker comes up -------------------------------------------------------------------------------

    async def look_around(self, path: Path, unfreezable: str | None) -> None:
        """Find out what can be done on this machine: whether and with what runs are frozen, what their images will need.

        Args:
            path: the project.
            unfreezable: why this process can't freeze at all, or None to look for a CRIU.
        """
        reason = unfreezable
        if not self.settings.freeze:
            reason = "freezing is switched off (TORPOR_FREEZE)"
        if reason is None:
            match await find(self.settings, in_room=self.isolation.level != "off", project=path):
                case NoCriu() as missing:
                    reason = f"this machine can't freeze: {missing.reason}"
                case found:
                    self.criu = found
        if self.criu is not None:
            try:
                await criu.warm_up(self.criu)
            except CriuError as error:
                log.warning("CRIU could not be warmed up: %s", error)
        self.no_freeze_reason = reason or ""
        version = self.criu.version if self.criu else None
        self.machine = await asyncio.to_thread(
            fitness.look,
            version,
            self.settings.cpu_baseline,
            makes_rooms=self.rooms is not None,
            wants_rooms=self.isolation.level != "off",
        )
        self.hold_for(discovery.asked_of(path), path)
        if reason:
            log.warning("runs that wait are held in memory: %s", reason)
        else:
            assert self.criu is not None
            log.info("freezing with CRIU %s (%s)", self.criu.version, self.criu.source)
        log.log(
            logging.WARNING if self.isolation.level == "partial" else logging.INFO,
            "%s",
            self.isolation.told(),
        )

    def hold_for(self, asked: discovery.Asked | discovery.Project, path: Path) -> bool:
        """Trust the project's code as far as it and the settings allow; true if that is another trust than before. The network
        of its runs goes by that, too: foreign code never gets the worker's.
        """
        former = self.trust
        assert self.machine is not None
        self.trust = stricter(Trust(self.settings.trust), asked.trust)
        least = PRIVATE if self.trust is Trust.FOREIGN else HOST
        self.network = strictest(self.settings.network, asked.network, least)
        self.machine = replace(self.machine, trust=self.trust)
        self.facts = {**self.machine.facts(), "kernel": platform.release(), "host": platform.node()}
        self.refusal = why_refused(self.trust, self.isolation, path)
        return self.trust is not former

    def kinds_of_networks(self) -> list[str]:
        """Those that runs can have, the one that reaches most first."""
        lacks = {each.what for each in self.isolation.missing}
        kinds = KINDS[KINDS.index(self.network) :]
        if not namespaces.may_unshare() or "a network of its own" in lacks:
            kinds = tuple(kind for kind in kinds if kind == HOST)
        if router.missing_tools():
            kinds = tuple(kind for kind in kinds if kind != PRIVATE)
        return list(kinds)

    # -- variables -------------------------------------------------------------------------------------------------------

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
