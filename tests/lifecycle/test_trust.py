"""Code of others: what it may do while it is imported, how its runs start, and what it can't spoil."""

import json
from pathlib import Path
from typing import Any

import pytest
from stack import Stack, StackMaker

pytestmark = pytest.mark.criu

LOOKS = """
import os, sys, threading
from torpor import task, wait

{extra}
SEEN = {{
    "uid": os.getresuid(),
    "pid": os.getpid(),
    "secret": os.environ.get("AWS_SECRET_ACCESS_KEY"),
    "named": os.environ.get("SHOP_NAME"),
    "settings": [name for name in os.environ if name.startswith("TORPOR_")],
    "modules": sys.path[0],
    "status": dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line),
}}

@task
async def seen(token_id: str | None = None):
    before = SEEN
    if token_id is not None:
        await wait.for_token(token_id)
    return {{**SEEN, "same": before is SEEN, "named_now": os.environ.get("SHOP_NAME"), "threads": threading.active_count()}}
"""


def project(directory: Path, source: str) -> Path:
    root = directory / "project"
    root.mkdir(exist_ok=True)
    (root / "tasks.py").write_text(source)
    return root


def foreign(make_stack: StackMaker, root: Path, **settings: str) -> Stack:
    return make_stack(root, TORPOR_TRUST="foreign", TORPOR_ISOLATION="auto", **settings)


def test_runs_of_foreign_code_are_thawed_and_thawed_again(make_stack: StackMaker, tmp_path: Path) -> None:
    root = project(tmp_path, LOOKS.format(extra=""))
    stack = foreign(make_stack, root, AWS_SECRET_ACCESS_KEY="secret", SHOP_NAME="kiosk", TORPOR_RUN_ENV="SHOP_*")
    stack.start()
    token = stack.client.create_token()["id"]
    run_id = stack.trigger("seen", token)
    stack.await_event(run_id, "run.suspended")
    stack.client.complete_token(token)
    seen: dict[str, Any] = stack.output(run_id)
    print(json.dumps(seen, indent=1))
    assert seen["secret"] is None
    assert seen["settings"] == []
    assert seen["named"] == seen["named_now"] == "kiosk"
    assert stack.events(run_id, "run.started")[0]["trust"] == "foreign"
