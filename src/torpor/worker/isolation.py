"""How far runs are kept apart by a worker: what its machine gives, weighed against what `TORPOR_ISOLATION` asks for.

    full      a room with all of its limits
    partial   a room, but something is missing that it could have
    off       no room: runs are kept apart as processes, and no more

What a machine gives is found out by doing each thing once (probes.py). What can't be done is named, with the reason and what
to do about it.
"""

import json
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from torpor.config import Settings
from torpor.errors import ConfigError
from torpor.worker.probes import Probe, attempt, probes

Level = Literal["full", "partial", "off"]


@dataclass(frozen=True)
class Missing:
    """Something that runs on this machine can't have.

    Attributes:
        what: a few words, the same on every machine.
        why: what was seen.
        fix: what to do about it.
    """

    what: str
    why: str
    fix: str

    def __str__(self) -> str:
        return f"{self.what} ({self.why})"


@dataclass(frozen=True)
class Isolation:
    """How far runs are kept apart by a worker, and what is missing."""

    level: Level
    missing: tuple[Missing, ...] = ()

    def told(self) -> str:
        """A line for logs."""
        lacks = "; ".join(map(str, self.missing))
        return {
            "full": "each run has a room of its own, with all limits",
            "partial": f"each run has a room of its own, but without: {lacks}",
            "off": f"runs are not isolated: {lacks}",
        }[self.level]

    def facts(self) -> dict[str, Any]:
        """For the server, and whoever asks it."""
        return {
            "level": self.level,
            "missing": [{"what": each.what, "why": each.why, "fix": each.fix} for each in self.missing],
        }


def choose(settings: Settings) -> Isolation:
    """How far this worker keeps its runs apart.

    Raises:
        ConfigError: it asks for more than there is; it names what is missing.
    """
    if settings.isolation == "off":
        return Isolation("off", (Missing("isolation", "TORPOR_ISOLATION is off", "set it to auto, or unset it"),))
    return _accepted(settings, possible(settings))


def without(settings: Settings, chosen: Isolation, missing: Missing) -> Isolation:
    """What is left of it when something that could be had in a try could not be had in earnest.

    Raises:
        ConfigError: as `choose`.
    """
    level: Level = "off" if chosen.level == "off" else "partial"
    return _accepted(settings, Isolation(level, (*chosen.missing, missing)))


def _accepted(settings: Settings, found: Isolation) -> Isolation:
    if settings.isolation == "full" and found.level != "full":
        lines = "".join(f"\n  no {each.what}: {each.why}\n    → {each.fix}" for each in found.missing)
        raise ConfigError(f"TORPOR_ISOLATION=full can't be had on this machine:{lines}")
    return found


def possible(settings: Settings) -> Isolation:
    """The most that this machine gives, whatever the settings ask for. Takes less than 100 ms."""
    obstacle = _obstacle()
    return Isolation("off", (obstacle,)) if obstacle else conclude(probes(settings))


def conclude(tries: Iterable[Probe]) -> Isolation:
    """Do it all, and weigh what failed."""
    failed = [(probe, why) for probe in tries if (why := attempt(probe.act)) is not None]
    missing = tuple(Missing(probe.name, why, probe.fix) for probe, why in failed)
    if any(probe.is_needed for probe, _ in failed):
        return Isolation("off", missing)
    return Isolation("partial" if missing else "full", missing)


def _obstacle() -> Missing | None:
    """What keeps us from trying at all."""
    if sys.platform != "linux":
        return Missing("isolation", "it needs Linux", "run the worker on Linux")
    if os.geteuid() != 0:
        return Missing("isolation", "it needs root", "start the worker as root, for example with sudo")
    return None


def _main() -> None:
    began = time.perf_counter()
    found = possible(Settings.from_environment())
    took_ms = (time.perf_counter() - began) * 1000
    print(json.dumps({**found.facts(), "took_ms": round(took_ms, 1)}, indent=2))


if __name__ == "__main__":
    _main()
