"""The shop that several examples drive: `torpor dev`, as a user starts it."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from stack import eventually

from torpor.cli.project import DevState, read_state
from torpor.errors import TorporError
from torpor.sdk.client import Client

COMES_UP_S = 180.0
"""Database, server and worker, and the look for a CRIU: ten seconds on an idle machine."""
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="session")
def shop() -> Iterator[DevState]:
    """A `torpor dev` on a copy of the shop, with its task."""
    directory = Path(tempfile.mkdtemp(prefix="torpor-test-shop-"))
    directory.chmod(0o755)  # the database's own user must be able to pass
    project = directory / "shop"
    shutil.copytree(EXAMPLES / "shop", project, ignore=shutil.ignore_patterns(".torpor", "__pycache__"))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TORPOR_", "TRIGGER_"))}
    log = directory / "dev.log"
    with log.open("wb") as output:
        dev = subprocess.Popen(
            [sys.executable, "-P", "-m", "torpor", "dev", str(project), "--port", "0"],
            env=kept | {"XDG_STATE_HOME": str(directory / "state"), "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        state = eventually(lambda: read_state(project / ".torpor"), what="the server's address", patience_s=COMES_UP_S)
        with Client(state.url, state.secret_key) as client:
            eventually(lambda: _tasks(client), what="a version with tasks", patience_s=COMES_UP_S)
        yield state
    finally:
        print(log.read_text(errors="replace"))  # shown when a test failed
        dev.terminate()
        dev.wait(60)
        shutil.rmtree(directory, ignore_errors=True)


def _tasks(client: Client) -> list[dict[str, object]]:
    try:
        return client.tasks()
    except TorporError:
        return []  # it isn't up yet
