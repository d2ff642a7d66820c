"""Install a CRIU of our own beside the system, without touching it: nothing is configured, no package is replaced.

Debian's stable releases carry a CRIU that is older than today's kernels, but the next release has one that works. An apt
which believes that nothing is installed fetches it with everything it needs, its own libc included; the packages are
unpacked into a prefix, and CRIU is run through that libc's own loader.
"""

import asyncio
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from torpor.errors import CriuError
from torpor.worker.apt_sources import Source, debian_archive

_SUITES = ("forky", "sid")
_APT_TIMEOUT_S = 300.0
_ABANDONED_AFTER_S = 3600.0
_LOADERS = ("ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1")


def cache_directory() -> Path:
    """Where private CRIUs live: one for all checkouts of this user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torpor"


def installed(prefix: Path | None = None) -> tuple[str, ...] | None:
    """How to start the private CRIU; None when there is none. Without a prefix, the newest in the user's cache."""
    candidates = [prefix] if prefix else sorted(cache_directory().glob("criu-*"), key=_by_version, reverse=True)
    return next((command for candidate in candidates if (command := command_in(candidate))), None)


def command_in(prefix: Path) -> tuple[str, ...] | None:
    """How to start the CRIU that was unpacked into `prefix`: through the loader and the libraries beside it.

    A wrapper script would be shorter to call, but a shell drops privileges that CRIU was given by its caller.
    """
    for folder in ("usr/lib64", "usr/lib", "lib64", "lib"):
        for loader in _LOADERS:
            if (path := prefix / folder / loader).exists():
                libraries = sorted((prefix / "usr/lib").glob("*-linux-gnu"))
                binary = prefix / "usr/sbin/criu"
                if libraries and binary.exists():
                    return (str(path), "--library-path", str(libraries[0]), str(binary))
    return None


async def install(prefix: Path | None, report: Callable[[str], None]) -> tuple[str, ...]:
    """Fetch CRIU from the machine's own Debian mirror and unpack it; the prefix appears whole or not at all.

    A private CRIU of this version that is in the cache already is replaced, for whoever calls this found it damaged. A
    prefix that somebody has named is never emptied: who knows what else is in it.

    Args:
        prefix: where to; by default `criu-<version>` in the user's cache.
        report: is told, in a sentence each, what is being done.

    Returns:
        How to start it. Whether it works here is for a proof to say.

    Raises:
        CriuError: it could not be fetched or unpacked.
    """
    missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
    if missing:
        raise CriuError(f"CRIU is installed from Debian packages, and this machine has no {' or '.join(missing)}")
    source = debian_archive()
    if source is None:
        raise CriuError("no Debian archive is among this machine's apt sources")
    parent = prefix.parent if prefix else cache_directory()
    parent.mkdir(parents=True, exist_ok=True)
    _sweep(parent)
    damaged = set() if prefix else set(parent.glob("criu-*"))
    # Beside the prefix, so that the last step is a rename within one file system.
    with tempfile.TemporaryDirectory(prefix=".criu-", dir=parent) as work:
        packages = await _fetch(source, Path(work), report)
        unpacked = Path(work) / "root"
        report(f"Unpacking {len(packages)} packages")
        for package in packages:
            await _run("dpkg-deb", "-x", str(package), str(unpacked))
        if command_in(unpacked) is None:
            raise CriuError("the packages hold no criu with a loader for this kind of processor")
        prefix = prefix or parent / f"criu-{_version(packages)}"
        try:
            # What came up meanwhile is another set-up's, as fresh as ours, and may be in use already.
            if prefix in damaged:
                prefix.rename(Path(work) / "former")
            unpacked.rename(prefix)
        except OSError as error:
            if command_in(prefix) is None:
                raise CriuError(f"CRIU can't be put into {prefix}: {error.strerror}") from error
    command = command_in(prefix)
    assert command is not None
    return command


def _sweep(parent: Path) -> None:
    """Remove what set-ups that were killed have left; those that still go on are younger."""
    for work in parent.glob(".criu-*"):
        with suppress(OSError):
            if time.time() - work.stat().st_mtime > _ABANDONED_AFTER_S:
                shutil.rmtree(work)


async def _fetch(source: Source, work: Path, report: Callable[[str], None]) -> list[Path]:
    """Download criu and all that it needs from the first suite that has it."""
    for folder in ("state/lists/partial", "cache/archives/partial", "root", "parts"):
        (work / folder).mkdir(parents=True)
    (work / "status").touch()  # An empty list of installed packages makes apt fetch the whole closure.
    listed = work / "sources.list"
    apt = (
        *("apt-get", "-q", "-y"),
        *("-o", f"Dir::Etc::sourcelist={listed}", "-o", f"Dir::Etc::sourceparts={work / 'parts'}"),
        *("-o", f"Dir::Etc::preferencesparts={work / 'parts'}", "-o", "Dir::Etc::preferences=/dev/null"),
        *("-o", f"Dir::State={work / 'state'}", "-o", f"Dir::State::status={work / 'status'}"),
        *("-o", f"Dir::Cache={work / 'cache'}", "-o", "APT::Install-Recommends=false"),
        *("-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=1", "-o", "APT::Update::Error-Mode=any"),
    )
    for suite in _SUITES:
        report(f"Fetching CRIU from the Debian archive ({suite})")
        listed.write_text(source.line(suite))
        try:
            await _run(*apt, "update")
            await _run(*apt, "--download-only", "install", "criu")
        except CriuError:
            if suite == _SUITES[-1]:
                raise
            continue
        return sorted((work / "cache/archives").glob("*.deb"))
    raise AssertionError("the last suite either returns or raises")


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
    )
    try:
        async with asyncio.timeout(_APT_TIMEOUT_S):
            output, _ = await process.communicate()
    except BaseException as error:
        # Also when we are interrupted: nothing may write into a folder that is being removed.
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        if isinstance(error, TimeoutError):
            raise CriuError(f"{command[0]} did not end within {_APT_TIMEOUT_S:g} s") from None
        raise
    if process.returncode != 0:
        lines = output.decode(errors="replace").strip().splitlines() or ["it does not say why"]
        told = next((line for line in lines if line.startswith("E:")), lines[-1])
        raise CriuError(f"{command[0]} failed: {told}", "\n".join(lines[-20:]))


def _version(packages: list[Path]) -> str:
    """The upstream version, from the name criu_4.2.1-1_amd64.deb."""
    name = next(package.name for package in packages if package.name.startswith("criu_"))
    return name.split("_")[1].split("-")[0].rpartition("%3a")[2]


def _by_version(prefix: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", prefix.name)]
