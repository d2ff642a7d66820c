"""A run's own files travel with its checkpoint: its working and temporary directories, packed beside CRIU's images.

Packed while the tree is stopped, so they are those of the very instant of the dump. What another process or an earlier
life wrote since doesn't matter: a restore lays them exactly as they were, with names, modes, owners, links and times.
"""

import os
import tarfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

PRIVATE = ("work", "tmp")
"""The directories of a run that travel. Beside them it has `ctl.sock` and `output.log`, which don't."""


def pack(directory: Path, archive: Path) -> int:
    """Write the run's files to `archive`; return its size in bytes. The tree that uses them must be stopped."""
    with _ExactTar.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in PRIVATE:
            tar.add(directory / name, name, filter=_exactly(directory))
    return archive.stat().st_size


def unpack(archive: Path, directory: Path) -> None:
    """Lay the run's files as they were. The archive must have been verified: it is extracted as it says."""
    with _ExactTar.open(archive) as tar:
        tar.extractall(directory, numeric_owner=True)


def _exactly(directory: Path) -> Callable[[tarfile.TarInfo], tarfile.TarInfo]:
    """Note times to the nanosecond: tarfile by itself goes through a float and loses the last digits."""

    def note(member: tarfile.TarInfo) -> tarfile.TarInfo:
        nanoseconds = os.lstat(directory / member.name).st_mtime_ns
        member.pax_headers = {**member.pax_headers, "mtime": f"{nanoseconds // 10**9}.{nanoseconds % 10**9:09d}"}
        return member

    return note


class _ExactTar(tarfile.TarFile):
    @staticmethod
    def extraction_filter(member: tarfile.TarInfo, path: str, /) -> tarfile.TarInfo:
        """Everything as it says. An argument of `extractall` would be shorter, but Debian 12's Python 3.11.2 has none."""
        return member

    def utime(self, tarinfo: tarfile.TarInfo, targetpath: Any) -> None:
        told = tarinfo.pax_headers.get("mtime")
        nanoseconds = int(Decimal(told) * 10**9) if told else int(tarinfo.mtime) * 10**9
        os.utime(targetpath, ns=(nanoseconds, nanoseconds))
