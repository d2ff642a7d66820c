"""What the engine promises is kept by a test that names it, or left out in ARCHITECTURE.md with the reason.

The ids are those of the list of what a platform for background jobs is expected to have.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

TRIGGERING = "G7 G8 G9 G10 G11 G12 G13 G14 G16 G18 G19"
QUEUES = "Q1 Q2 Q3 Q4 Q5 Q6 Q7 Q9 Q10"
WAITS = "W6"
BATCHES = "B1 B2 B3 B4"
TIME = "C1 C2 C3 C4 C5 C6 C7 C8"
MACHINES = "N1 T6 R4"
IN_THE_RUN = "M1 M2 M10 M11"
BEYOND = "BB2 BB3 BB4 BB5 BB6 BB8 BB12 BB13 BB15 BB16 BB17 BB18 BB19 BB20 BB24"
PROMISES = " ".join((TRIGGERING, QUEUES, WAITS, BATCHES, TIME, MACHINES, IN_THE_RUN, BEYOND)).split()


def named() -> set[str]:
    """Ids at the beginning of a test's docstring, as in `\"\"\"G7, G8: …`."""
    found: set[str] = set()
    for file in ROOT.joinpath("tests").rglob("test_*.py"):
        for ids in re.findall(r'"""((?:[A-Z]{1,2}\d+(?:, )?)+):', file.read_text(encoding="utf-8")):
            found.update(ids.split(", "))
    return found


def left_out() -> set[str]:
    """Ids in ARCHITECTURE.md's section of what is left out."""
    text = ROOT.joinpath("ARCHITECTURE.md").read_text(encoding="utf-8")
    section = text.partition("## Left out, and why\n")[2].partition("\n## ")[0]
    return set(re.findall(r"\b[A-Z]{1,2}\d+\b", section))


@pytest.mark.parametrize("promise", PROMISES)
def test_every_promise_has_its_test_or_its_reason(promise: str) -> None:
    assert promise in named() | left_out()
