"""Each program of programs/ is frozen and thawed twice, or more often, and checks itself: one half on one worker, one on two.

TORPOR_PROGRAMS=all bin/test tests/checkpoint      all of them on one worker, and all on two
"""

import importlib.util

import pytest
from journey import PROGRAMS, Journey, programs, stayers, travellers, two_lives

from torpor.worker.discovery import find

pytestmark = [
    pytest.mark.criu,
    pytest.mark.timeout(600),  # the first test brings all programs on their way, and the slowest decides
]

TORCH = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None,
    reason="PyTorch is not installed (it is too large for requirements/dev.txt)",
)


def marked(names: dict[str, bool]) -> list[object]:
    return [pytest.param(name, marks=TORCH) if name.startswith("torch") else name for name in names]


def test_the_programs_are_found() -> None:
    assert {*find(PROGRAMS).modules, "freezing"} == {file.stem for file in PROGRAMS.glob("*.py")}
    assert len(programs()) > 70
    assert stayers().keys() | travellers().keys() == programs().keys()


@pytest.mark.parametrize("name", marked(stayers()))
def test_program(journey: Journey, name: str) -> None:
    passed = journey.passed(name)
    assert passed.run["status"] == "COMPLETED", (passed.run.get("error"), passed.why_not)
    assert passed.kinds.count("run.suspended") == passed.kinds.count("run.resumed") >= 2, passed.why_not


@pytest.mark.parametrize("name", marked(travellers()))
def test_program_on_two_workers(moved: Journey, name: str) -> None:
    passed = moved.passed(name)
    assert passed.run["status"] == "COMPLETED", (passed.run.get("error"), passed.why_not)
    workers = [event["worker_id"] for event in moved.stack.events(moved.runs[name], "run.dequeued")]
    assert workers[0] != workers[1] != workers[2], passed.why_not
    assert passed.kinds.count("run.suspended") == passed.kinds.count("run.resumed") >= 2, passed.why_not


@pytest.mark.parametrize("name", sorted(two_lives()))
def test_two_restores_of_one_image(journey: Journey, name: str) -> None:
    """The process dies after the first. What is drawn at random in both lives is compared by the program."""
    passed = journey.passed(name)
    assert passed.run["status"] == "COMPLETED", (passed.run.get("error"), passed.why_not)
    assert passed.run["attemptCount"] == 2
    resumed = journey.stack.events(journey.runs[name], "run.resumed")
    assert len(resumed) == 2
    assert resumed[0]["checkpoint_id"] == resumed[1]["checkpoint_id"]
    assert passed.kinds.count("run.suspended") == 1
