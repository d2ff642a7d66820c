"""What all runs of a worker share."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torpor.config import Settings
from torpor.worker.criu import Criu
from torpor.worker.fitness import Machine
from torpor.worker.images import Images
from torpor.worker.link import Link
from torpor.worker.version import Version


@dataclass
class House:
    """Made once by the supervisor, and handed to each run."""

    settings: Settings
    link: Link
    images: Images
    run_root: Path
    version: Callable[[str], Version | None]
    criu: Criu | None = None
    no_freeze_reason: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    """Of this machine, recorded with each image: what it will need to be restored, and what explains it."""
    machine: Machine | None = None
    """This machine, to be compared with an image's facts; known before any run is taken."""
    settled: set[str] = field(default_factory=set)
    """Images that the engine has decided about: the census may delete them when it does not list them."""
    room: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when there may be room for another run."""
