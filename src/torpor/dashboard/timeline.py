"""A run's story as bars over time: what the Run page draws, and what a test can look at.

    phases     of one run, one after the other: queued, starting, working, held in memory, freezing, frozen, thawing, …
    attempts   a row of its own, when there was more than one
    kin        of each run below it, its phases
    marks      what took no time: save points, moves, failures, and (drawn from the log) each line of output
    waits      each wait by itself, since several may be open at once

Pure functions of what was read: no database, no clock. An open end (`ends` is None) is where the run stands now. Of a long story
only parts are told: a bar stands for what is left out between them. What comes later is told from an anchor on, so that the page
that has the rest needs nothing again. How long each stretch of time is drawn is decided in the page (scale.js).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from torpor.dashboard.figures import size, span
from torpor.engine.read_failures import FAILED
from torpor.engine.read_story import COUNTED, Kin
from torpor.engine.read_waits import RunWait
from torpor.engine.states import ENDS
from torpor.store.records import Attempt, Event, Run
from torpor.words import words

Kind = Literal[
    "delayed",
    "queued",
    "starting",
    "working",
    "held",
    "freezing",
    "frozen",
    "thawing",
    "skipped",
    "attempt",
    "failed",
    "canceled",
    "wait",
]
Tone = Literal["note", "save", "move", "trouble", "end", "failure"]

TURNS = {
    "run.triggered": "queued",
    "run.forked": "frozen",
    "run.dequeued": "starting",
    "run.started": "working",
    "run.resumed": "working",
    "run.waiting": "held",
    "run.suspended": "frozen",
    "run.moved": "frozen",
    "run.resuming": "queued",
    "run.version_found": "queued",
    "run.pending_version": "queued",
    "run.rescheduled": "delayed",
    "run.debounced": "delayed",
    "run.retrying": "delayed",
    "run.rescued": "queued",
    "run.repaired": "queued",
    "run.out_of_memory": "queued",
    "run.refused": "queued",
    "run.checkpoint_refused": "queued",
    **{f"run.{end}": None for end in ENDS},
}
"""After which line of a story a run is in which phase; None: it is over."""

MARKS: dict[str, Tone] = {
    "run.saved": "save",
    "run.moved": "move",
    "run.forked": "move",
    "run.replayed": "note",
    **dict.fromkeys(
        (
            "run.retrying",
            "run.rescued",
            "run.repaired",
            "run.refused",
            "run.stranded",
            "run.out_of_memory",
            "run.child_out_of_memory",
            "run.pids_exhausted",
            "run.checkpoint_refused",
            "run.start_failed",
            "run.save_failed",
            "run.move_failed",
            "run.freeze_failed",
            "run.descriptors_lost",
            "run.not_stored",
            "run.pending_version",
            "run.cancel_requested",
            "hook.failed",
        ),
        "trouble",
    ),
}
_SILENT = frozenset(TURNS.keys() - MARKS.keys()) - {f"run.{end}" for end in ENDS}

ANCHORS = frozenset({"run.triggered", "run.started", "run.resumed", "run.waiting"})
"""Lines of a story that end the bar before them, and otherwise change no earlier one; nor does any line that follows."""

_NAMES = {
    "delayed": "Delayed",
    "queued": "Queued",
    "starting": "Starting",
    "working": "Working",
    "held": "Waiting in memory",
    "freezing": "Freezing",
    "frozen": "Frozen",
    "thawing": "Thawing",
}
_KIND_OF_WAIT = {"time": "time to pass", "run": "a child", "batch": "a batch", "token": "an answer"}


@dataclass(frozen=True, slots=True)
class Bar:
    """A stretch of a row."""

    kind: Kind
    starts: datetime
    ends: datetime | None
    label: str
    """What stands in it, if there is room."""
    told: str
    """All that is known of it."""


@dataclass(frozen=True, slots=True)
class Mark:
    """An instant of a row."""

    tone: Tone
    at: datetime
    told: str


@dataclass(frozen=True, slots=True)
class Gap:
    """So many lines of a story are left out before the line with this id; None: behind the last one."""

    before: int | None
    count: int


@dataclass(frozen=True, slots=True)
class Telling:
    """What a part of a story makes. A later part can be told anew from the line `anchor` on: it follows on the first
    `anchor_bars` bars."""

    bars: list[Bar]
    marks: list[Mark]
    anchor: int = 0
    anchor_bars: int = 0


# -- phases -----------------------------------------------------------------------------------------------------------


def phases(
    run: Run | Kin, story: Sequence[Event], waits: Sequence[RunWait], gaps: Sequence[Gap] = (), *, known: int = 0
) -> Telling:
    """What a run did when, and what happened to it meanwhile. What is known already, up to that line, makes no mark again."""
    making, gap_before = _Phases(run, waits, known), {gap.before: gap for gap in gaps}
    for event in story:
        if (gap := gap_before.get(event.id)) is not None:
            making.skip(gap.count)
        making.tell(event)
    if (gap := gap_before.get(None)) is not None:
        making.skip(gap.count)
        making.turn(None, run.finished_at)
    making.turn(None, None)
    return Telling(making.bars, making.marks, making.anchor, making.anchor_bars)


class _Phases:
    """The bars so far, and the one that goes on at this point of the story."""

    def __init__(self, run: Run | Kin, waits: Sequence[RunWait], known: int) -> None:
        self.bars: list[Bar] = []
        self.marks: list[Mark] = []
        self.anchor = self.anchor_bars = 0
        self._run = run
        self._waits = waits
        self._coming = 0
        self._asked: list[RunWait] = []
        self._known = known
        self._open: Kind | None = None
        self._since = self._at = run.created_at
        self._until: datetime | None = run.delay_until
        self._data: dict[str, Any] = {}
        self._frozen: int | None = None  # the bar of the latest freeze, to which its thaw is added
        self._frozen_on: str | None = None

    def skip(self, count: int) -> None:
        """So many lines of the story are not told here."""
        self.turn("skipped", self._at, {"count": count})
        self._frozen = None

    def tell(self, event: Event) -> None:
        kind, data = event.kind, event.data
        is_new = event.id > self._known
        # Each verb says when its request came, so of two that came together the later one may have the earlier instant.
        self._at = at = max(event.at, self._at)
        if is_new and ((tone := MARKS.get(kind)) is not None or kind not in _SILENT):
            self.marks.append(Mark(tone or _end_of(kind), at, sentence(event)))
        if kind not in TURNS or (kind == "run.forked" and not data.get("from")):
            return
        following: Any = TURNS[kind]
        if kind in ("run.triggered", "run.rescheduled", "run.debounced", "run.retrying"):
            until = instant(data.get("retry_at") or data.get("until")) or (
                self._run.delay_until if kind == "run.triggered" else None
            )
            self._until, following = until, "delayed" if until and until > at else "queued"
        if kind == "run.dequeued" and data.get("checkpoint_id"):
            following = "thawing"
        if kind == "run.checkpoint_refused" and data.get("continues") == "crashed":
            return
        if kind == "run.resumed":
            self._thawed(data, is_new=is_new)
        self.turn(following, at, data)
        if kind in ANCHORS:
            self.anchor, self.anchor_bars = event.id, len(self.bars)

    def turn(self, kind: Kind | None, at: datetime | None, data: dict[str, Any] | None = None) -> None:
        """From here on (`at`: None, the story ends here) it is in this phase."""
        if self._open is not None:
            for bar in self._closed(self._open, at, is_freeze=kind == "frozen"):
                if bar.ends is None or bar.ends > bar.starts:
                    self.bars.append(bar)
        if kind == "frozen" and at is not None and data and data.get("durable_ms"):
            starts = max(at - timedelta(milliseconds=data["durable_ms"]), self._since)
            if self.bars and self.bars[-1].kind in ("held", "working") and self.bars[-1].starts < starts < at:
                self.bars[-1] = replace(self.bars[-1], ends=starts)
                told = f"Freezing, {span(data['durable_ms'])} until its image was stored"
                self.bars.append(Bar("freezing", starts, at, "freezing", told))
        if at is not None:
            self._open, self._since, self._data = kind, at, data or {}
        if kind == "frozen" and data is not None:
            self._frozen, self._frozen_on = len(self.bars), data.get("worker_id")

    def _closed(self, kind: Kind, at: datetime | None, *, is_freeze: bool) -> list[Bar]:
        """The open phase as bars: a delay ends by itself, and so does a wait whose answer came while it was in memory."""
        since, data = self._since, self._data
        if kind == "delayed" and self._until is not None and (at is None or self._until < at):
            return [
                Bar("delayed", since, self._until, "delayed", _told("delayed", data)),
                Bar("queued", self._until, at, "queued", "Queued"),
            ]
        if kind == "held":
            asked = self._waits_at(since)
            kinds = [str(kind) for kind in data.get("kinds", ())]
            why = _waits_for(asked) or ", ".join(_KIND_OF_WAIT.get(kind, kind) for kind in kinds)
            answered = [
                wait.answered_at for wait in asked if wait.answered_at and (at is None or wait.answered_at < at)
            ]
            held = Bar(
                "held", since, at, f"waits for {why}" if why else "waits", f"Waits in memory for {why or 'an answer'}"
            )
            if answered and not is_freeze:
                back = min(answered)
                return [replace(held, ends=back), Bar("working", back, at, "working", "Working")]
            return [held]
        if kind == "skipped":
            return [
                Bar("skipped", since, at, many(data["count"]), f"{many(data['count'])} of the story not shown here")
            ]
        if kind == "frozen":
            return [Bar("frozen", since, at, _frozen_label(data), _frozen_told(data))]
        return [Bar(kind, since, at, _NAMES[kind].lower(), _told(kind, data))]

    def _waits_at(self, at: datetime) -> list[RunWait]:
        """Those that were open, or opened with that phase. Asked for one instant after the other: each wait is looked at once."""
        while self._coming < len(self._waits) and self._waits[self._coming].since <= at + timedelta(seconds=1):
            self._asked.append(self._waits[self._coming])
            self._coming += 1
        self._asked = [wait for wait in self._asked if wait.answered_at is None or wait.answered_at > at]
        return self._asked

    def _thawed(self, data: dict[str, Any], *, is_new: bool) -> None:
        """The freeze's own bar says what the way back cost, and where that was."""
        if self._frozen is None or self._frozen >= len(self.bars) or self.bars[self._frozen].kind != "frozen":
            return
        bar = self.bars[self._frozen]
        facts = [f"thawed in {span(data['restore_ms'])}"] if data.get("restore_ms") is not None else []
        worker = data.get("worker_id")
        if worker:
            facts.append(f"on {worker}" if worker == self._frozen_on else f"on another worker, {worker}")
        if facts:
            told = " ".join(facts)
            label = f"{bar.label} · {facts[0]}" if bar.label else facts[0]
            self.bars[self._frozen] = replace(bar, label=label, told=f"{bar.told}; {told}")
        if is_new and worker and self._frozen_on and worker != self._frozen_on and bar.ends is not None:
            self.marks.append(Mark("move", bar.ends, f"Went on to another worker: {worker}"))


def _frozen_label(data: dict[str, Any]) -> str:
    facts = [size(data["size_bytes"])] if data.get("size_bytes") else []
    facts += [f"froze in {span(data['dump_ms'])}"] if data.get("dump_ms") is not None else []
    return " · ".join(["frozen", *facts])


def _frozen_told(data: dict[str, Any]) -> str:
    facts = [
        _stored(data),
        f"{size(data['rss_bytes'])} of memory given back" if data.get("rss_bytes") else "",
        f"frozen in {span(data['dump_ms'])}" if data.get("dump_ms") is not None else "",
        f"durable after {span(data['durable_ms'])}" if data.get("durable_ms") else "",
    ]
    return "Frozen: no process, no memory; " + ", ".join(fact for fact in facts if fact)


def _stored(data: dict[str, Any]) -> str:
    if not data.get("size_bytes"):
        return ""
    stored, new = data["size_bytes"], data.get("new_bytes")
    shared = f" ({size(new)} of it new, the rest was there already)" if new and new != stored else ""
    return f"{size(stored)} stored{shared}"


def _told(kind: Kind, data: dict[str, Any]) -> str:
    worker = f" on {data['worker_id']}" if data.get("worker_id") else ""
    match kind:
        case "starting" | "thawing":
            return f"{_NAMES[kind]}{worker}"
        case "working" if data.get("start_ms") is not None:
            return f"Working{worker}, ready in {span(data['start_ms'])}"
        case "working":
            return f"Working{worker}"
        case "queued" if data.get("kind") in _KIND_OF_WAIT:
            return f"Answered, and queued to go on: it waited for {_KIND_OF_WAIT[data['kind']]}"
        case _:
            return _NAMES[kind]


def wait_bar(wait: RunWait) -> Bar:
    """A wait by itself."""
    what = _waits_for([wait])
    how = "" if wait.answered_at is None else ": answered"
    return Bar("wait", wait.since, wait.answered_at, what, f"Wait for {what}{how}")


def many(count: int) -> str:
    """How many entries; what is counted only so far is told as more than that, and what isn't counted (0) as some."""
    if count == 0:
        return "some entries"
    if count > COUNTED:
        return f"more than {COUNTED:,} entries"
    return f"{count:,} {'entry' if count == 1 else 'entries'}"


def _waits_for(waits: Sequence[RunWait]) -> str:
    """The first three, by what each is for."""
    named = [str(wait.title or wait.awaited_task_id or _KIND_OF_WAIT.get(wait.kind, wait.kind)) for wait in waits[:3]]
    more = f" and {len(waits) - 3} more" if len(waits) > 3 else ""
    return ", ".join(named) + more


def instant(text: Any) -> datetime | None:
    at = datetime.fromisoformat(text) if isinstance(text, str) else None
    return at.replace(tzinfo=UTC) if at is not None and at.tzinfo is None else at


def _end_of(kind: str) -> Tone:
    end = kind.removeprefix("run.")
    if end not in ENDS:
        return "note"
    return "failure" if end in FAILED else "end"


def sentence(event: Event) -> str:
    """What is said of an event, without its instants: these are the page's to show, in the reader's own zone."""
    said = words({"kind": event.kind, "data": timeless(event.data)})
    return f"{said.verb[:1].upper()}{said.verb[1:]}" + (f": {said.rest}" if said.rest else "")


def timeless(data: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name not in ("due_at", "until", "retry_at")}


def attempt_bar(attempt: Attempt) -> Bar:
    kind: Kind = "attempt"
    if attempt.outcome == "canceled":
        kind = "canceled"
    elif attempt.outcome not in (None, "completed"):
        kind = "failed"
    error = attempt.error or {}
    why = f"{error.get('name', 'Error')}: {error.get('message', '')}" if attempt.error else ""
    outcome = (attempt.outcome or "goes on").replace("_", " ")
    label = f"{attempt.number} {outcome}" if attempt.outcome else f"{attempt.number}"
    told = f"Attempt {attempt.number}: {outcome}" + (f", {why}" if why else "")
    return Bar(kind, attempt.dequeued_at, attempt.finished_at, label, told)


# -- as the page's script reads it ------------------------------------------------------------------------------------


def bars_json(bars: Sequence[Bar]) -> list[Any]:
    """Lists, since there may be thousands; instants as milliseconds since 1970."""
    return [[bar.kind, ms(bar.starts), ms(bar.ends), bar.label, bar.told] for bar in bars]


def marks_json(marks: Sequence[Mark]) -> list[Any]:
    return [[mark.tone, ms(mark.at), mark.told] for mark in marks]


def ms(at: datetime | None) -> float | None:
    return None if at is None else at.timestamp() * 1000
