"""Each program of programs/ is frozen and thawed twice, or more often, and checks itself."""

import importlib.util

import pytest
from journey import PROGRAMS, Journey, programs

from torpor.worker.discovery import find

pytestmark = pytest.mark.criu

TORCH = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None,
    reason="PyTorch is not installed (it is too large for requirements/dev.txt)",
)


def marked(names: dict[str, bool]) -> list[object]:
    return [pytest.param(name, marks=TORCH) if name.startswith("torch") else name for name in names]


def test_the_programs_are_found() -> None:
    assert {*find(PROGRAMS).modules, "freezing"} == {file.stem for file in PROGRAMS.glob("*.py")}
    assert len(programs()) > 70


@pytest.mark.parametrize("name", marked(dict.fromkeys(sorted(programs()), True)))
def test_program(journey: Journey, name: str) -> None:
    passed = journey.passed(name)
    assert passed.run["status"] == "COMPLETED", (passed.run.get("error"), passed.why_not)
    assert passed.kinds.count("run.suspended") == passed.kinds.count("run.resumed") >= 2, passed.why_not
