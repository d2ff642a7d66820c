"""Whether an image can be restored on this machine, and why not: facts of a machine, what an image records, the comparison.

An image holds what was mapped privately and changed. The rest (the interpreter, libraries) is files that must be there again,
equal to the byte; code in memory was chosen for a CPU; CRIU's own files have a version. Each can differ on another machine.
CRIU finds some of it half-way through, and some never: a lesser CPU shows itself by a crash in the middle of user code.

    look()          this machine: a `Machine`, once at start-up; `.facts()` go into each image, `.digest` to the engine
    mapped_files()  at a dump: which files the tree has mapped, with size and build id; recorded with the image
    why_unfit()     before a restore: the first thing that stands in the way, in words

What is asked for is what was seen to matter, no more: an image that is refused for nothing waits for a machine that need not
come. So kernels aren't compared by their numbers (CRIU was tried here, by a real dump and restore, before there are any images),
nor packages of pure Python, whose code is in the image already.
"""

import os
import platform
import re
import struct
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from blake3 import blake3

from torpor.worker import cpu
from torpor.worker.trust import Trust

_DIGEST_LENGTH = 16
_SHOWN = 4


@dataclass(frozen=True)
class Machine:
    """What images are compared with.

    Attributes:
        instructions: what the CPU has.
        baseline: what images made here need of it: a level, or None for all of them.
        executable: path, size and build id of the interpreter.
        packages: digest of what is installed beside it, this package's own code included.
        trust: how far the code of images is trusted here.
        makes_rooms: runs that were in a room can be in one here.
        wants_rooms: runs that were in none can't be here.
    """

    arch: str
    instructions: frozenset[str]
    baseline: str | None
    has_time_namespaces: bool
    criu: str | None
    python: str
    executable: tuple[str, int, str]
    libc: str
    packages: str
    trust: Trust = Trust.OWN
    makes_rooms: bool = False
    wants_rooms: bool = False

    def facts(self) -> dict[str, Any]:
        """For images made here: what they will need, and what explains it."""
        return {
            "arch": self.arch,
            "cpu": sorted(cpu.needed(self.baseline)),
            "cpu_baseline": self.baseline,
            "time_namespaces": self.has_time_namespaces,
            "criu": self.criu,
            "python": self.python,
            "executable": list(self.executable),
            "libc": self.libc,
            "packages": self.packages,
            "trust": self.trust.value,
        }

    @cached_property
    def digest(self) -> str:
        """Two machines with the same one refuse the same images."""
        told = [self.arch, sorted(self.instructions), self.has_time_namespaces, self.criu, self.executable]
        told += [self.makes_rooms, self.wants_rooms, self.trust.value]
        return blake3(repr([*told, self.libc, self.packages, sys.prefix]).encode()).hexdigest()[:_DIGEST_LENGTH]


def look(
    criu: str | None, baseline: str | None = None, *, makes_rooms: bool = False, wants_rooms: bool = False
) -> Machine:
    """This machine, with the CRIU of this version. Reads some hundred small files."""
    executable = os.path.realpath(sys.executable)
    size, build_id = _identity(executable) or (0, "")
    return Machine(
        arch=platform.machine(),
        instructions=cpu.here(),
        baseline=baseline,
        has_time_namespaces=os.path.exists("/proc/self/ns/time"),
        criu=criu,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        executable=(executable, size, build_id),
        libc=" ".join(platform.libc_ver()),
        packages=_packages(),
        makes_rooms=makes_rooms,
        wants_rooms=wants_rooms,
    )


def _packages() -> str:
    """Equal where the same distributions are installed, file by file: each has a RECORD of its files' hashes."""
    digest = blake3()
    installed = {each.metadata["Name"] or "": each for each in metadata.distributions()}
    for name, each in sorted(installed.items()):
        digest.update(f"{name} {each.version}\n{each.read_text('RECORD') or ''}\n".encode())
    own = Path(__file__).parent.parent
    for source in sorted(own.rglob("*.py")):  # an editable installation has no RECORD that tells
        digest.update(str(source.relative_to(own)).encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()[:_DIGEST_LENGTH]


# -- files -------------------------------------------------------------------------------------------------------------


def mapped_files(
    pids: Iterable[int], *, without: Path, root: Path | None = None, device: int | None = None
) -> dict[str, list[Any]]:
    """Every file that these processes have mapped and that must be there again: its path, size and build id.

    Args:
        pids: a process tree that stands still.
        without: a directory whose files travel with the image.
        root: their root directory, in which the machine's files are where they are on the machine.
        device: all files on it travel with the image.
    """
    own = None if device is None else f"{os.major(device):02x}:{os.minor(device):02x}"
    paths: set[str] = set()
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape").splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        # What is deleted, or in memory only, CRIU takes along. The kernel writes a newline in a name as \012.
        fields = (line.split(None, 5) for line in lines)
        named = (each for each in fields if len(each) == 6 and each[4] != "0" and each[3] != own)
        paths.update(each[5].replace("\\012", "\n") for each in named)
    inside = f"{without}/"
    found: dict[str, list[Any]] = {}
    if root is not None:  # what was mapped before the process went in there has the same path, without this
        paths = {path.removeprefix(str(root)) for path in paths}
    for path in sorted(paths):
        if path.startswith((inside, "/dev/", "/proc/", "/memfd:", "/SYSV")) or not path.startswith("/"):
            continue
        if identity := _identity(path):
            found[path] = list(identity)
    return found


def _identity(path: str) -> tuple[int, str] | None:
    """Size and build id of a file; None where there is no such file."""
    try:
        status = os.stat(path)
        return status.st_size, _build_id(path, status.st_size, status.st_mtime_ns, status.st_ino)
    except OSError:
        return None


@lru_cache(maxsize=4096)
def _build_id(path: str, size: int, mtime_ns: int, inode: int) -> str:
    """The id that the linker gave an ELF file; empty when it has none. By size and times a file is known to be the same."""
    with open(path, "rb") as file:
        header = file.read(64)
        if header[:5] != b"\x7fELF\x02":  # 64 bits, as all that CRIU knows
            return ""
        order = "<" if header[5] == 1 else ">"
        start, entry_size, entries = struct.unpack_from(f"{order}32xQ14xHH", header)
        file.seek(start)
        table = file.read(entry_size * entries)
        for number in range(entries):
            kind, offset, length = struct.unpack_from(f"{order}I4xQ16xQ", table, number * entry_size)
            if kind == 4:  # PT_NOTE
                file.seek(offset)
                if found := _gnu_build_id(file.read(min(length, 1 << 16)), order):
                    return found
    return ""


def _gnu_build_id(notes: bytes, order: str) -> str:
    at = 0
    while at + 12 <= len(notes):
        name_length, length, kind = struct.unpack_from(f"{order}III", notes, at)
        name, at = notes[at + 12 : at + 12 + name_length], at + 12 + -(-name_length // 4) * 4
        if kind == 3 and name == b"GNU\0":
            return notes[at : at + length].hex()
        at += -(-length // 4) * 4
    return ""


# -- the comparison ----------------------------------------------------------------------------------------------------


def why_unfit(facts: Mapping[str, Any], ours: Machine) -> str | None:
    """The first reason not to restore an image here; None if there is none.

    Args:
        facts: those recorded with it: `Machine.facts()`, and `files` from `mapped_files`. What is not told is not compared.
        ours: this machine.
    """
    if ours.trust is Trust.FOREIGN and facts.get("trust") != Trust.FOREIGN:
        return "its code was imported with privileges (trust: own), and this worker gives none to it (trust: foreign)"
    if (arch := facts.get("arch", ours.arch)) != ours.arch:
        return f"it was made on {arch}, and this machine is {ours.arch}"
    if "room" in facts and not ours.makes_rooms:
        return "it was made in a room of its own, and there are none here (docs/self-hosting.md, isolation)"
    if "room" not in facts and ours.wants_rooms:
        return "it was made without a room of its own, and here runs have one (TORPOR_ISOLATION=off would let it run as it did)"
    if missing := sorted(set(facts.get("cpu", ())) - ours.instructions):
        shown = ", ".join(missing[:_SHOWN]) + (f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else "")
        return f"it may use instructions that this CPU lacks: {shown} (TORPOR_CPU_BASELINE makes images that need less)"
    if facts.get("time_namespaces") and not ours.has_time_namespaces:
        return f"its clocks need time namespaces, which this kernel ({platform.release()}) lacks"
    theirs = facts.get("criu")
    if theirs and ours.criu and _release(theirs) > _release(ours.criu):
        return f"it was made with CRIU {theirs}, and the one here is older: {ours.criu}"
    if (reason := _other_python(facts, ours)) is not None:
        return reason
    for path, (size, build_id) in facts.get("files", {}).items():
        if (reason := _other_file(path, size, build_id)) is not None:
            return f"{path} {reason}"
    return None


def _release(version: str) -> list[int]:
    """Of CRIU: its files change with the first two numbers."""
    return [int(number) for number in re.findall(r"\d+", version)[:2]]


def _other_python(facts: Mapping[str, Any], ours: Machine) -> str | None:
    """Told first and by its name: a list of libraries would only hide it."""
    path, *_ = told = tuple(facts.get("executable", ours.executable))
    if path == ours.executable[0] and told != ours.executable:
        python = facts.get("python", "Python")
        return f"{path} was {python} of another build: here it is {ours.python}"
    if _identity(path) is None:
        return f"its interpreter {path} is not there: ours is {ours.executable[0]}"
    return None


def _other_file(path: str, size: int, build_id: str) -> str | None:
    found = _identity(path)
    if found is None:
        return "is not there"
    if found[0] != size:
        return f"has {found[0]} bytes, where it had {size}"
    if build_id and found[1] != build_id:
        return f"is of another build ({found[1][:8] or 'without an id'}, where it was {build_id[:8]})"
    return None
