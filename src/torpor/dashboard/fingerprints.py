"""Which failures are the same one: fingerprints of errors, and groups of what has the same.

A fingerprint is of the task, the error's name, the innermost frame of the author's own code (its file, its function and the
text of its line, since an edit above moves only its number), and the message without what differs each time.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from torpor.engine.read_failures import MESSAGE_CHARS, TRACE_CHARS, Failure
from torpor.engine.states import RunState
from torpor.store.records import Run

_PLACE = re.compile(r'^\s*File "(.+)", line (\d+), in (.+)$')
_QUOTED = re.compile(r"'[^'\n]*'|\"[^\"\n]*\"")
_VARYING = re.compile(r"\S+@\S+|[\w.-]*\d[\w.-]*\w|\d")
GAP = "…"


def masked(message: str) -> str:
    """The message with what is quoted, addresses, numbers and ids taken out: a word with a digit is one of these.

    >>> masked("order 4711 of 'Ada' is gone (run_4k2j)"), masked("took 12.5 s, not 3")
    ("order … of '…' is gone (…)", 'took … s, not …')
    """
    quoted = _QUOTED.sub(lambda found: found[0][0] + GAP + found[0][0], message)
    return _VARYING.sub(GAP, quoted)


@dataclass(frozen=True, slots=True)
class Place:
    """A frame of a traceback."""

    file: str
    line: int
    function: str
    source: str = ""


def innermost(trace: str) -> Place | None:
    """The last frame of a traceback; of the author's own code, since the SDK leaves out what isn't.

    >>> innermost('  File "a.py", line 3, in f\\n    g()\\n  File "b.py", line 9, in g\\n    1 / 0\\n    ~~^~~\\n')
    Place(file='b.py', line=9, function='g', source='1 / 0')
    """
    lines = trace.splitlines()
    for index in range(len(lines) - 1, -1, -1):
        if found := _PLACE.match(lines[index]):
            below = lines[index + 1].strip() if index + 1 < len(lines) else ""
            return Place(found[1], int(found[2]), found[3], below)
    return None


@dataclass(slots=True)
class Group:
    """Failures with the same fingerprint, newest first."""

    fingerprint: str
    task_id: str
    name: str
    message: str  # masked
    place: Place | None
    failures: list[Failure] = field(default_factory=list)

    @property
    def told(self) -> str:
        """The message as it was, if it was the same each time."""
        return self.last.message if len({failure.message for failure in self.failures}) == 1 else self.message

    @property
    def last(self) -> Failure:
        return self.failures[0]

    @property
    def first(self) -> Failure:
        return self.failures[-1]

    @property
    def versions(self) -> list[str]:
        """The newest first."""
        return list(dict.fromkeys(each.version for each in self.failures if each.version))

    def counts(self, since: datetime, length: timedelta, number: int) -> list[int]:
        """How many there were in each of so many stretches of time."""
        counts = [0] * number
        for failure in self.failures:
            counts[min(number - 1, max(0, (failure.at - since) // length))] += 1
        return counts


def grouped(failures: Iterable[Failure]) -> list[Group]:
    """Those that failed last come first, as they are given."""
    groups: dict[tuple[str, ...], Group] = {}
    for failure in failures:
        place, message = innermost(failure.trace), masked(failure.message)
        at = (place.file, place.function, place.source or str(place.line)) if place else ()
        key = (failure.task_id, failure.name, message, *at)
        if key not in groups:
            groups[key] = Group(_hash(key), failure.task_id, failure.name, message, place)
        groups[key].failures.append(failure)
    return list(groups.values())


def of_run(run: Run) -> str:
    """The fingerprint of the failure that ended this run."""
    error = run.error or {}
    message, trace = str(error.get("message") or ""), str(error.get("stack_trace") or "")
    failure = Failure(
        run.id,
        run.task_id,
        run.version,
        RunState(run.state),
        run.finished_at or run.created_at,
        str(error.get("name") or ""),
        message[:MESSAGE_CHARS],
        trace[-TRACE_CHARS:],
    )
    return grouped([failure])[0].fingerprint


def _hash(parts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
