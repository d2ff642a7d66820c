"""The examples in docstrings run, and the types that authors see are what they should be."""

import doctest
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import torpor

MODULES = (
    *("context", "idle", "logger", "outcome", "retry", "runs", "schedule", "sync_wait", "task", "triggering", "wait"),
    "waits",
)


@pytest.mark.parametrize("name", [*(f"torpor.sdk.{name}" for name in MODULES), "torpor.sync"])
def test_examples_in_docstrings_run(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted > 0
    assert results.failed == 0


def test_type_checkers_are_told_that_torpor_has_types() -> None:
    """PEP 561: without this file mypy takes each name of an installed package for `Any`."""
    assert (Path(torpor.__file__).parent / "py.typed").exists()


TYPED = """
import asyncio
from datetime import datetime
from torpor import AsyncClient, Client, ScheduleTick, schedule, task, wait, Retry

@task
async def a(number: int, text: str = "") -> list[str]: ...
@task(retry=Retry(max_attempts=2))
def b(number: int) -> float: ...
@schedule("@daily")
@task
async def c(tick: ScheduleTick) -> int: ...

async def main() -> None:
    reveal_type(await c.trigger_and_wait(ScheduleTick(datetime.now())))
    reveal_type(await a(1))
    reveal_type(b(1))
    reveal_type(await a.trigger_and_wait(1, text="x"))
    reveal_type(await b.options(tags=["x"]).trigger_and_wait(1))
    reveal_type(b.sync.trigger_and_wait(1))
    reveal_type((await a.trigger(1)).id)
    reveal_type((await wait.for_approval("ok?")).by)
    reveal_type(Client().create_public_token(["read:runs"], expires="1h"))
    reveal_type(await AsyncClient().run_counts())
    await a.trigger("wrong")
    a.options(dely="1h")
    Client().cancel("run_1", at_onec=True)
    await asyncio.gather(a.trigger_and_wait(1), wait.for_(hours=1))
"""


def test_authors_see_the_types_of_their_own_functions(tmp_path: Path) -> None:
    checker = Path(sys.executable).with_name("basedpyright")
    if not checker.exists():
        pytest.skip("basedpyright is not installed")
    program = tmp_path / "program.py"
    program.write_text(TYPED)
    command = [str(checker), "--outputjson", "--pythonpath", sys.executable, str(program)]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, cwd=tmp_path).stdout)
    revealed = [
        one["message"].rpartition("is ")[2].strip('"')
        for one in told["generalDiagnostics"]
        if one["severity"] == "information"
    ]
    assert revealed == [
        *("int", "list[str]", "float", "list[str]", "float", "float", "str", "str | None"),
        *("str", "list[dict[str, Any]]"),
    ]
    errors = [one for one in told["generalDiagnostics"] if one["severity"] == "error"]
    assert [TYPED.splitlines()[one["range"]["start"]["line"]].strip() for one in errors] == [
        'await a.trigger("wrong")',
        'a.options(dely="1h")',
        'Client().cancel("run_1", at_onec=True)',
    ]
