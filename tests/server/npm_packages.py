"""npm packages for tests, and node to run programs on them.

Each set is a lock in `npm/` that has the hashes of all packages and no address; it is installed once into the user's cache.
Without node a test is skipped; in CI that is a failure, and `bin/setup dev` installs what is missing.
"""

import asyncio
import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest
from facts import PROGRAM_S

NPM = Path(__file__).parent / "npm"


def installed(name: str) -> Path:
    """The `node_modules` of the set with this name: `newest` or `year_old`."""
    if not (shutil.which("node") and shutil.which("npm")):
        missing("node and npm are not installed")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torpor" / "npm"
    lock = (NPM / name / "package-lock.json").read_bytes()
    home = cache / hashlib.sha256(lock).hexdigest()[:16]
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / "lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not home.exists():
            _install(name, cache / "new")
            (cache / "new").rename(home)
    return home / "node_modules"


def _install(name: str, into: Path) -> None:
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir()
    for file in ("package.json", "package-lock.json"):
        shutil.copy(NPM / name / file, into)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=into, capture_output=True, text=True, timeout=300)
    if done.returncode:
        missing(f"npm could not install the packages of {name}: {done.stderr[-2000:]}")


def missing(what: str) -> NoReturn:
    """Skip this test for want of something, which in CI is promised to be there."""
    if os.environ.get("CI"):
        pytest.fail(f"in CI this is required: {what}")
    pytest.skip(what)


async def node(program: str, node_modules: Path, directory: Path, **environment: str) -> str:
    """What a program of `npm/` prints. It is copied beside the packages, since node looks for them there."""
    shutil.copy(NPM / program, directory)
    (directory / "node_modules").symlink_to(node_modules)
    process = await asyncio.create_subprocess_exec(
        "node",
        program,
        cwd=directory,
        env={"PATH": os.environ["PATH"], "HOME": str(directory), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        printed, complaints = await asyncio.wait_for(process.communicate(), PROGRAM_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, complaints.decode()
    return printed.decode()
