"""The example with two sides: a Node and a Python program drive a task of `torpor dev`, which is frozen while a person thinks."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from npm_packages import installed
from stack import eventually

from torpor.cli.project import DevState
from torpor.sdk.client import Client

pytestmark = [pytest.mark.criu, pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.parametrize("language", ["python", "node"])
@pytest.mark.timeout(400)
def test_an_order_is_frozen_until_somebody_answers(shop: DevState, language: str, tmp_path: Path) -> None:
    if language == "python":
        command = [sys.executable, str(EXAMPLES / "from_python" / "order.py")]
        environment = {"TORPOR_API_URL": shop.url, "TORPOR_SECRET_KEY": shop.secret_key}
    else:
        (tmp_path / "node_modules").symlink_to(installed("newest"))
        command = ["node", str(shutil.copy(EXAMPLES / "from_node" / "order.mjs", tmp_path))]
        environment = {"TRIGGER_API_URL": shop.url, "TRIGGER_SECRET_KEY": shop.secret_key}
    program = subprocess.Popen(
        command,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with program, Client(shop.url, shop.secret_key) as client:
        assert program.stdin is not None
        assert program.stdout is not None
        run_id = program.stdout.readline().split()[0]
        said = ""
        while not said.endswith("[y/n] "):
            said += program.stdout.read(1) or pytest.fail(f"it ended early: {said}")
        assert "WAITING packed" in said
        eventually(lambda: "run.suspended" in kinds(client, run_id), what="the run is frozen")
        eventually(lambda: not has_process(run_id), what="its process is gone")
        program.stdin.write("y\n")
        program.stdin.flush()
        last = program.stdout.read()
        assert program.wait() == 0
        assert "run.resumed" in kinds(client, run_id)
        assert client.run(run_id)["output"] == {"item": "lamp", "price": 14, "shipped": True, "confirmed_by": language}
    assert "COMPLETED shipped" in last
    assert language in last.splitlines()[-1], "the output is told last"


def kinds(client: Client, run_id: str) -> list[str]:
    return [event["kind"] for event in client.story(run_id)]


def has_process(run_id: str) -> bool:
    """Whether a process has the run in its title."""
    return subprocess.run(["pgrep", "-f", f"^torpor run .*{run_id}"], stdout=subprocess.DEVNULL).returncode == 0
