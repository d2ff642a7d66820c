"""A run's story as bars over time: what the Run page draws, and what a test can look at.

    phases     of one run, one after the other: queued, starting, working, held in memory, freezing, frozen, thawing, …
    attempts   a row of its own, when there was more than one
    kin        a row for each run below it, with its phases
    marks      what took no time: save points, moves, failures, and (drawn from the log) each line of output
    stretches  the scale. Work is drawn to scale; where nothing works, long stretches are compressed, and marked as broken

Pure functions of what was read: no database, no clock. An open end (`ends` is None) is where the run stands now.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from torpor.dashboard.figures import size, span
from torpor.engine.read_waits import RunWait
from torpor.engine.states import ENDS
from torpor.store.records import Attempt, Event, Run
from torpor.words import words

Kind = Literal[
    "delayed", "queued", "starting", "working", "held", "freezing", "frozen", "thawing", "attempt", "failed", "canceled"
]
Tone = Literal["note", "save", "move", "trouble", "end"]

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

BUSY = frozenset({"starting", "working", "freezing", "thawing"})
"""Phases that are drawn to scale."""
IDLE_SHARE = 0.16
"""A stretch in which nothing works is at most that long, compared with all the work."""
LEAST_IDLE_MS = 400.0
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


@dataclass(slots=True)
class Row:
    """`parent` is the id of the row in whose fold this one is."""

    id: str
    label: str
    kind: Literal["run", "attempts", "kin"]
    bars: list[Bar] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    depth: int = 0
    parent: str | None = None
    href: str | None = None
    tone: str | None = None


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of the scale: from `starts` to `ends` (None: until now) it is `weight_ms` long as drawn, if that is known."""

    starts: datetime
    ends: datetime | None
    is_idle: bool
    weight_ms: float | None
    is_broken: bool = False


@dataclass(frozen=True, slots=True)
class Timeline:
    rows: list[Row]
    stretches: list[Stretch]
    most_idle_ms: float
    """How long an open idle stretch is drawn at most."""


def timeline(
    run: Run,
    attempts: Sequence[Attempt],
    story: Sequence[Event],
    waits: Sequence[RunWait],
    kin: Sequence[tuple[Run, Sequence[Event]]],
    lines: Sequence[datetime],
    *,
    now: datetime,
    tone_of: "dict[str, str] | None" = None,
) -> Timeline:
    """The rows of a run and of the runs below it (parents before children), and their scale."""
    bars, marks = phases(run, story, waits)
    rows = [Row("run", run.task_id, "run", bars, marks)]
    if len(attempts) > 1:
        rows.append(Row("attempts", "attempts", "attempts", [_attempt(each) for each in attempts]))
    depths: dict[str, int] = {}
    for one, events in kin:
        depth = depths[one.id] = depths.get(one.parent_run_id or "", 0) + 1
        parent = one.parent_run_id if one.parent_run_id in depths else "run"
        bars, marks = phases(one, events, ())
        tone = (tone_of or {}).get(one.id)
        rows.append(Row(one.id, one.task_id, "kin", bars, marks, depth, parent, f"/runs/{one.id}", tone))
    instants = [*lines, *(mark.at for row in rows for mark in row.marks)]
    scale, most_idle_ms = stretches([bar for row in rows for bar in row.bars], instants, now)
    return Timeline(rows, scale, most_idle_ms)


# -- phases -----------------------------------------------------------------------------------------------------------


def phases(run: Run, story: Sequence[Event], waits: Sequence[RunWait]) -> tuple[list[Bar], list[Mark]]:
    """What a run did when, and what happened to it meanwhile."""
    making = _Phases(run, waits)
    for event in story:
        making.tell(event)
    making.turn(None, None)
    return making.bars, making.marks


class _Phases:
    """The bars so far, and the one that goes on at this point of the story."""

    def __init__(self, run: Run, waits: Sequence[RunWait]) -> None:
        self.bars: list[Bar] = []
        self.marks: list[Mark] = []
        self._run = run
        self._waits = waits
        self._open: Kind | None = None
        self._since = run.created_at
        self._until: datetime | None = run.delay_until
        self._data: dict[str, Any] = {}
        self._frozen: int | None = None  # the bar of the latest freeze, to which its thaw is added
        self._frozen_on: str | None = None

    def tell(self, event: Event) -> None:
        kind, data = event.kind, event.data
        if (tone := MARKS.get(kind)) is not None or kind not in _SILENT:
            end: Tone = "end" if kind.removeprefix("run.") in ENDS else "note"
            self.marks.append(Mark(tone or end, event.at, sentence(event)))
        if kind not in TURNS or (kind == "run.forked" and not data.get("from")):
            return
        following: Any = TURNS[kind]
        if kind in ("run.triggered", "run.rescheduled", "run.debounced", "run.retrying"):
            until = instant(data.get("retry_at") or data.get("until")) or (
                self._run.delay_until if kind == "run.triggered" else None
            )
            self._until, following = until, "delayed" if until and until > event.at else "queued"
        if kind == "run.dequeued" and data.get("checkpoint_id"):
            following = "thawing"
        if kind == "run.checkpoint_refused" and data.get("continues") == "crashed":
            return
        if kind == "run.resumed":
            self._thawed(data)
        self.turn(following, event.at, data)

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
            asked = [
                wait for wait in self._waits if wait.since <= since + timedelta(seconds=1) and _open_at(wait, since)
            ]
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
        if kind == "frozen":
            return [Bar("frozen", since, at, _frozen_label(data), _frozen_told(data))]
        return [Bar(kind, since, at, _NAMES[kind].lower(), _told(kind, data))]

    def _thawed(self, data: dict[str, Any]) -> None:
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
        if worker and self._frozen_on and worker != self._frozen_on and bar.ends is not None:
            self.marks.append(Mark("move", bar.ends, f"Went on to another worker: {worker}"))


def _frozen_label(data: dict[str, Any]) -> str:
    facts = [size(data["size_bytes"])] if data.get("size_bytes") else []
    facts += [f"froze in {span(data['dump_ms'])}"] if data.get("dump_ms") is not None else []
    return " · ".join(["frozen", *facts])


def _frozen_told(data: dict[str, Any]) -> str:
    facts = [
        f"{size(data['size_bytes'])} stored" if data.get("size_bytes") else "",
        f"{size(data['rss_bytes'])} of memory given back" if data.get("rss_bytes") else "",
        f"frozen in {span(data['dump_ms'])}" if data.get("dump_ms") is not None else "",
        f"durable after {span(data['durable_ms'])}" if data.get("durable_ms") else "",
    ]
    return "Frozen: no process, no memory; " + ", ".join(fact for fact in facts if fact)


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


def _open_at(wait: RunWait, at: datetime) -> bool:
    return wait.answered_at is None or wait.answered_at > at


def _waits_for(waits: Sequence[RunWait]) -> str:
    """The first three, by what each is for."""
    named = [str(wait.title or wait.awaited_task_id or _KIND_OF_WAIT.get(wait.kind, wait.kind)) for wait in waits[:3]]
    more = f" and {len(waits) - 3} more" if len(waits) > 3 else ""
    return ", ".join(named) + more


def instant(text: Any) -> datetime | None:
    at = datetime.fromisoformat(text) if isinstance(text, str) else None
    return at.replace(tzinfo=UTC) if at is not None and at.tzinfo is None else at


def sentence(event: Event) -> str:
    """What is said of an event, without its instants: these are the page's to show, in the reader's own zone."""
    said = words({"kind": event.kind, "data": timeless(event.data)})
    return f"{said.verb[:1].upper()}{said.verb[1:]}" + (f": {said.rest}" if said.rest else "")


def timeless(data: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name not in ("due_at", "until", "retry_at")}


def _attempt(attempt: Attempt) -> Bar:
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


# -- the scale --------------------------------------------------------------------------------------------------------


def stretches(bars: Sequence[Bar], instants: Sequence[datetime], now: datetime) -> tuple[list[Stretch], float]:
    """The scale from the first bar's beginning to the last one's end: busy and idle stretches in turn.

    Busy is when some run works, starts, is frozen or thawed, and around each instant of interest. An idle stretch that is
    longer than IDLE_SHARE of all the busy ones is drawn that long, and broken.
    """
    if not bars:
        return [], LEAST_IDLE_MS
    begin = min(bar.starts for bar in bars)
    is_open = any(bar.ends is None for bar in bars)
    end = max([begin, *(bar.ends for bar in bars if bar.ends), *(now for _ in range(is_open))])
    busy = [(bar.starts, bar.ends or end) for bar in bars if bar.kind in BUSY]
    busy_now = any(bar.ends is None and bar.kind in BUSY for bar in bars)
    total_ms = sum((b - a) / timedelta(milliseconds=1) for a, b in _merged(busy, timedelta(0)))
    most_idle_ms = max(LEAST_IDLE_MS if total_ms < LEAST_IDLE_MS else 0.0, total_ms * IDLE_SHARE)
    around = timedelta(milliseconds=most_idle_ms / 8)
    busy += [(max(at - around, begin), min(at + around, end)) for at in instants if begin <= at <= end]
    # Idle stretches that are short beside the work stay part of it: a scale with breaks everywhere can't be read.
    merged = _merged(busy, timedelta(milliseconds=most_idle_ms))
    found: list[Stretch] = []
    at = begin
    for starts, ends in merged:
        if starts > at:
            found.append(_idle(at, starts, most_idle_ms))
        found.append(Stretch(starts, ends, False, (ends - starts) / timedelta(milliseconds=1)))
        at = ends
    if at < end or not found:
        found.append(_idle(at, end, most_idle_ms))
    if is_open:
        last = found[-1]
        if last.is_idle or busy_now or not merged:
            found[-1] = replace(last, ends=None, weight_ms=None)
        else:
            found.append(Stretch(at, None, True, None))
    return found, most_idle_ms


def _idle(starts: datetime, ends: datetime, most_ms: float) -> Stretch:
    length_ms = (ends - starts) / timedelta(milliseconds=1)
    return Stretch(starts, ends, True, min(length_ms, most_ms), is_broken=length_ms > 2 * most_ms)


def _merged(spans: Sequence[tuple[datetime, datetime]], gap: timedelta) -> list[tuple[datetime, datetime]]:
    """Overlapping ones, and those no further apart than this, as one."""
    found: list[tuple[datetime, datetime]] = []
    for starts, ends in sorted(spans):
        if found and starts <= found[-1][1] + gap:
            found[-1] = (found[-1][0], max(found[-1][1], ends))
        else:
            found.append((starts, ends))
    return found


# -- as the page's script reads it ------------------------------------------------------------------------------------


def written(made: Timeline) -> dict[str, Any]:
    """Instants as milliseconds since 1970, and lists where there may be thousands."""
    return {
        "rows": [
            {
                "id": row.id,
                "label": row.label,
                "kind": row.kind,
                "depth": row.depth,
                "parent": row.parent,
                "href": row.href,
                "tone": row.tone,
                "bars": [[bar.kind, _ms(bar.starts), _ms(bar.ends), bar.label, bar.told] for bar in row.bars],
                "marks": [[mark.tone, _ms(mark.at), mark.told] for mark in row.marks],
            }
            for row in made.rows
        ],
        "stretches": [
            [_ms(each.starts), _ms(each.ends), each.is_idle, each.weight_ms, each.is_broken] for each in made.stretches
        ],
        "mostIdleMs": made.most_idle_ms,
    }


def _ms(at: datetime | None) -> float | None:
    return None if at is None else at.timestamp() * 1000
