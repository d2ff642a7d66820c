"""A run's own files travel with its checkpoint: its working and temporary directories, and its shared memory.

Packed while the tree is stopped, so they are those of the very instant of the dump. What another process or an earlier
life wrote since doesn't matter: a restore lays them exactly as they were, with names, modes, owners, links, times,
extended attributes, and holes where there were holes.

Named shared memory (`/dev/shm`) is a place that all processes of a machine have in common. A restored run has one of its own, so
that two lives of one image don't meet in it; a forked one has the machine's, of which its image takes what it uses.
"""

import base64
import contextlib
import errno
import io
import os
import re
import shutil
import subprocess
import tarfile
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

from torpor.worker import namespaces

PRIVATE = ("work", "tmp")
"""The directories of a run that travel. Beside them it has `ctl.sock` and `output.log`, which don't."""
SHARED = Path("/dev/shm")
SHM = "shm"
"""Of a run with a room, the directory that it knows as /dev/shm; in an archive, that of shared memory."""
_XATTR = "TORPOR.xattr."
_LINK_REMAP = re.compile(r"link_remap\.\d+")


def pack(directory: Path, archive: Path, *, shared: Collection[Path] = ()) -> int:
    """Write the run's files to `archive`; return its size in bytes. The tree that uses them must be stopped.

    Args:
        shared: files of shared memory, all of one directory; they come first in the archive.

    Raises:
        OSError: they can't be packed, whatever there is that no archive holds.
    """
    try:
        return _pack(directory, archive, shared)
    except RecursionError:
        raise OSError(errno.ELOOP, "the run's directories are nested too deeply to be packed") from None
    except (ValueError, OverflowError, tarfile.TarError) as error:
        raise OSError(errno.EINVAL, f"the run's files can't be packed: {error}") from error


def _pack(directory: Path, archive: Path, shared: Collection[Path]) -> int:
    roots = {name: directory / name for name in PRIVATE}
    for path in shared:
        roots[SHM] = path.parent
    with _ExactTar.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        note = _exactly(roots)
        for path in shared:
            tar.add(path, f"{SHM}/{path.name}", filter=note)
        for name in PRIVATE:
            tar.add(directory / name, name, filter=note)
    return archive.stat().st_size


def remove(directory: Path) -> None:
    """The directory with all that is in it, however deep it goes: Python's own way recurses, and ends at a thousand."""
    try:
        shutil.rmtree(directory, ignore_errors=True)
    except RecursionError:
        subprocess.run(["rm", "-rf", "--", os.path.abspath(directory)], check=False, stderr=subprocess.DEVNULL)


def unpack(archive: Path, directory: Path) -> None:
    """Lay the run's files as they were. The archive must have been verified: it is extracted as it says."""
    with _ExactTar.open(archive) as tar:
        own = [member for member in tar if not member.name.startswith(f"{SHM}/")]
        tar.extractall(directory, own, numeric_owner=True)


def unpack_shared(archive: Path, into: Path = SHARED) -> None:
    """Lay the shared memory that was packed. For a place where nothing else is."""
    with _ExactTar.open(archive) as tar:
        tar.extractall(into, _shared_members(tar), numeric_owner=True)


def shared_memory(pids: Iterable[int], *, place: Path = SHARED, is_private: bool = False) -> list[Path]:
    """What is in `/dev/shm` for these processes: all of it if it is theirs alone, else what they have open or mapped.

    Under all its names, those included that CRIU has made for what was mapped under a name that is gone.
    """
    try:
        entries = list(os.scandir(place))
    except FileNotFoundError:
        return []
    if is_private or not entries:
        return sorted(Path(entry.path) for entry in entries)
    used = _used(pids, os.stat(place).st_dev)
    return sorted(Path(entry.path) for entry in entries if entry.inode() in used)


def release_shared(paths: Iterable[Path], *, since: float) -> None:
    """The processes that had these in the machine's `/dev/shm` are gone, and live on elsewhere: take their memory back.

    Only what was made after `since` (wall time), when the run began, and what nobody else has: it may belong to others.
    """
    made = {path: status for path in paths if (status := _status(path)) and _made_since(path, since)}
    if made:
        used = _used(map(int, filter(str.isdigit, os.listdir("/proc"))), next(iter(made.values())).st_dev)
        for path, status in made.items():
            if status.st_ino not in used:
                path.unlink(missing_ok=True)


def drop_link_remaps(directory: Path, shared: Iterable[Path], *, since: float) -> None:
    """Remove the names that a dump has made for files whose own are gone; what it was for goes on under none again.

    CRIU does so itself when a dump fails and when it restores one, but not when a stopped tree is let run.
    """
    places = [place for name in PRIVATE for place, _, _ in os.walk(directory / name)]
    made = [Path(place, name) for place in places for name in os.listdir(place) if _LINK_REMAP.fullmatch(name)]
    for path in [*made, *(path for path in shared if _LINK_REMAP.fullmatch(path.name))]:
        status = _status(path)
        if status is not None and status.st_ctime >= since - 0.1:  # a new name is a change of the inode
            path.unlink(missing_ok=True)


def sweep_link_remaps(older_than: float) -> None:
    """Remove those that a worker has left in `/dev/shm` when it died: a dump that wants the same name would fail."""
    for path in _link_remaps():
        if (status := _status(path)) and status.st_ctime < older_than:
            path.unlink(missing_ok=True)


def sweep_unused_link_remaps(*, since: float) -> None:
    """The same for those made since then that no process has open or mapped: their dump is over, whatever became of it. While
    a dump is under way its process has them, and it has until they are packed.
    """
    made = {path: status for path in _link_remaps() if (status := _status(path)) and status.st_ctime >= since}
    if made:
        used = _used(map(int, filter(str.isdigit, os.listdir("/proc"))), next(iter(made.values())).st_dev)
        for path, status in made.items():
            if status.st_ino not in used:
                path.unlink(missing_ok=True)


def _link_remaps() -> list[Path]:
    try:
        return [path for path in SHARED.iterdir() if _LINK_REMAP.fullmatch(path.name)]
    except FileNotFoundError:
        return []


def _shared_members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in tar:
        if not member.name.startswith(f"{SHM}/"):
            return
        member.name = member.name.removeprefix(f"{SHM}/")
        if member.islnk():
            member.linkname = member.linkname.removeprefix(f"{SHM}/")
        yield member


def _used(pids: Iterable[int], device: int) -> set[int]:
    """Inodes on that device which these processes have open or mapped."""
    mapped_on = f"{os.major(device):02x}:{os.minor(device):02x}"
    found: set[int] = set()
    for pid in pids:
        with contextlib.suppress(OSError):  # it has just ended
            for line in Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines():
                _, _, _, on, inode, *_ = line.split(maxsplit=5)
                if on == mapped_on:
                    found.add(int(inode))
            for descriptor in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    status = os.stat(f"/proc/{pid}/fd/{descriptor}")
                    if status.st_dev == device:
                        found.add(status.st_ino)
    return found


def _made_since(path: Path, since: float) -> bool:
    made_at = namespaces.birth_time(os.fspath(path))
    return made_at is not None and made_at >= since


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except FileNotFoundError:
        return None


def _exactly(roots: dict[str, Path]) -> Callable[[tarfile.TarInfo], tarfile.TarInfo]:
    """Note what tarfile by itself leaves out, or rounds: times to the nanosecond, extended attributes."""

    def note(member: tarfile.TarInfo) -> tarfile.TarInfo:
        root, _, rest = member.name.partition("/")
        path = roots[root] / rest
        status = path.lstat()
        told = {"mtime": _seconds(status.st_mtime_ns), "atime": _seconds(status.st_atime_ns)}
        member.pax_headers = {**member.pax_headers, **told, **_attributes(path)}
        return member

    return note


def _seconds(nanoseconds: int) -> str:
    whole, rest = divmod(abs(nanoseconds), 10**9)
    return f"{'-' if nanoseconds < 0 else ''}{whole}.{rest:09d}"


def _attributes(path: Path) -> dict[str, str]:
    """Extended attributes, POSIX access lists and capabilities among them. As text, since names and values may be any bytes;
    a name may also hold what would end it in a header.
    """
    if not hasattr(os, "listxattr") or path.is_symlink():
        return {}
    try:
        names = os.listxattr(path)
        return {_header(name): base64.b64encode(os.getxattr(path, name)).decode() for name in names}
    except OSError:
        return {}  # this file system has none


def _header(attribute: str) -> str:
    return _XATTR + quote_from_bytes(os.fsencode(attribute), safe="")


class _ExactTar(tarfile.TarFile):
    @staticmethod
    def extraction_filter(member: tarfile.TarInfo, path: str, /) -> tarfile.TarInfo:
        """Everything as it says. An argument of `extractall` would be shorter, but Debian 12's Python 3.11.2 has none."""
        return member

    def addfile(self, tarinfo: tarfile.TarInfo, fileobj: Any = None) -> None:
        """Of a file with holes only what is between them, as GNU tar does it (`--sparse`, format 1.0)."""
        if fileobj is not None and tarinfo.isreg() and (pieces := _pieces(fileobj, tarinfo.size)) is not None:
            numbers = [len(pieces), *(number for piece in pieces for number in piece)]
            table = "".join(f"{number}\n" for number in numbers).encode()
            table += bytes(-len(table) % tarfile.BLOCKSIZE)
            told = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": tarinfo.name}
            told["GNU.sparse.realsize"] = str(tarinfo.size)
            tarinfo.pax_headers = {**tarinfo.pax_headers, **told}
            tarinfo.size = len(table) + sum(size for _, size in pieces)
            fileobj = io.BufferedReader(_Pieces(table, fileobj, pieces), 1 << 16)
        super().addfile(tarinfo, fileobj)

    def utime(self, tarinfo: tarfile.TarInfo, targetpath: Any) -> None:
        """The last that is done to a file or directory."""
        for name, value in tarinfo.pax_headers.items():
            if name.startswith(_XATTR):
                with contextlib.suppress(OSError):  # this file system has none, or not of this kind
                    os.setxattr(targetpath, unquote_to_bytes(name.removeprefix(_XATTR)), base64.b64decode(value))
        os.utime(targetpath, ns=_times(tarinfo))

    def makelink(self, tarinfo: tarfile.TarInfo, targetpath: Any) -> None:
        super().makelink(tarinfo, targetpath)
        if tarinfo.issym():
            os.utime(targetpath, ns=_times(tarinfo), follow_symlinks=False)


def _times(member: tarfile.TarInfo) -> tuple[int, int]:
    told = member.pax_headers.get("mtime")
    changed = int(Decimal(told) * 10**9) if told else int(member.mtime) * 10**9
    read = member.pax_headers.get("atime")
    return int(Decimal(read) * 10**9) if read else changed, changed


def _pieces(file: Any, size: int) -> list[tuple[int, int]] | None:
    """Offset and length of everything between the holes of a file; None if it has none."""
    if os.fstat(file.fileno()).st_blocks * 512 >= size:
        return None
    found: list[tuple[int, int]] = []
    at = 0
    try:
        while at < size:
            begin = os.lseek(file.fileno(), at, os.SEEK_DATA)
            at = min(os.lseek(file.fileno(), begin, os.SEEK_HOLE), size)
            found.append((begin, at - begin))
    except OSError as error:
        if error.errno != errno.ENXIO:  # nothing but a hole up to the end
            return None
    finally:
        os.lseek(file.fileno(), 0, os.SEEK_SET)
    # The last one says where the file ends.
    return None if found == [(0, size)] else [*found, (size, 0)]


class _Pieces(io.RawIOBase):
    """The table of a sparse file, and then its pieces, as one stream."""

    def __init__(self, table: bytes, file: Any, pieces: list[tuple[int, int]]) -> None:
        self._table = table
        self._file = file
        self._left = deque(pieces)  # a file can have millions of them

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if self._table:
            data, self._table = self._table[: len(buffer)], self._table[len(buffer) :]
        else:
            while self._left and self._left[0][1] == 0:
                self._left.popleft()
            if not self._left:
                return 0
            at, size = self._left.popleft()
            data = os.pread(self._file.fileno(), min(size, len(buffer)), at)
            self._left.appendleft((at + len(data), size - len(data)))
            if not data:
                raise OSError(errno.EIO, "a file became shorter while it was packed")
        buffer[: len(data)] = data
        return len(data)
