"""What all handlers of one server share: settings, database, clock, wake-ups and the keys seen lately."""

from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

from starlette.requests import Request

from torpor.clock import Clock
from torpor.config import Settings
from torpor.objects import Objects, open_objects
from torpor.server.master_keys import MasterKeys
from torpor.server.wakeups import Wakeups
from torpor.store.database import Database
from torpor.store.records import Environment

KEY_MEMORY_S = 5.0
"""How long a key is believed without asking the database again; a key that was withdrawn works that much longer."""


@dataclass
class Hub:
    settings: Settings
    database: Database
    clock: Clock
    wakeups: Wakeups = field(default_factory=Wakeups)
    keys: dict[bytes, tuple[float, Environment]] = field(default_factory=dict)
    """sha256 of a secret key -> when (monotonic) it was looked up, and whose it is. Never the key itself."""

    swept_at: datetime | None = None
    """When this server last looked for objects that no row names."""

    @cached_property
    def objects(self) -> Objects:
        return open_objects(self.settings.object_store, self.settings.data_dir.resolve() / "objects")

    @cached_property
    def master_keys(self) -> MasterKeys:
        return MasterKeys.of(self.settings)

    @property
    def public_url(self) -> str:
        settings = self.settings
        return (settings.public_url or f"http://{settings.host}:{settings.port}").rstrip("/")


def hub(request: Request) -> Hub:
    return request.app.state.hub
