"""A run's story as a trace: spans for what took time, and events for what did not.

    the run                     from its trigger to its end
      queued                    until a worker has it
      attempt 1                 one try
        started                 the process comes up
        waits for a token       nothing but waits is left to do
        frozen                  there is only its image
        restored                the image becomes a process again
        a child                 a run that it has triggered; its own trace tells what is in it
    log lines, and what the story says beside, are events of the span in which they fall

Nothing is stored: spans are made from the story each time. An id is made of what it stands for, so it stays the same.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from torpor.engine.states import ENDS, STATUS, RunState
from torpor.store.records import Attempt, Event, LogLine, Run

Json = dict[str, Any]

_CANCELED = "canceled"
_OK = frozenset({"completed", _CANCELED})
_AGAIN = frozenset({"run.retrying", "run.rescued", "run.refused", "run.out_of_memory", "run.repaired"})
"""Whatever was open is over, and it is queued again."""
_WAITED_FOR = {"time": "time", "run": "a child", "batch": "a batch", "token": "a token"}


@dataclass(slots=True)
class Span:
    """Something that took time; `ended_at` is None while it goes on."""

    id: str
    parent_id: str | None
    run_id: str
    message: str
    started_at: datetime
    ended_at: datetime | None = None
    attempt: int | None = None
    is_error: bool = False
    is_canceled: bool = False
    properties: Json = field(default_factory=dict)
    events: list[Json] = field(default_factory=list)


@dataclass(slots=True)
class Trace:
    """Spans, parents before their children; `is_cut`: the run has more to tell than was read."""

    id: str
    spans: list[Span]
    is_cut: bool

    def tree(self) -> Iterator[tuple[Span, list[Span]]]:
        """Each span with its children, in the order of their beginnings."""
        children: dict[str | None, list[Span]] = {}
        for span in sorted(self.spans, key=lambda one: one.started_at):
            children.setdefault(span.parent_id, []).append(span)
        for span in self.spans:
            yield span, children.get(span.id, [])


def span_id(run_id: str, what: str, number: int = 0) -> str:
    """16 hexadecimal digits, as telemetry has them."""
    return hashlib.sha256(f"{run_id} {what} {number}".encode()).hexdigest()[:16]


def trace_id(run: Run) -> str:
    """One for a whole tree of runs."""
    return hashlib.sha256((run.root_run_id or run.id).encode()).hexdigest()[:32]


def trace(
    run: Run,
    attempts: Sequence[Attempt],
    story: Sequence[Event],
    lines: Sequence[LogLine],
    children: Sequence[Run],
    *,
    is_cut: bool,
) -> Trace:
    """The trace of one run."""
    made = _Making(run, attempts)
    for event in story:
        made.tell(event)
    for line in lines:
        said = {"level": line.level, "message": line.message, "stream": line.stream, **_given(line.attributes)}
        made.within(line.at).events.append({"name": "log", "time": line.at, "properties": said})
    for child in children:
        made.add(_of_run(child, made.within(child.created_at).id))
    for span in made.spans:
        span.events.sort(key=lambda event: event["time"])
    return Trace(trace_id(run), made.spans, is_cut)


def _given(attributes: Json) -> Json:
    return {"attributes": attributes} if attributes else {}


def _of_run(run: Run, parent_id: str | None) -> Span:
    return Span(
        span_id(run.id, "run"),
        parent_id,
        run.id,
        run.task_id,
        run.created_at,
        run.finished_at,
        is_error=run.state in ENDS and run.state not in _OK,
        is_canceled=run.state == RunState.CANCELED,
        properties={"taskIdentifier": run.task_id, "status": STATUS[RunState(run.state)]},
    )


class _Making:
    """The spans so far, and those that go on at this point of the story."""

    def __init__(self, run: Run, attempts: Sequence[Attempt]) -> None:
        self._run = run
        self._root = _of_run(run, None)
        self.spans = [self._root]
        self._attempts = {attempt.number: self.add(self._of_attempt(attempt)) for attempt in attempts}
        self._open: dict[str, Span] = {}

    def _of_attempt(self, attempt: Attempt) -> Span:
        return Span(
            span_id(self._run.id, "attempt", attempt.number),
            self._root.id,
            self._run.id,
            f"attempt {attempt.number}",
            attempt.dequeued_at,
            attempt.finished_at,
            attempt.number,
            is_error=attempt.outcome is not None and attempt.outcome not in _OK,
            is_canceled=attempt.outcome == _CANCELED,
            properties={"version": attempt.version, "workerId": attempt.worker_id}
            | ({"error": attempt.error} if attempt.error else {}),
        )

    def add(self, span: Span) -> Span:
        self.spans.append(span)
        return span

    def within(self, at: datetime) -> Span:
        """The attempt in which this instant falls; the latest, if it is after its end; else the run."""
        before = [span for span in self._attempts.values() if span.started_at <= at]
        return before[-1] if before else self._root

    def tell(self, event: Event) -> None:
        attempt = self._attempts.get(event.attempt or 0, self._root)
        kind, data = event.kind, event.data
        if kind == "run.triggered":
            self._begin("queued", event, self._root)
        elif kind == "run.dequeued":
            self._end(event, "queued")
            self._begin("restored" if data.get("checkpoint_id") else "started", event, attempt)
        elif kind == "run.started":
            self._end(event, "started")
        elif kind == "run.waiting":
            kinds = ", ".join(_WAITED_FOR.get(str(each), str(each)) for each in data.get("kinds", ()))
            self._begin("waits", event, attempt, f"waits for {kinds}")
        elif kind in ("run.suspended", "run.moved"):
            self._begin("frozen", event, attempt)
            if kind == "run.moved":
                self._begin("queued", event, attempt)
        elif kind == "run.resuming":
            self._end(event, "waits")
            if "frozen" in self._open:
                self._begin("queued", event, attempt)
        elif kind == "run.resumed":
            self._end(event, "frozen", "restored", "waits")
        elif kind in _AGAIN:
            self._end(event, *(self._open.keys() - {"queued"}))
            self._begin("queued", event, self._root)
            attempt.events.append(_event(event))
        elif kind.removeprefix("run.") in ENDS:
            self._end(event, *tuple(self._open))
            self._root.events.append(_event(event))
        else:
            attempt.events.append(_event(event))

    def _begin(self, what: str, event: Event, parent: Span, message: str | None = None) -> None:
        if what not in self._open:
            id = span_id(self._run.id, what, event.id)
            span = Span(id, parent.id, self._run.id, message or what, event.at, attempt=event.attempt)
            span.properties = dict(event.data)
            self._open[what] = self.add(span)

    def _end(self, event: Event, *what: str) -> None:
        for each in what:
            if (span := self._open.pop(each, None)) is not None:
                span.ended_at = max(event.at, span.started_at)


def _event(event: Event) -> Json:
    return {"name": event.kind, "time": event.at, "properties": event.data}
