"""Each attack has the outcome that docs/security.md promises, fresh and after a restore; and then the worker still works."""

import ast
import re
from pathlib import Path

import pytest
from outcomes import LOUD, PAGE, QUIET
from siege import PROJECT, Siege

pytestmark = pytest.mark.timeout(600)  # the first one makes all attacks
MEMORY_OF_A_SUPERVISOR = 600 << 20
MOMENTS = pytest.mark.parametrize("restored", [False, True], ids=["fresh", "restored"])


@pytest.mark.parametrize("name", QUIET)
@MOMENTS
def test_quiet_attack(siege: Siege, kind: str, name: str, restored: bool) -> None:
    got = siege.got(name, restored=restored)
    assert QUIET[name].expects(got, on_host=kind == "own"), got


@pytest.mark.parametrize("name", LOUD)
@MOMENTS
def test_loud_attack(siege: Siege, missing: set[str], name: str, restored: bool) -> None:
    loud = LOUD[name]
    if loud.unless in missing:
        pytest.skip(f"there is no such thing here: {loud.unless}")
    came = siege.came(name, restored=restored)
    assert re.fullmatch(loud.status, came.status), came
    assert loud.error in came.error
    assert re.fullmatch(loud.output or "None", str(came.output)), came
    assert not loud.stories or set(loud.stories) & set(came.kinds)
    assert not restored or "run.suspended" in came.kinds


def test_afterwards_the_worker_still_works_and_nothing_is_left(siege: Siege) -> None:
    assert siege.do_nothing_wrong() == 42
    assert siege.victim()["directory"] == "secret"
    assert not siege.survivors()
    assert siege.supervisor_bytes() < MEMORY_OF_A_SUPERVISOR
    siege.stack.assert_nothing_left()


# -- the table, and the page ------------------------------------------------------------------------------------------


def marked(mark: str) -> set[str]:
    """Functions of the project with this decorator."""
    found: set[str] = set()
    for file in Path(PROJECT).glob("*.py"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found |= {node.name for each in node.decorator_list if isinstance(each, ast.Name) and each.id == mark}
    return found


def test_every_attack_has_its_outcome() -> None:
    assert marked("attack") == set(QUIET)
    assert marked("loud") == set(LOUD)
    assert len(QUIET) + len(LOUD) > 40


def test_every_promise_has_its_attacks_and_every_attack_its_promise() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("\n## What is promised\n")[2].partition("\n## ")[0]
    promises = {" ".join(each.split()) for each in re.findall(r"^- \*\*(.+?)\*\*", section, re.MULTILINE | re.DOTALL)}
    assert promises == {each.promise for each in (*QUIET.values(), *LOUD.values())}
