"""The official npm client, unchanged: keys and public tokens as a back end and a page use them.

It is installed once into the user's cache, by a lock that has the hashes of all packages. Without node these tests are
skipped; in CI that is a failure.
"""

import asyncio
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from fake_worker import KEY, FakeWorker

from torpor.sdk.client import AsyncClient

pytestmark = pytest.mark.anyio

NPM = Path(__file__).parent / "npm"


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """The installed packages."""
    if not (shutil.which("node") and shutil.which("npm")):
        if os.environ.get("CI"):
            pytest.fail("in CI node and npm are required")
        pytest.skip("node and npm are not installed")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torpor" / "npm"
    lock = (NPM / "package-lock.json").read_bytes()
    home = cache / hashlib.sha256(lock).hexdigest()[:16]
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / "lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not home.exists():
            _install(cache / "new")
            (cache / "new").rename(home)
    return home / "node_modules"


def _install(into: Path) -> None:
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir()
    for name in ("package.json", "package-lock.json"):
        shutil.copy(NPM / name, into)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=into, capture_output=True, text=True, timeout=300)
    if done.returncode:
        told = f"npm could not install the official client: {done.stderr[-2000:]}"
        if os.environ.get("CI"):
            pytest.fail(told)
        pytest.skip(told)


async def node(program: str, node_modules: Path, directory: Path, **environment: str) -> str:
    """What the program prints. It is copied beside the packages, since node looks for them there."""
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
    printed, complaints = await asyncio.wait_for(process.communicate(), 90)
    assert process.returncode == 0, complaints.decode()
    return printed.decode()


@pytest.mark.timeout(400)
async def test_the_official_client_makes_and_uses_public_tokens(
    client: AsyncClient, worker: FakeWorker, node_modules: Path, tmp_path: Path
) -> None:
    scopes = ["trigger:tasks:echo", "read:runs"]
    scoped = await client.create_key("a service", scopes=scopes)
    url = client._target.url
    printed = await node(
        "tokens.mjs", node_modules, tmp_path, TRIGGER_API_URL=url, TRIGGER_SECRET_KEY=KEY, SCOPED_KEY=scoped["key"]
    )
    assert json.loads(printed) == {
        "read": {"n": 1},
        "readWithTheReplysToken": True,
        "readAnother": 403,
        "triggerWithIt": 403,
        "expired": 401,
        "triggered": {"from": "a page"},
        "triggeredTwice": 422,
        "triggeredAnother": 403,
        "triggeredOften": [200, 200],
        "batch": 2,
        "batchTwice": 422,
        "completeAnother": 403,
        "complete": {"success": True},
        "completed": {"approved": True},
        "scoped": {"by": "a scoped key"},
        "minted": True,
        "mintedTooMuch": 403,
        "mintedToTrigger": 200,
    }
