"""D5: environment variables on their way to a run: at its start, at the import, and after a freeze."""

import json
import os
from pathlib import Path

import pytest
from stack import Stack, StackMaker, eventually

pytestmark = pytest.mark.criu

SECRETS = ["sk-live-first-0123456789", "sk-live-second-0123456789"]

SOURCE = """
import os
from torpor import task, wait

NEEDED = os.environ["NEEDED"]
NAMES = ("SHOP_KEY", "ZONE", "GONE", "OWN", "OWN_BUT_CHANGED", "NEW")
AT_IMPORT = len(os.environ.get("SHOP_KEY", ""))

def seen():
    found = {name: os.environ[name] for name in NAMES if name in os.environ}
    # What a run returns is its own to keep secret.
    return {"AT_IMPORT": AT_IMPORT, "SHOP_KEY": len(found.pop("SHOP_KEY", "")), **found}

@task
async def looks(token_id: str | None = None):
    before = seen()
    if token_id is None:
        return before
    os.environ["OWN"] = os.environ["OWN_BUT_CHANGED"] = "mine"
    await wait.for_token(token_id)
    return [before, seen()]
"""


def project(directory: Path) -> Path:
    root = directory / "project"
    root.mkdir()
    (root / "tasks.py").write_text(SOURCE)
    return root


def test_a_run_has_them_when_it_starts_and_as_they_are_when_it_comes_back(
    make_stack: StackMaker, tmp_path: Path
) -> None:
    first, second = SECRETS
    stack = make_stack(project(tmp_path), ZONE="the worker's")
    stack.start_server()
    stack.launch_worker()
    eventually(lambda: "KeyError: 'NEEDED'" in stack.worker_log(), what="the import fails")
    stack.client.set_variable("NEEDED", "")
    stack.await_version()
    assert stack.output(stack.trigger("looks")) == {"AT_IMPORT": 0, "SHOP_KEY": 0, "ZONE": "the worker's"}
    stack.client.set_variable("SHOP_KEY", first, secret=True)
    stack.client.import_variables({"ZONE": "eu", "GONE": "here", "OWN": "theirs", "OWN_BUT_CHANGED": "theirs"})
    token = stack.client.create_token()["id"]
    run_id = stack.trigger("looks", token)
    stack.await_event(run_id, "run.suspended")
    assert_nothing_tells_them(stack, run_id)
    stack.client.set_variable("SHOP_KEY", second)
    stack.client.import_variables({"OWN_BUT_CHANGED": "changed", "NEW": "new"}, override=True)
    stack.client.unset_variable("GONE")
    stack.client.unset_variable("ZONE")
    stack.client.complete_token(token)
    given = {"ZONE": "eu", "GONE": "here", "OWN": "theirs", "OWN_BUT_CHANGED": "theirs"}
    assert stack.output(run_id) == [
        {"AT_IMPORT": len(first), "SHOP_KEY": len(first), **given},
        {
            "AT_IMPORT": len(first),
            "SHOP_KEY": len(second),
            "ZONE": "the worker's",
            "OWN": "mine",
            "OWN_BUT_CHANGED": "changed",
            "NEW": "new",
        },
    ], "what has changed at the server counts; what only the run has changed stays"
    now = {"ZONE": "the worker's", "OWN": "theirs", "OWN_BUT_CHANGED": "changed", "NEW": "new"}
    assert stack.output(stack.trigger("looks")) == {"AT_IMPORT": len(second), "SHOP_KEY": len(second), **now}
    stack.client.unset_variable("NEEDED")
    stack.client.set_variable("SHOP_KEY", "third")
    told = {"AT_IMPORT": len(second), "SHOP_KEY": len("third"), **now}
    assert stack.output(stack.trigger("looks")) == told, "it can't be imported any more, and what was imported goes on"
    assert_nothing_tells_them(stack, run_id)


def assert_nothing_tells_them(stack: Stack, run_id: str) -> None:
    """No log, no story and no file, such as the images, which are sealed."""
    told = [json.dumps([*stack.client.story(run_id)]), json.dumps(stack.run(run_id))]
    files = [Path(place, name) for place, _, names in os.walk(stack.directory) for name in names]
    assert {"server.log", "worker.log"} <= {each.name for each in files}
    for secret in SECRETS:
        assert not [each for each in told if secret in each]
        assert not [str(each) for each in files if secret.encode() in content(each)]


def content(file: Path) -> bytes:
    """Nothing of what is no file, or has just been removed: runs come and go."""
    try:
        return file.read_bytes() if file.is_file() and not file.is_symlink() else b""
    except FileNotFoundError:
        return b""
