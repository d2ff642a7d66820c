"""Each program of programs/ is frozen and thawed twice, and checks itself."""

from pathlib import Path

import pytest
from stack import Stack

from torpor.worker.discovery import find

pytestmark = pytest.mark.criu

PROGRAMS = Path(__file__).parent / "programs"
NAMES = [
    line.split("(")[0].removeprefix("async ").removeprefix("def ")
    for text in [(PROGRAMS / "resources.py").read_text()]
    for block in text.split("@task(retry=once)\n")[1:]
    for line in [block.splitlines()[0]]
]


def test_the_programs_are_found() -> None:
    assert find(PROGRAMS).modules == ["resources"]
    assert len(NAMES) == len(set(NAMES)) > 15


@pytest.mark.parametrize("name", NAMES)
def test_program(programs: Stack, name: str, tmp_path: Path) -> None:
    payload = str(tmp_path / "outside.txt") if name == "outside_file_that_grows_meanwhile" else None
    run_id = programs.trigger(name, payload)
    run = programs.await_end(run_id)
    kinds = programs.kinds(run_id)
    told = programs.events(run_id, "run.held") + programs.events(run_id, "run.freeze_failed")
    assert run["status"] == "COMPLETED", (run.get("error"), told)
    assert kinds.count("run.suspended") >= 2, (kinds, told)
    assert kinds.count("run.resumed") == kinds.count("run.suspended")
