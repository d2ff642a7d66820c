"""Each program of programs/ is frozen and thawed twice, and checks itself."""

from pathlib import Path

import pytest
from stack import ENDS, Stack, eventually

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
    frozen = 0
    while thaw_or_end(programs, run_id, frozen + 1):
        frozen += 1
    run = programs.run(run_id)
    told = programs.events(run_id, "run.held") + programs.events(run_id, "run.freeze_failed")
    assert run["status"] == "COMPLETED", (run.get("error"), told)
    kinds = programs.kinds(run_id)
    assert frozen == kinds.count("run.suspended") == kinds.count("run.resumed") >= 2


def thaw_or_end(programs: Stack, run_id: str, nth: int) -> bool:
    """Once it is frozen for the nth time, complete what it waits for. False: it has ended instead."""
    eventually(
        lambda: programs.status(run_id) in ENDS or programs.kinds(run_id).count("run.suspended") == nth,
        what=f"freeze {nth} or the end",
    )
    if programs.status(run_id) in ENDS:
        return False
    [token] = [each for each in programs.client.tokens(status="WAITING") if run_id in each["runIds"]]
    programs.client.complete_token(token["id"])
    return True
