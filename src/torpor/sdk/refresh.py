"""What must not repeat, or would be stale, in a process that was restored from an image.

random numbers   two restores of one image go on from the same state. OpenSSL is reseeded. `random` and numpy's global
                 generator are reseeded unless user code has seeded them: a seeded sequence is part of what it holds.
                 `os.urandom`, `secrets` and `uuid.uuid4` ask the kernel; generator objects are user code's own
environment      variables that are others on this worker now are set, those that are gone are deleted; what user code has
                 set or deleted itself is left alone, unless it has changed at the server
time zone        follows TZ
names of hosts   glibc looks at /etc/resolv.conf before each query and reads it anew when it is another
connections      fresh/
"""

import os
import random
import sys
import time
from collections.abc import Mapping
from typing import Any

from torpor.sdk import fresh

_is_seeded = False
_at_birth: dict[str, str] | None = None


def before_user_code() -> None:
    """Note how things are before user code is imported, which may seed `random`, or take hold of its functions, may set
    variables, and make pools of connections.
    """
    global _at_birth
    _watch_seeds()
    fresh.watch()
    _at_birth = dict(os.environ)


def reseed_openssl() -> None:
    """It detects forks by the process id, which is 1 in every run: two restores would share their random bytes."""
    if ssl := sys.modules.get("ssl"):
        ssl.RAND_add(os.urandom(32), 32.0)


def reseed_all() -> None:
    """No code of a run has begun: whatever seeds there are, every run of this version would have the same."""
    reseed_openssl()
    random.seed()
    if mtrand := sys.modules.get("numpy.random.mtrand"):
        reseed_numpy(mtrand)


def reseed_unseeded() -> None:
    """Give `random` and numpy's global generator new seeds, unless they have one of user code's."""
    if not _is_seeded:
        random.seed()
    # numpy's forgets where its seed came from when it is given one.
    mtrand: Any = sys.modules.get("numpy.random.mtrand")
    if mtrand is not None and mtrand._rand._bit_generator.seed_seq is not None:
        reseed_numpy(mtrand)


def reseed_numpy(mtrand: Any) -> None:
    """Move its global generator to a new place, so that it still counts as never seeded."""
    mtrand._rand.set_state(sys.modules["numpy.random"].MT19937().state)


def _watch_seeds() -> None:
    """From now on note when `random` is seeded."""
    if hasattr(random.seed, "_torpor"):
        return
    seed, setstate = random.seed, random.setstate

    def watched_seed(a: Any = None, version: int = 2) -> None:
        global _is_seeded
        _is_seeded = a is not None
        seed(a, version)

    def watched_setstate(state: Any) -> None:
        global _is_seeded
        _is_seeded = True
        setstate(state)

    for watched, original in ((watched_seed, seed), (watched_setstate, setstate)):
        watched.__name__, watched.__qualname__, watched.__doc__ = (
            original.__name__,
            original.__qualname__,
            original.__doc__,
        )
        watched._torpor = True  # pyright: ignore[reportFunctionMemberAccess]
    random.seed, random.setstate = watched_seed, watched_setstate


class Environment:
    """The variables that user code was given, so that what it changed itself can be told from what is old.

    Args:
        at_server: those that the server has for all runs; None: that isn't known.
        everything: all that the worker has for user code, those included; None: that isn't known.
    """

    def __init__(self, at_server: Mapping[str, str] | None, everything: Mapping[str, str] | None = None) -> None:
        self._given = dict(os.environ) if _at_birth is None else dict(_at_birth)
        # Those that come from a worker; TMPDIR, for one, doesn't. In a thawed process they are those of another worker.
        self._known = set[str]() if _at_birth is None else set(_at_birth)
        self._at_server = set[str]()
        self.update(at_server, everything)

    def update(self, at_server: Mapping[str, str] | None, everything: Mapping[str, str] | None) -> None:
        """Take up what the worker says the variables are now.

        Args:
            at_server: when one of them has changed since it was given, or is there no more, that counts, whatever user code
                has made of it. None: nothing is known of them.
            everything: as above; None: nothing is known of the others.
        """
        time_zone = os.environ.get("TZ")
        if at_server is not None:
            gone = self._at_server - at_server.keys()
            told = {**at_server, **{name: (everything or {}).get(name) for name in gone}}
            for name, value in told.items():
                if self._given.get(name) != value:
                    self._set(name, value)
            self._at_server = set(at_server)
        if everything is not None:
            for name, value in {**dict.fromkeys(self._known - everything.keys()), **everything}.items():
                if os.environ.get(name) == self._given.get(name):
                    self._set(name, value)
                self._note(name, value)
            self._known = set(everything)
        if os.environ.get("TZ") != time_zone and hasattr(time, "tzset"):
            time.tzset()

    def _set(self, name: str, value: str | None) -> None:
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
        self._note(name, value)

    def _note(self, name: str, value: str | None) -> None:
        if value is None:
            self._given.pop(name, None)
        else:
            self._given[name] = value
