"""A run's story as the terminal shows it: a line for each event and each line of output, and where the time went.

Used by `torpor dev`, `torpor trigger --follow` and `torpor runs show`. What is said of an event is words.py's.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.text import Text

from torpor.cli.terminal import indented
from torpor.figures import clock, duration, instant, milliseconds, size
from torpor.words import Event, words

QUIET = frozenset({"run.dequeued", "batch.created"})
"""Told by `runs show` only: live, the next line follows within milliseconds."""


def event_line(event: Event, label: Text | None = None, *, brief: bool = False) -> Text:
    """One event as a line of a story; `label` says which run when several are told at once, `brief` leaves the rest out."""
    said = words(event)
    line = Text().append(clock(instant(str(event["at"])), precise=True) + "  ", style="dim")
    if label is not None:
        line.append_text(label).append("  ")
    line.append(said.verb, style=said.style)
    if said.rest:
        line.append("  " + said.rest, style="default")
    if brief or not said.below:
        return line
    return line.append("\n").append_text(indented(Text("\n".join(said.below), style="dim"), 16))


def log_line(line: dict[str, Any], label: Text | None = None) -> Text:
    """A line that user code printed or logged."""
    level = str(line.get("level") or "info").lower()
    style = {"debug": "dim", "warning": "yellow", "error": "red", "critical": "bold red"}.get(level, "default")
    told = Text().append(clock(instant(str(line["at"])), precise=True) + "  ", style="dim")
    if label is not None:
        told.append_text(label).append("  ")
    told.append("│ ", style="dim")
    if level not in ("info", "") and line.get("stream", "log") == "log":
        told.append(level + " ", style=style)
    told.append(str(line.get("message", "")), style=style)
    attributes = line.get("attributes") or {}
    for name, value in attributes.items():
        told.append(f"  {name}=", style="dim").append(str(value), style="dim")
    return told


def how_to_answer(event: Event, run_id: str) -> str | None:
    """The command that answers the approval or token a run now waits for, if it waits for one."""
    if event.get("kind") == "run.waiting" and "token" in (event.get("data") or {}).get("kinds", []):
        return f"torpor approve {run_id}"
    return None


def next_answer(events: list[Event], run_id: str) -> str | None:
    """As above, for a run that waits now: by its last wait, whatever was told after it (it may be frozen since)."""
    waits = [event for event in events if event.get("kind") == "run.waiting"]
    return how_to_answer(waits[-1], run_id) if waits else None


# -- a whole story ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Times:
    """Where a run's time went, in seconds. `frozen` cost no memory and no process."""

    queued_s: float = 0.0
    executing_s: float = 0.0
    held_s: float = 0.0
    frozen_s: float = 0.0

    @property
    def total_s(self) -> float:
        return self.queued_s + self.executing_s + self.held_s + self.frozen_s


_PHASE_AFTER = {
    "run.triggered": "queued",
    "run.started": "executing",
    "run.resumed": "executing",
    "run.waiting": "held",
    "run.suspended": "frozen",
    "run.moved": "queued",
    "run.rescued": "queued",
    "run.repaired": "queued",
    "run.retrying": "queued",
    "run.out_of_memory": "queued",
    "run.refused": "queued",
    "run.checkpoint_refused": "queued",
}
ENDINGS = frozenset(
    "run." + end for end in ("completed", "failed", "canceled", "crashed", "timed_out", "expired", "system_failure")
)


def times(events: Iterable[Event], now: datetime) -> Times:
    """How long the run was queued, executing, waiting in memory, and frozen; up to `now` if it has not ended."""
    spent = {"queued": 0.0, "executing": 0.0, "held": 0.0, "frozen": 0.0}
    phase: str | None = None
    since = now
    for event in events:
        kind, at = str(event["kind"]), instant(str(event["at"]))
        following = None if kind in ENDINGS else _PHASE_AFTER.get(kind, phase)
        if kind == "run.resuming" and phase == "held":
            following = "executing"  # answered while still in memory: it goes on at once
        if kind == "run.resuming" and phase == "frozen":
            following = "queued"
        if following != phase:
            if phase is not None:
                spent[phase] += max(0.0, (at - since).total_seconds())
            phase, since = following, at
    if phase is not None:
        spent[phase] += max(0.0, (now - since).total_seconds())
    return Times(**{name + "_s": seconds for name, seconds in spent.items()})


def times_line(spent: Times) -> Text:
    """The summary under a story, with the frozen share."""
    line = Text("executing ")
    line.append(duration(spent.executing_s), style="green")
    line.append("  held in memory ").append(duration(spent.held_s), style="yellow")
    line.append("  frozen ").append(duration(spent.frozen_s), style="bold blue")
    line.append("  queued ").append(duration(spent.queued_s))
    if spent.total_s > 0 and spent.frozen_s > 0:
        line.append(f"  ({spent.frozen_s / spent.total_s:.0%} of its life without a process)", style="dim")
    return line


def usage_line(run: dict[str, Any]) -> Text | None:
    """What a run has used, as its worker has measured it; None before anything was told."""
    usage = run.get("usage") or {}
    cpu_ms, peak = usage.get("cpuMs") or 0, usage.get("peakMemoryBytes") or 0
    if not cpu_ms and not peak:
        return None
    line = Text("used ").append(milliseconds(cpu_ms), style="green").append(" of CPU")
    if peak:
        line.append("  at most ").append(size(peak), style="yellow").append(" of memory")
    return line.append(f"  on {run['machine']}" if run.get("machine") else "", style="dim")


def error_lines(error: dict[str, Any]) -> Text:
    """A run's error with the traceback of the user's own frames, then what caused it."""
    trace = str(error.get("stackTrace") or error.get("stack_trace") or "").rstrip()
    head = Text(f"{error.get('name') or 'Error'}: {error.get('message', '')}", style="bold red")
    parts = [Text(trace, style="red"), head] if trace else [head]
    if trace.endswith(head.plain):
        parts = [Text(trace, style="red")]
    for cause in error.get("causes") or []:
        parts += [Text("caused by", style="dim"), error_lines(cause)]
    if "[Errno 30] Read-only file system" in str(error.get("message")):
        # Nothing in the error says that this is the room, and no fault of the machine.
        parts.append(
            Text("a run writes to its working directory, /tmp and /dev/shm; TORPOR_WRITABLE gives it more", style="dim")
        )
    return Text("\n").join(parts)


STATUS_STYLES = {
    "COMPLETED": "green",
    "FAILED": "bold red",
    "CRASHED": "bold red",
    "SYSTEM_FAILURE": "bold red",
    "TIMED_OUT": "bold red",
    "CANCELED": "yellow",
    "EXPIRED": "yellow",
    "WAITING": "blue",
    "EXECUTING": "cyan",
}
"""The colour of each public status, the same in every table."""
