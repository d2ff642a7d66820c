"""An error as pages show it: with the author's source lines, what caused it, and the members of a group, each below its own."""

import re
from dataclasses import dataclass, field
from typing import Any

MOST = 12
_PLACE = re.compile(r'\s*File "(.+)", line \d+, in ')
_MEMBERS = re.compile(r"\((\d+) sub-exceptions?\)$")


@dataclass(frozen=True, slots=True)
class Failure:
    """An error, its traceback line by line, and whether each line is a place or its source."""

    name: str
    message: str
    how: str = ""
    """How it belongs to the one that it stands below."""
    depth: int = 0
    lines: list[tuple[str, str]] = field(default_factory=list)


def failures(error: dict[str, Any] | None) -> list[Failure]:
    """The error that ended a run, and after each what belongs to it."""
    found: list[Failure] = []
    if error:
        _add(found, error, "", 0)
    return found


def _add(found: list[Failure], error: dict[str, Any], how: str, depth: int) -> None:
    if len(found) == MOST:
        return
    name, message = str(error.get("name") or "Error"), str(error.get("message") or "")
    found.append(Failure(name, message, how, depth, _lines(error)))
    below = error.get("causes") or []
    members = _MEMBERS.search(message) if name.endswith("Group") else None
    outside = max(0, len(below) - int(members[1])) if members else len(below)  # the cause stands before the members
    for nth, each in enumerate(below):
        _add(found, each, "caused by" if nth < outside else f"{nth - outside + 1} of {len(below) - outside}", depth + 1)


def _lines(error: dict[str, Any]) -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    trace = str(error.get("stack_trace") or error.get("stackTrace") or "").rstrip()
    for line in trace.splitlines():
        if not line.strip() or line.startswith("Traceback "):
            continue
        if _PLACE.match(line):
            lines.append(("place", line.strip()))
        elif line.startswith(" "):
            lines.append(("mark" if set(line.strip()) <= set("^~ ") else "source", line))
    return lines
