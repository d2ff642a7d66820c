"""What all handlers of one server share: settings, database, clock, wake-ups and the keys seen lately."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from starlette.requests import Request

from torpor.clock import Clock
from torpor.config import Settings
from torpor.errors import ConfigError
from torpor.objects import Objects, open_objects
from torpor.server.feeds import Feeds
from torpor.server.master_keys import MasterKeys
from torpor.server.openid import OpenId
from torpor.server.rates import Rate, Rates
from torpor.server.tails import Tails
from torpor.server.wakeups import Wakeups
from torpor.store.database import Database
from torpor.store.records import ApiKey, Environment

KEY_MEMORY_S = 5.0
"""How long a key is believed without asking the database again. A change is announced to all servers; a key that was
revoked works that much longer only where the announcement was lost."""

SIGN_INS_OF_ACCOUNT = Rate(per_s=1 / 60, burst=10)
SIGN_INS_OF_ADDRESS = Rate(per_s=1 / 10, burst=30)


@dataclass
class KeyRing:
    """The keys of an environment by which its public tokens are verified."""

    looked_at: float
    environment: Environment
    keys: list[tuple[ApiKey, bytes]] = field(repr=False)  # what clients sign with; empty: they don't with this one
    touched: set[str] = field(default_factory=set)


@dataclass
class Hub:
    settings: Settings
    database: Database
    clock: Clock
    wakeups: Wakeups = field(default_factory=Wakeups)
    keys: dict[bytes, tuple[float, ApiKey, Environment]] = field(default_factory=dict)
    """sha256 of a key -> when (monotonic) it was looked up, and whose it is."""
    keys_changed: int = 0
    """How often a change was announced: what was asked before it is not to be remembered after it."""
    rings: dict[str, KeyRing] = field(default_factory=dict, repr=False)
    """Environment -> the keys that its public tokens are verified with."""
    environments: tuple[float, Mapping[str, Environment]] | None = None
    """All environments by their addresses, and when (monotonic) they were looked up."""

    tails: Tails = field(default_factory=Tails)
    """The streams that are read here."""

    queries: int = 0
    """How many queries this server carries out now."""

    swept_at: datetime | None = None
    """When this server last looked for objects that no row names."""

    @cached_property
    def objects(self) -> Objects:
        return open_objects(self.settings.object_store, self.settings.data_dir.resolve() / "objects")

    @cached_property
    def feeds(self) -> Feeds:
        return Feeds(self.database)

    @cached_property
    def rates(self) -> Rates:
        return Rates.of(self.settings)

    sign_ins: Rates = field(default_factory=lambda: Rates(SIGN_INS_OF_ACCOUNT, SIGN_INS_OF_ADDRESS))
    """How often a password is tried: for one account, and from one address."""

    shown: dict[tuple[object, ...], Any] = field(default_factory=dict)
    """What the dashboard has read lately (dashboard/shared.py)."""

    @cached_property
    def master_keys(self) -> MasterKeys:
        return MasterKeys.of(self.settings)

    @cached_property
    def openid(self) -> OpenId | None:
        if self.settings.oidc_issuer:
            return OpenId(self.settings, self.master_keys, self.public_url)
        if self.settings.oidc_only:
            raise ConfigError("TORPOR_OIDC_ONLY is set, but not TORPOR_OIDC_ISSUER: nobody could sign in")
        return None

    def hear(self, kind: str, data: dict[str, Any]) -> None:
        """The database's callback: what is remembered of keys and environments is forgotten when one has changed."""
        if kind in ("keys", "reconnected"):
            self.keys_changed += 1
            self.keys.clear()
            self.rings.clear()
            self.environments = None

    @property
    def public_url(self) -> str:
        settings = self.settings
        return (settings.public_url or f"http://{settings.host}:{settings.port}").rstrip("/")


def hub(request: Request) -> Hub:
    return request.app.state.hub
